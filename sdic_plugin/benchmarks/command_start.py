"""How soon `sdic` answers: help, complaints, and the first edited photo, beside what the imports cost.

Run: python -m sdic_plugin.benchmarks.command_start [--runs 5]

Every line is a process of its own; they take turns, and medians are printed. The work of the edit (loading the bundled
model, inverting, editing, pasting back, writing) is timed within a process that has done it once, so that what is
left of the command's time is starting it. Times are elapsed time by default; `--cpu` takes processor time instead,
which tells something on a machine that is busy with other things as well.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

EDIT = tuple("edit --example chelsea --model cats64 --edit warmth=1.5 --paste-back difference --out out".split())

COMMANDS: Mapping[str, Sequence[str]] = {
    "sdic --version": ["--version"],
    "sdic --help": ["--help"],
    "sdic edit --help": ["edit", "--help"],
    "sdic edits import --help": ["edits", "import", "--help"],
    "an unknown option": ["edit", "--ouput", "out"],
    "a strength that is none": ["edit", "cat.jpg", "--out", "out", "--edit", "warmth=much"],
    "a folder without photos": ["invert", ".", "--out", "out"],
    "a model that is none": ["sample", "--model", "no model", "--out", "out"],
    "a port that is none": ["demo", "--port", "0"],
}
"""Answers that need no network, by what they are."""

NOTHING, DIFFUSERS, WHOLE = "python -c pass", "import diffusers", "sdic edit --example chelsea …"

WORK_AGAIN = f"""
import time
from sdic_plugin.commands.cli import main
main({list(EDIT)})
before = time.perf_counter(), time.process_time()
main({list(EDIT)})
print(time.perf_counter() - before[0], time.process_time() - before[1])
"""


def measure(runs: int, cpu: bool = False) -> dict[str, float]:
    """Time everything in turns: median seconds by line, and of the edit's work under "work"."""
    python = [sys.executable]
    lines: dict[str, list[str]] = {NOTHING: [*python, "-c", "pass"], DIFFUSERS: [*python, "-c", "import diffusers"]}
    lines |= {name: [*python, "-m", "sdic_plugin", *words] for name, words in COMMANDS.items()}
    lines[WHOLE] = [*python, "-m", "sdic_plugin", *EDIT]
    seconds: dict[str, list[float]] = {name: [] for name in [*lines, "work"]}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(runs):
            for name, line in lines.items():
                seconds[name].append(_time(line, Path(folder), cpu))
            said = subprocess.run(
                [*python, "-c", WORK_AGAIN], cwd=folder, capture_output=True, text=True, check=True
            ).stdout
            seconds["work"].append(float(said.splitlines()[-1].split()[cpu]))
    return {name: statistics.median(each) for name, each in seconds.items()}


def _time(line: Sequence[str], folder: Path, cpu: bool) -> float:
    """Seconds of a process, elapsed or of its processors."""
    before, started = _children(), time.perf_counter()
    subprocess.run(line, cwd=folder, capture_output=True, check=False, env={**os.environ, "COLUMNS": "80"})
    return _children() - before if cpu else time.perf_counter() - started


def _children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def to_markdown(seconds: Mapping[str, float]) -> str:
    """Lay the times out as a table, with the ratios to the two imports, and the ratio of the edit's start below."""
    rows = ["| process | s | x `python -c pass` | x `import diffusers` |", "|---|---|---|---|"]
    for name, value in seconds.items():
        if name != "work":
            ratios = f"{value / seconds[NOTHING]:.1f} | {value / seconds[DIFFUSERS]:.2f}"
            rows.append(f"| {name} | {value:.3f} | {ratios} |")
    start = seconds[WHOLE] - seconds["work"]
    rows.append(
        f"\nThe edit's own work takes {seconds['work']:.2f} s; its start, {start:.2f} s, is "
        f"{start / seconds[DIFFUSERS]:.2f} times `import diffusers`."
    )
    return "\n".join(rows)


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="times that each process is run")
    parser.add_argument("--cpu", action="store_true", help="processor time instead of elapsed time")
    options = parser.parse_args()
    print(to_markdown(measure(options.runs, options.cpu)))


if __name__ == "__main__":
    main()
