"""Checks of the files and folders that a run's settings name, before any work is done."""

from __future__ import annotations

import os
from pathlib import Path

from sdic_plugin.errors import SDICError, shorten
from sdic_plugin.images.cache import cache_folder, unwritable_cache
from sdic_plugin.images.sources import Folder, open_source
from sdic_plugin.training.config import TrainingConfig
from sdic_plugin.utils.files import why_not_writable

RUN_FOLDERS = ("", "checkpoints", "samples", "model", "tensorboard")
RUN_FILES = ("config.json", "log.jsonl")
FILES = ("lpips", "identity", "labels")
"""Settings that name files of weights, or of labels."""


def check_places(config: TrainingConfig) -> None:
    """Raise SDICError if a place that the settings name cannot serve; no file is read or left behind.

    The images must be a folder, a zip or a data set's name, weights must be files or folders, and the run's folder and
    the cache must be such that they can be written to.
    """
    images = open_source(config.data)
    if config.validation is not None:
        open_source(config.validation)
    for name in FILES:
        path = getattr(config, name, None)
        if path is not None and not (os.path.isfile(path) or os.path.isdir(path)):
            raise SDICError(f"{name} is {shorten(path)}, where there is neither a file nor a folder: check the path.")
    _check_output(Path(config.output))
    cache = Path(config.cache or cache_folder())
    reason = why_not_writable(cache)
    if reason is not None:
        raise SDICError(unwritable_cache(cache, f"cannot be written ({reason})"))
    # Sample sheets would be found among the images when the run is resumed, and be refused as other images.
    if isinstance(images, Folder) and Path(config.output).resolve().is_relative_to(images.path.resolve()):
        raise SDICError(
            f"The output {shorten(config.output)} lies in the folder of the images, {shorten(config.data)}, so that "
            "the run's own pictures would become training images: name another folder."
        )


def _check_output(output: Path) -> None:
    folders = [output / name for name in RUN_FOLDERS]
    reasons: list[str | None] = [
        f"{shorten(str(each))} is no folder" for each in folders if os.path.exists(each) and not os.path.isdir(each)
    ]
    reasons += [why_not_writable(each) for each in folders]
    reasons += [f"{name} in it is no file" for name in RUN_FILES if os.path.isdir(output / name)]
    reason = next((each for each in reasons if each is not None), None)
    if reason is not None:
        raise SDICError(
            f"The output {shorten(str(output))} cannot be written ({reason}): name a folder for the run with `output`."
        )
