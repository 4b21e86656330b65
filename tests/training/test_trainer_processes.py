"""The trainer in several processes: the same losses as one, one set of weights, and a killed process."""

from __future__ import annotations

import json
import os
import random
import signal

import pytest
from testing.trainer_runs import KINDS, assert_same_weights, final, finish, log, networks, start, wait_for_lines

from sdic_plugin.training.checkpoints import folders


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


@pytest.mark.slow
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
