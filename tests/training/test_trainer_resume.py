"""Resuming: killed and changed runs, damaged checkpoints, full disks."""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from testing.trainer_run import Net, make_config, make_images, make_trainer, run
from testing.trainer_runs import assert_same_weights, log, networks, one_thread, start, wait_for_lines

from sdic_plugin import CheckpointError, SDICError
from sdic_plugin.training.checkpoints import folders, newest_checkpoint
from sdic_plugin.training.trainer import Trainer


@pytest.fixture(scope="module", autouse=True)
def single_thread():
    with one_thread():
        yield


# ------------------------------------------------------------------------------------------------ killed runs


@pytest.mark.slow  # test_training.py kills a run at a given step by default
def test_run_killed_at_a_random_step_ends_with_the_same_weights(tmp_path):
    settings = {"steps": 60, "checkpoint_every": 7, "sample_every": 50}
    run(make_config(tmp_path / "whole", **settings), norm="live", noise=True)
    process = start(1, {"output": str(tmp_path / "killed"), "settings": settings, "norm": "live", "noise": True})
    wait_for_lines(tmp_path / "killed/log.jsonl", random.randint(8, 40), process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    reached = newest_checkpoint(tmp_path / "killed").step
    assert 0 < reached < 60
    trainer = run(make_config(tmp_path / "killed", **settings), norm="live", noise=True)
    assert_same_weights(networks(tmp_path / "whole"), networks(tmp_path / "killed"))
    assert newest_checkpoint(tmp_path / "whole").info["state"] == trainer.state
    assert log(tmp_path / "whole", "loss") == log(tmp_path / "killed", "loss")


@pytest.mark.parametrize(("number", "error"), [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)])
def test_signals_leave_nothing_half_written(tmp_path, number, error):
    # Processes of pytest-xdist ignore the interrupts that a user's Python raises KeyboardInterrupt for.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    before = signal.getsignal(signal.SIGTERM)
    trainer = make_trainer(make_config(tmp_path))

    def step(images):
        if trainer.step == 7:
            os.kill(os.getpid(), number)
        loss = trainer.models["net"](images, both=True).mean()
        trainer.optimize(loss, "net")
        return {"loss": loss.item()}

    with pytest.raises(error):
        trainer.train(step, dict)
    assert signal.getsignal(signal.SIGTERM) is before
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step_00000003", "step_00000006"]
    assert make_trainer(make_config(tmp_path)).step == 6


# ------------------------------------------------------------------------------------------------ damaged checkpoints


@pytest.fixture(scope="module")
def half_run(tmp_path_factory) -> Path:
    """A run with checkpoints of the steps 3 and 6."""
    folder = tmp_path_factory.mktemp("half")
    run(make_config(folder, steps=6))
    return folder


@pytest.fixture
def begun(half_run, tmp_path) -> Path:
    shutil.copytree(half_run, tmp_path / "run")
    return tmp_path / "run"


def flip_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "bit": lambda folder: flip_bit(folder / "net.safetensors"),
    "truncated": lambda folder: os.truncate(folder / "critic_optimizer.pt", 100),
    "missing": lambda folder: (folder / "net_average.safetensors").unlink(),
    "info": lambda folder: (folder / "checkpoint.json").write_text("{"),
}


@pytest.mark.parametrize("damage", list(DAMAGES))
def test_damaged_newest_checkpoint_is_skipped(begun, one_process, damage):
    DAMAGES[damage](begun / "checkpoints/step_00000006")
    with pytest.warns(UserWarning, match="step_00000006 is damaged and was skipped"):
        run(make_config(begun, keep_checkpoints=1))
    assert_same_weights(networks(one_process / "none"), networks(begun))
    assert [folder.name for folder in folders(begun)] == ["step_00000012"]


def test_run_without_any_readable_checkpoint_is_not_started_over(begun):
    for folder in folders(begun):
        flip_bit(folder / "net.safetensors")
    with pytest.warns(UserWarning), pytest.raises(CheckpointError, match=r"None of the 2 checkpoints .* can be read"):
        make_trainer(make_config(begun))


def test_checkpoint_of_other_networks_is_refused(begun):
    with pytest.raises(CheckpointError, match=r"does not fit the networks.*new output folder"):
        make_trainer(make_config(begun), norm="live")


def test_checkpoint_of_the_first_version_is_resumed(begun, one_process):
    for folder in folders(begun):
        (folder / "checkpoint.json").unlink()
    assert run(make_config(begun)).step == 12
    assert log(begun, "loss") == log(one_process / "none", "loss")
    with pytest.raises(SDICError, match="seed = 0, but now it is 1"):
        (begun / "checkpoints/step_00000012/checkpoint.json").unlink()
        make_trainer(make_config(begun, seed=1))


def test_state_of_a_stage_is_restored(begun, half_run):
    state = make_trainer(make_config(begun)).state
    assert state == {"sum_of_losses": pytest.approx(sum(log(half_run, "loss")))}


# ------------------------------------------------------------------------------------------------ changed settings


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 4}, "batch_size = 8, but now it is 4"),
        ({"seed": 1}, "seed = 0, but now it is 1"),
        ({"adam_betas": [0.0, 0.99]}, r"adam_betas = \[0.9, 0.99\], but now it is \[0.0, 0.99\]"),
        ({"mixed_precision": "bf16"}, "mixed_precision = 'no', but now it is 'bf16'"),
        ({"horizontal_flips": False}, "horizontal_flips = True, but now it is False"),
    ],
)
def test_settings_that_would_make_another_run_are_refused(begun, change, message):
    written = (begun / "config.json").read_text()
    with pytest.raises(SDICError, match=rf"The run in .* was started with {message}.*use a new output folder"):
        make_trainer(make_config(begun, **change))
    assert (begun / "config.json").read_text() == written


def test_other_images_are_refused(begun):
    config = make_config(begun)
    with pytest.raises(SDICError, match=r"data = '37 images, \w+', but now it is '36 images"):
        Trainer(config, {"net": Net(), "critic": Net()}, ["net"], make_images()[:36])


def test_settings_that_do_not_touch_the_weights_may_change(begun, one_process, recwarn):
    moved = begun.with_name("moved")
    begun.rename(moved)
    changes = {"log_every": 2, "sample_every": 4, "checkpoint_every": 4, "keep_checkpoints": 5, "data": "elsewhere"}
    run(make_config(moved, **changes, trackers=["tensorboard"], validation="other", cache="there"))
    assert_same_weights(networks(one_process / "none"), networks(moved))
    assert [str(warning.message) for warning in recwarn if warning.category is UserWarning] == []


def test_changes_that_matter_a_little_are_told(begun):
    with pytest.warns(UserWarning, match="another number of processes or micro-batches"):
        make_trainer(make_config(begun, gradient_accumulation=2))
    run(make_config(begun, steps=9, decay_from=1.0))
    info = begun / "checkpoints/step_00000009/checkpoint.json"
    info.write_text(info.read_text().replace('"decay_from": 1.0', '"decay_from": 0.5'))
    with pytest.warns(UserWarning, match="steps changed from 9 to 20 after the learning rate had begun to fall"):
        make_trainer(make_config(begun, steps=20, decay_from=0.5))


# ------------------------------------------------------------------------------------------------ full disks


@pytest.fixture
def small_disk(tmp_path) -> Path:
    """A disk of 512 KiB, with a run that has a checkpoint of the steps 3 and 6."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("file systems cannot be mounted here")
    run(make_config(folder / "run", steps=6))
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def fill(folder: Path, spare: int) -> Path:
    """Fill a disk but for some bytes."""
    ballast = folder / "ballast"
    free = os.statvfs(folder)
    ballast.write_bytes(bytes(max(free.f_bavail * free.f_frsize - spare, 0)))
    return ballast


@pytest.mark.parametrize("spare", [0, 12_288])
def test_full_disk_stops_the_run_and_leaves_its_last_checkpoint(small_disk, one_process, spare):
    ballast = fill(small_disk, spare)
    with pytest.raises(SDICError, match=r"The disk of .*run is full.*step_0000000\d, is whole.*make room") as error:
        while True:  # a line of the log may still fit
            run(make_config(small_disk / "run"))
            fill(small_disk, 0)
    assert "\n" not in str(error.value)
    assert newest_checkpoint(small_disk / "run").step >= 6
    assert [path.name for path in (small_disk / "run/checkpoints").iterdir() if ".tmp" in path.name] == []
    ballast.unlink()
    run(make_config(small_disk / "run"))
    assert_same_weights(networks(one_process / "none"), networks(small_disk / "run"))
    assert log(small_disk / "run", "loss") == log(one_process / "none", "loss")


def test_file_size_limit_stops_the_run_likewise(begun):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6000, before[1]))
    try:
        with pytest.raises(
            SDICError, match=r"is full, so the run stopped .its last checkpoint, step_00000006, is whole"
        ):
            run(make_config(begun))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert newest_checkpoint(begun).step == 6
    assert sorted(path.name for path in (begun / "checkpoints").iterdir()) == ["step_00000003", "step_00000006"]
