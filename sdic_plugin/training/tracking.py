"""The figures of a run: lines of `log.jsonl`, accelerate's trackers, and the progress bar."""

from __future__ import annotations

import importlib.util
import itertools
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from accelerate import Accelerator
from tqdm.auto import tqdm

from sdic_plugin.errors import SDICError
from sdic_plugin.training.config import TrainingConfig
from sdic_plugin.utils.files import replacing_file

LOG_NAME = "log.jsonl"
"""A run's log: one JSON object per line, a step and its figures."""


class Tracking:
    """Writes figures, on the main process alone.

    Args:
        accelerator: That of the run, made with `log_with=trackers`.
        output: Folder of the run; TensorBoard's files go to its subfolder `tensorboard`.
        trackers: Names of accelerate's trackers to use.
        step: Step from which the run goes on; what was logged after it is removed.
    """

    def __init__(self, accelerator: Accelerator, output: Path, trackers: Sequence[str], step: int) -> None:
        self.accelerator, self.path, self.trackers = accelerator, output / LOG_NAME, trackers
        if accelerator.is_main_process and self.path.exists():
            remove_lines_after(self.path, step)
        if trackers:
            accelerator.init_trackers("tensorboard", init_kwargs={"tensorboard": {"purge_step": step + 1}})

    def log(self, figures: dict[str, float], step: int) -> None:
        """Log the figures of a step."""
        if not self.accelerator.is_main_process:
            return
        with open(self.path, "a", encoding="utf-8") as log:
            log.write(json.dumps({"step": step, **figures}) + "\n")
        if self.trackers:
            self.accelerator.log(figures, step=step)

    def close(self) -> None:
        """Let the trackers write what they hold back."""
        for tracker in self.accelerator.trackers if self.trackers else ():
            tracker.finish()

    def bar(self, steps: int, step: int) -> tqdm[NoReturn]:
        """Return a progress bar, which only the main process shows."""
        shown = self.accelerator.is_main_process
        return tqdm(total=steps, initial=step, disable=not shown, unit="step", mininterval=2)


WARM_UP_STEPS, MEASURED_STEPS = 3, 16
"""Steps that start slowly, and steps after them by which a run's pace is told: as many as penalties are apart."""

COMPILING = 5
"""A step that takes as many times as long as others compiles something, and is none to go by."""


class Pace:
    """Tells once, soon after a run has begun, what the rest of it will cost.

    Args:
        config: The run's settings.
        step: Step from which it goes on.
    """

    def __init__(self, config: TrainingConfig, step: int) -> None:
        self.config, self.first = config, step + WARM_UP_STEPS
        self._times: list[float] = []

    def sentence(self, step: int, now: float, memory: int | None) -> str | None:
        """What the run costs, in the step in which that is known, else None.

        Args:
            step: Steps taken.
            now: Seconds of a clock.
            memory: Most memory so far, in bytes; None if unknown.
        """
        if self.first <= step <= self.first + MEASURED_STEPS:
            self._times.append(now)
        if step != self.first + MEASURED_STEPS:
            return None
        steps = [after - before for before, after in itertools.pairwise(self._times)]
        longest = COMPILING * statistics.median(steps)
        pace = statistics.fmean(each for each in steps if each <= longest)
        left, size = self.config.steps - step, self.config.batch_size
        taken = "" if memory is None else f"; peak memory {memory / 2**30:.1f} GiB"
        return (
            f"{size / max(pace, 1e-9):.3g} images/s: the remaining {left:,} steps of {size} images will take about "
            f"{in_words(left * pace)}{taken}."
        )


def in_words(seconds: float) -> str:
    """A duration to two units, such as "3 h 20 min"."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"


def check_trackers(trackers: Sequence[str]) -> None:
    """Raise SDICError if a tracker is not installed; accelerate would leave it out with a warning."""
    if "tensorboard" in trackers and importlib.util.find_spec("tensorboard") is None:
        raise SDICError(
            "trackers names tensorboard, which is not installed: run pip install 'sdic-plugin[train]' or leave it out."
        )


def remove_lines_after(path: Path, step: int) -> None:
    """Remove a log's lines of later steps than `step`, and those that a crash left incomplete."""
    text = path.read_text(encoding="utf-8", errors="replace")
    kept = "".join(line + "\n" for line in text.splitlines() if _step_of(line) <= step)
    if kept != text:
        with replacing_file(path) as temporary:
            temporary.write_text(kept, encoding="utf-8")


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return float("inf")
