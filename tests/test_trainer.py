"""The trainer: processes, micro-batches, killed and changed runs, full disks, logs."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from trainer_run import Net, make_config, make_images, make_trainer, run, run_and_save

from sdic_plugin import CheckpointError, SDICError, StyleGAN2Discriminator
from sdic_plugin.training.checkpoints import folders, newest_checkpoint
from sdic_plugin.training.config import TrainingConfig, load_config
from sdic_plugin.training.data import batch_indices, flip_at_random, step_rng, to_range
from sdic_plugin.training.tracking import remove_lines_after
from sdic_plugin.training.trainer import Trainer

SCRIPT = Path(__file__).with_name("trainer_run.py")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Runs here and in processes of their own are compared bit by bit, which the number of threads would change."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def start(processes: int, *runs: dict) -> subprocess.Popen:
    """Start `trainer_run.py` in processes of its own."""
    environment = {**os.environ, "PYTHONPATH": str(SCRIPT.parents[1]), "ACCELERATE_USE_CPU": "true"}
    environment |= {"OMP_NUM_THREADS": "1"}
    command = [sys.executable]
    if processes > 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command += ["-m", "torch.distributed.run", f"--nproc_per_node={processes}", "--master_addr=127.0.0.1"]
        command += [f"--master_port={port}"]
    return subprocess.Popen([*command, str(SCRIPT), *map(json.dumps, runs)], env=environment, stderr=subprocess.PIPE)


def finish(process: subprocess.Popen) -> None:
    errors = process.communicate(timeout=900)[1].decode()
    assert process.returncode == 0, errors[-3000:]


def log(output: Path, key: str) -> list[float]:
    lines = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    return [line[key] for line in lines if key in line]


def final(output: Path, rank: int = 0) -> dict:
    return torch.load(output / f"final_{rank}.pt", weights_only=True)


def assert_same_weights(one: dict, other: dict) -> None:
    assert one.keys() == other.keys()
    assert [key for key in one if not torch.equal(one[key], other[key])] == []


def networks(output: Path) -> dict:
    """Weights, averages and optimiser moments of a run's newest checkpoint."""
    contents = newest_checkpoint(output).contents
    flat = {}
    for name, content in contents.items():
        if name.endswith(".pt"):
            content = {f"{i}.{k}": v for i, state in content["state"].items() for k, v in state.items()}
        flat |= {f"{name}/{key}": value for key, value in content.items()}
    return flat


# ------------------------------------------------------------------------------------------------ several processes

KINDS = {
    "none": {},
    "frozen": {"norm": "frozen"},
    "live": {"norm": "live"},
    "noise": {"noise": True},
    "micro": {"settings": {"gradient_accumulation": 2}},
}


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory) -> Path:
    """Runs of two processes, one per kind."""
    folder = tmp_path_factory.mktemp("two")
    finish(start(2, *({"output": str(folder / kind), "settings": {}, **KINDS[kind]} for kind in KINDS)))
    assert final(folder / "none")["processes"] == 2
    return folder


@pytest.fixture(scope="module")
def one_process(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("one")
    for kind in ("none", "frozen", "live", "noise"):
        run_and_save(folder / kind, **{"settings": {}, **KINDS[kind]})
    return folder


@pytest.mark.parametrize(("kind", "reference"), [("none", "none"), ("frozen", "frozen"), ("micro", "none")])
def test_two_processes_log_the_losses_of_one(two_processes, one_process, kind, reference):
    for key in ("loss", "critic", "validation"):
        two, one = log(two_processes / kind, key), log(one_process / reference, key)
        assert len(two) == len(one) > 2
        assert two == pytest.approx(one, abs=1e-5, rel=0)


def test_live_batch_norm_sees_half_the_batch(two_processes, one_process):
    pairs = zip(log(two_processes / "live", "loss"), log(one_process / "live", "loss"), strict=True)
    gaps = [abs(two - one) for two, one in pairs]
    print(f"\nlive BatchNorm, 2 processes against 1: largest gap of the loss {max(gaps):.4f}, first {gaps[0]:.2e}")
    assert 1e-5 < max(gaps) < 0.1


@pytest.mark.parametrize("kind", list(KINDS))
def test_processes_hold_the_same_weights_and_statistics(two_processes, kind):
    first, second = (final(two_processes / kind, rank) for rank in (0, 1))
    assert_same_weights(first["net"], second["net"])
    assert_same_weights(first["average"], second["average"])


def test_processes_draw_their_own_noise_and_can_share_it(two_processes, one_process):
    first, second, alone = (
        final(two_processes / "noise"),
        final(two_processes / "noise", 1),
        final(one_process / "noise"),
    )
    assert first["own"] == first["shared"] == second["shared"] == alone["own"]
    assert second["own"] != first["own"]


def test_only_the_main_process_writes(two_processes):
    steps = [json.loads(line)["step"] for line in (two_processes / "none" / "log.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4, 5, 5, 6, 7, 8, 9, 10, 10, 11, 12, 12]
    assert [folder.name for folder in folders(two_processes / "none")] == ["step_00000009", "step_00000012"]


# ------------------------------------------------------------------------------------------------ micro-batches


def test_micro_batches_give_the_losses_of_a_whole_batch(one_process, tmp_path):
    trainer = run(make_config(tmp_path, gradient_accumulation=4))
    assert log(tmp_path, "critic") == pytest.approx(log(one_process / "none", "critic"), abs=1e-5, rel=0)
    assert trainer._pending == {}


def test_micro_batches_share_the_images_and_draw_their_own_noise(tmp_path):
    trainer = make_trainer(make_config(tmp_path, gradient_accumulation=2, steps=1, horizontal_flips=False))
    seen, draws = [], []

    def step(images):
        seen.append(images)
        draws.append((trainer.rng(7).initial_seed(), torch.rand(()).item()))
        trainer.optimize(trainer.models["net"](images, both=True).mean(), "net")
        return {"loss": 0.0}

    trainer.train(step, dict)
    expected = to_range(make_images()[batch_indices(37, 8, seed=0, step=0)])
    assert torch.equal(torch.stack(seen, dim=1).flatten(0, 1), expected)
    assert len(set(draws)) == 2
    assert draws[0][0] == step_rng(0, 0, 7).initial_seed()


def test_batch_that_cannot_be_divided_is_named(tmp_path):
    with pytest.raises(SDICError, match="batch_size 8 cannot be divided into gradient_accumulation 3"):
        make_config(tmp_path, gradient_accumulation=3)


# ------------------------------------------------------------------------------------------------ one step


def test_images_and_noise_of_a_step_depend_on_the_seed_and_the_step_alone(tmp_path):
    trainer = make_trainer(make_config(tmp_path, seed=5))
    for trainer.step in (0, 1, 2, 7, 2):
        expected = to_range(make_images()[batch_indices(37, 8, seed=5, step=trainer.step)])
        expected = flip_at_random(expected, step_rng(5, trainer.step))
        assert torch.equal(trainer.batch(), expected)
        assert torch.equal(trainer.batch(), expected)
        assert trainer.rng(3).initial_seed() == step_rng(5, trainer.step, 3).initial_seed()


def test_only_the_named_networks_receive_gradients(tmp_path):
    trainer = make_trainer(make_config(tmp_path))
    images = trainer.batch()
    told = trainer.models["net"](images, both=True)
    trainer.optimize(trainer.models["critic"](images * told[:, :, None, None], both=True).sum(), "net")
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in trainer.models["net"].parameters())
    assert all(p.grad is None for p in trainer.models["critic"].parameters())


def test_average_follows_the_weights(tmp_path):
    trainer = make_trainer(make_config(tmp_path, steps=3), norm="live")
    expected = {key: value.clone() for key, value in trainer.averages["net"].state_dict().items()}

    def step(images):
        loss = trainer.models["net"](images, both=True).mean()
        trainer.optimize(loss, "net")
        for key, value in trainer.unwrap("net").state_dict().items():
            decay = min(0.5, (trainer.step + 1) / (trainer.step + 10))
            expected[key] = torch.lerp(expected[key], value, 1 - decay) if value.is_floating_point() else value
        return {"loss": loss.item()}

    trainer.train(step, dict)
    for key, value in trainer.averages["net"].state_dict().items():
        torch.testing.assert_close(value, expected[key])


def test_betas_reach_the_optimizers(tmp_path):
    trainer = make_trainer(make_config(tmp_path, adam_betas=[0.0, 0.5]))
    assert {optimizer.param_groups[0]["betas"] for optimizer in trainer.optimizers.values()} == {(0.0, 0.5)}


def test_stages_of_one_program_may_differ_in_precision(tmp_path):
    run(make_config(tmp_path / "a", steps=1))
    half = run(make_config(tmp_path / "b", steps=1, mixed_precision="bf16", gradient_accumulation=2))
    assert half.accelerator.mixed_precision == "bf16"
    assert run(make_config(tmp_path / "c", steps=1)).accelerator.gradient_accumulation_steps == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="only GPUs scale the loss")
def test_float16_resumes_with_its_loss_scale(tmp_path):
    run(make_config(tmp_path, mixed_precision="fp16", steps=6))
    saved = newest_checkpoint(tmp_path).info["scaler"]
    assert saved["scale"] > 0
    resumed = make_trainer(make_config(tmp_path, mixed_precision="fp16"))
    assert resumed.accelerator.scaler.state_dict() == saved


# ------------------------------------------------------------------------------------------------ killed runs


def wait_for_lines(path: Path, count: int, process: subprocess.Popen) -> None:
    deadline = time.time() + 600
    while process.poll() is None and time.time() < deadline:
        if path.exists() and path.read_bytes().count(b"\n") >= count:
            return
        time.sleep(0.02)
    raise AssertionError(f"the run ended before line {count}: {process.communicate()[1].decode()[-2000:]}")


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


def test_two_processes_of_which_one_is_killed_end_with_the_same_weights(two_processes, tmp_path):
    arguments = {"output": str(tmp_path), "settings": {}, "noise": True}
    process = start(2, arguments)
    wait_for_lines(tmp_path / "log.jsonl", random.randint(4, 9), process)
    os.kill(int((tmp_path / f"pid_{random.randint(0, 1)}").read_text()), signal.SIGKILL)
    process.communicate()
    assert process.returncode != 0
    finish(start(2, arguments))
    assert_same_weights(networks(two_processes / "noise"), networks(tmp_path))
    assert_same_weights(final(two_processes / "noise", 1)["net"], final(tmp_path, 1)["net"])


@pytest.mark.parametrize(("number", "error"), [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)])
def test_signals_leave_nothing_half_written(tmp_path, number, error):
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


# ------------------------------------------------------------------------------------------------ logs and results


def test_tensorboard_shows_the_figures_of_the_log(tmp_path):
    run(make_config(tmp_path, steps=6, trackers=["tensorboard"]))
    run(make_config(tmp_path, steps=8, trackers=["tensorboard"]))
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    scalars = events.Scalars("loss")
    assert [event.step for event in scalars] == list(range(1, 9))
    assert [event.value for event in scalars] == pytest.approx(log(tmp_path, "loss"))


def test_tracker_that_is_not_installed_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(
        SDICError, match=r"tensorboard, which is not installed: run pip install 'sdic-plugin\[train\]'"
    ):
        run(make_config(tmp_path, trackers=["tensorboard"]))


def test_lines_after_the_checkpoint_and_torn_lines_leave_the_log(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1, "loss": 1.0}\n{"step": 2, "loss": 2.0}\n{"step": 3}\n{"step": 2, "lo')
    remove_lines_after(path, 2)
    assert path.read_text() == '{"step": 1, "loss": 1.0}\n{"step": 2, "loss": 2.0}\n'


def test_average_is_saved_whole(tmp_path):
    discriminator = StyleGAN2Discriminator(resolution=8, channels={"4": 4, "8": 4})
    trainer = Trainer(make_config(tmp_path), {"judge": discriminator}, ["judge"], make_images())
    for _ in range(2):  # the second time over the first
        trainer.save_average("judge")
    saved = load_file(tmp_path / "judge/diffusion_pytorch_model.safetensors")
    assert_same_weights(saved, trainer.averages["judge"].state_dict())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "judge"]


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("adam_betas=[0.9]", "adam_betas is .*two numbers"),
        ("adam_betas=0.9", "adam_betas is 0.9"),
        ("gradient_accumulation=0", "gradient_accumulation is 0"),
        ("gradient_accumulation=5", "cannot be divided into gradient_accumulation 5"),
        ("steps=many", "steps is 'many', but must be a whole number"),
        ("batch_size=2.5", "batch_size is 2.5"),
        ("seed=-1", "seed is -1"),
        ("validation_share=1.0", "validation_share is 1.0"),
        ("trackers=tensorboard", "trackers is 'tensorboard'"),
        ('trackers=["wandb"]', "trackers is .'wandb'."),
        ("learning_rate=nan", "learning_rate is nan"),
    ],
)
def test_wrong_settings_are_named(assignment, message):
    with pytest.raises(SDICError, match=message):
        load_config(TrainingConfig, None, ["data=a", "output=b", assignment])
