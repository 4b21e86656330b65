"""Learning curves of runs, drawn from their logs; needs matplotlib (`pip install "sdic-plugin[eval]"`).

Run: python -m sdic_plugin.training.curves RUN [RUN …] --out FILE.png

Several runs are drawn one after the other, as parts of one training.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sdic_plugin.errors import SDICError
from sdic_plugin.training.tracking import LOG_NAME
from sdic_plugin.utils.files import replacing_file

NOT_LOSSES = ("step", "loss", "images_per_second", "gpu_memory")
WINDOW = 9
"""Logged values whose running mean is drawn."""


@dataclass
class Curves:
    """What the logs of runs hold, end to end.

    Attributes:
        parts: Step at which each run begins.
        validation: Points (step, value) of figures on held-out images, by name.
        losses: The same of the training's terms.
    """

    parts: list[int] = field(default_factory=list)
    validation: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    losses: dict[str, list[tuple[int, float]]] = field(default_factory=dict)


def read_curves(runs: Sequence[Path]) -> Curves:
    """Read the logs of runs, folders that `sdic train` wrote.

    Raises:
        SDICError: If a run has no log that can be read, or an empty one.
    """
    curves, begin = Curves(), 0
    for run in runs:
        curves.parts.append(begin)
        lines = _read_log(run / LOG_NAME)
        for line in lines:
            for name, value in line.items():
                if name in NOT_LOSSES:
                    continue
                group = curves.validation if name.startswith("validation") else curves.losses
                group.setdefault(name, []).append((begin + int(line["step"]), value))
        begin += max(int(line["step"]) for line in lines)
    return curves


def _read_log(path: Path) -> list[dict[str, float]]:
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise SDICError(f"The log {path} cannot be read ({error}): give folders that `sdic train` wrote.") from error
    if not lines:
        raise SDICError(f"The log {path} is empty: train for at least `log_every` steps.")
    return lines


def draw_curves(curves: Curves, path: Path) -> None:
    """Draw validation figures and loss terms as a PNG, whole or not at all.

    Raises:
        SDICError: If matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise SDICError(
            'The curves need matplotlib, which is not installed: run `pip install "sdic-plugin[eval]"`.'
        ) from None
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    for axes, group, title in zip(
        figure.subplots(1, 2), (curves.validation, curves.losses), ("held-out images", "training terms"), strict=True
    ):
        for name, points in group.items():
            steps, values = [step for step, _ in points], [value for _, value in points]
            if group is curves.losses:
                values = _running_mean(values)
            axes.plot(steps, values, label=name.removeprefix("validation_"), linewidth=1.4)
        for begin in curves.parts[1:]:
            axes.axvline(begin, color="black", linewidth=0.8, linestyle=":", alpha=0.6)
        axes.set_title(title, fontsize=11)
        axes.set_xlabel("steps (dotted: the next run)" if len(curves.parts) > 1 else "steps")
        axes.grid(alpha=0.3)
        if group:
            axes.legend(fontsize=8, frameon=False)
    if all(value > 0 for points in curves.losses.values() for _, value in points):
        figure.axes[1].set_yscale("log")
    with replacing_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100)


def _running_mean(values: Sequence[float]) -> list[float]:
    half = WINDOW // 2
    windows = (values[max(i - half, 0) : i + half + 1] for i in range(len(values)))
    return [sum(window) / len(window) for window in windows]


def main() -> None:
    """Parse the command line and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, help="output folders of sdic train, in order")
    parser.add_argument("--out", type=Path, required=True, help="PNG file to write")
    options = parser.parse_args()
    draw_curves(read_curves(options.runs), options.out)


if __name__ == "__main__":
    main()
