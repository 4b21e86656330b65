"""What training costs: images per second and peak memory of each stage, at the sizes of the bundled model.

Run: python -m sdic_plugin.benchmarks.training_cost --data D [--from cats64] [--steps 20]

Each stage runs as its own process for a few steps; the rate is that of the second half, so that warming up and reading
the data do not count. Memory is that of the process or, on a GPU, that of the tensors there.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

STAGES = {
    "generator": ("generator", "cats64_generator"),
    "encoder": ("encoder", "cats64_encoder"),
    "compensation": ("compensation", "cats64_compensation"),
    "compensation, DICN alone with edit transfer": ("compensation", "cats64_compensation_second"),
}
"""Stage and recipe, by the name in the table."""


@dataclass
class StageCost:
    """Cost of one stage.

    Attributes:
        name: Of the stage.
        images_per_second: Over the second half of the steps.
        peak_memory: Of the process or, on a GPU, of the tensors there, in bytes.
    """

    name: str
    images_per_second: float
    peak_memory: int


def measure_stage(name: str, data: str, model: str, steps: int, batch_size: int) -> StageCost:
    """Train one stage for a few steps in a process of its own."""
    stage, recipe = STAGES[name]
    with tempfile.TemporaryDirectory() as folder:
        settings = {"data": data, "output": folder, "steps": steps, "batch_size": batch_size, "log_every": 1}
        settings |= {"sample_every": 10 * steps, "checkpoint_every": 10 * steps, "validation_images": 8}
        command = [sys.executable, "-m", "sdic_plugin", "train", stage, "--config", recipe, "--from", model]
        for key, value in settings.items():
            command += ["--set", f"{key}={json.dumps(value)}"]
        process = subprocess.Popen(command)
        _, status, usage = os.wait4(process.pid, 0)
        if status != 0:
            raise SystemExit(f"The stage {name} failed; see above.")
        lines = [json.loads(line) for line in (Path(folder) / "log.jsonl").read_text().splitlines()]
    rates = {line["step"]: line["images_per_second"] for line in lines if "images_per_second" in line}
    unit = 1 if sys.platform == "darwin" else 1024
    return StageCost(name, second_half(rates, batch_size), peak_memory(lines, usage.ru_maxrss * unit))


def peak_memory(lines: list[dict[str, float]], resident: int) -> int:
    """Bytes of a run's tensors on the GPU, where its log has them, else those of the process, `resident`."""
    return max((int(line["gpu_memory"]) for line in lines if "gpu_memory" in line), default=resident)


def second_half(rates: dict[int, float], batch_size: int) -> float:
    """Images per second of the second half of a run, from the averages since its start, by step."""
    first, last = sorted(rates)[len(rates) // 2 - 1], max(rates)
    seconds = [step * batch_size / rates[step] for step in (first, last)]
    return (last - first) * batch_size / (seconds[1] - seconds[0])


def main() -> None:
    """Parse the command line and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder or zip of images")
    parser.add_argument("--from", dest="model", default="cats64", help="model whose networks are trained on")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=32)
    options = parser.parse_args()
    print("| stage | images/s | peak memory |\n|---|---|---|")
    for name in STAGES:
        cost = measure_stage(name, options.data, options.model, options.steps, options.batch_size)
        print(f"| {name} | {cost.images_per_second:.0f} | {cost.peak_memory / 2**30:.1f} GiB |", flush=True)


if __name__ == "__main__":
    main()
