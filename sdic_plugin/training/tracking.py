"""The figures of a run: lines of `log.jsonl`, accelerate's trackers, and the progress bar."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from accelerate import Accelerator
from tqdm.auto import tqdm

from sdic_plugin.errors import SDICError
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
