"""Starting `trainer_run.py`, and reading what its runs leave."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from sdic_plugin.training.checkpoints import newest_checkpoint

SCRIPT = Path(__file__).with_name("trainer_run.py")
KINDS = {
    "none": {},
    "frozen": {"norm": "frozen"},
    "live": {"norm": "live"},
    "noise": {"noise": True},
    "micro": {"settings": {"gradient_accumulation": 2}},
}
"""Runs that tests compare: what `run_and_save` takes, by name."""


@contextmanager
def one_thread() -> Iterator[None]:
    """Runs here and in processes of their own are compared bit by bit, which the number of threads would change."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def start(processes: int, *runs: dict) -> subprocess.Popen:
    """Start `trainer_run.py` in processes of its own."""
    return start_script(processes, SCRIPT, *map(json.dumps, runs))


def start_script(processes: int, script: Path, *arguments: str) -> subprocess.Popen:
    """Start a script in processes of its own, by `torchrun` if there are several."""
    paths = os.pathsep.join(map(str, (SCRIPT.parents[2], SCRIPT.parents[1])))
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    if torch.accelerator.is_available():  # elsewhere the trainer sees to it, as it does for users
        environment["ACCELERATE_USE_CPU"] = "true"
    command = [sys.executable]
    if processes > 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command += ["-m", "torch.distributed.run", f"--nproc_per_node={processes}", "--master_addr=127.0.0.1"]
        command += [f"--master_port={port}"]
    return subprocess.Popen([*command, str(script), *arguments], env=environment, stderr=subprocess.PIPE)


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


def wait_for_lines(path: Path, count: int, process: subprocess.Popen) -> None:
    deadline = time.time() + 600
    while process.poll() is None and time.time() < deadline:
        if path.exists() and path.read_bytes().count(b"\n") >= count:
            return
        time.sleep(0.02)
    raise AssertionError(f"the run ended before line {count}: {process.communicate()[1].decode()[-2000:]}")
