"""Settings that every training stage has, read from TOML, checked on construction, saved with the run.

Each stage's own settings stand beside its loop.
"""

from __future__ import annotations

import dataclasses
import json
import math
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, TypeVar

from sdic_plugin.atomic import replacing_file
from sdic_plugin.errors import SDICError
from sdic_plugin.precision import PRECISIONS

COUNTS = (
    "steps",
    "batch_size",
    "gradient_accumulation",
    "log_every",
    "sample_every",
    "checkpoint_every",
    "keep_checkpoints",
    "validation_images",
)
"""Settings that are whole numbers from 1 on."""

TRACKERS = ("tensorboard",)


@dataclass
class TrainingConfig:
    """Settings that every stage has.

    Attributes:
        data: Training images: a folder, a zip, or "dataset:NAME_OR_FOLDER[@REVISION][:SPLIT]" (see `data_sources`).
        cache: Folder for the decoded images; None takes the environment's SDIC_CACHE, or ~/.cache/sdic_plugin.
        output: Folder of the run; a run that stands there already is resumed (see `checkpoints` for what may change).
        model: What to build on: a folder (a pipeline, or components such as an earlier stage or `sdic convert` wrote),
            a bundled name, or a Hub id. A stage goes on from the networks of its own that it finds there.
        from_scratch: Train the stage's own networks anew, even where `model` has them.
        validation: Held-out images to report on, given like `data`, or None.
        validation_images: Number of them to use.
        validation_share: Fraction of `data` to hold out for that where `validation` is None, chosen by a hash of the
            file names; 0 trains on all images, and reports on the first of them.
        steps: Optimiser steps.
        batch_size: Images per optimiser step, over all processes and micro-batches.
        gradient_accumulation: Micro-batches per optimiser step, which divide the batch.
        learning_rate: Peak learning rate of Adam.
        adam_betas: The two decay rates of Adam's moments.
        decay_from: Fraction of the run after which the learning rate falls linearly to 0.
        gradient_clip: Largest gradient norm.
        ema_decay: Decay per step of the moving average of the weights, which is what the run saves.
        mixed_precision: "no", "bf16", "fp16", or "auto": "bf16" on devices that have instructions for it, else "no". A
            run keeps the precision that it started with.
        horizontal_flips: Whether to mirror images at random.
        seed: Seed of the order of images, flips and initial weights.
        log_every: Steps between two lines of the log.
        sample_every: Steps between two sample sheets and validations.
        checkpoint_every: Steps between two checkpoints.
        keep_checkpoints: Number of checkpoints to keep.
        trackers: Where to log beside `log.jsonl`: "tensorboard" or nothing.
    """

    MAY_CHANGE: ClassVar[frozenset[str]] = frozenset(
        "output cache data validation validation_images steps log_every sample_every checkpoint_every "
        "keep_checkpoints trackers gradient_accumulation".split()
    )
    """Settings with which a run may be resumed otherwise than it was started."""

    data: str
    output: str
    model: str | None = None
    from_scratch: bool = False
    validation: str | None = None
    validation_images: int = 64
    validation_share: float = 0.0
    steps: int = 10_000
    batch_size: int = 32
    gradient_accumulation: int = 1
    learning_rate: float = 1e-3
    adam_betas: list[float] = field(default_factory=lambda: [0.9, 0.99])
    decay_from: float = 0.5
    gradient_clip: float = 1.0
    ema_decay: float = 0.998
    mixed_precision: str = "no"
    horizontal_flips: bool = True
    seed: int = 0
    log_every: int = 50
    sample_every: int = 500
    checkpoint_every: int = 500
    keep_checkpoints: int = 2
    trackers: list[str] = field(default_factory=list)
    cache: str | None = None

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            SDICError: Naming the first value out of range.
        """
        for name in COUNTS:
            self._check_number(name, "a whole number from 1 on", lambda value: value == int(value) and value >= 1)
        self._check_number("seed", "a whole number from 0 on", lambda value: value == int(value) and value >= 0)
        self._check_number("learning_rate", "positive", lambda value: value > 0)
        for name in ("decay_from", "ema_decay"):
            self._check_number(name, "in [0, 1]", lambda value: 0 <= value <= 1)
        self._check_number("validation_share", "in [0, 1)", lambda value: 0 <= value < 1)
        if self.batch_size % self.gradient_accumulation:
            raise SDICError(
                f"batch_size {self.batch_size} cannot be divided into gradient_accumulation "
                f"{self.gradient_accumulation} equal micro-batches: choose a multiple of it."
            )
        betas = self.adam_betas
        if not isinstance(betas, list | tuple) or len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
            raise SDICError(f"adam_betas is {betas!r}, but must be a list of two numbers in [0, 1).")
        if not isinstance(self.trackers, list | tuple) or not set(self.trackers) <= set(TRACKERS):
            raise SDICError(
                f"trackers is {self.trackers!r}, but must be a list with nothing but {list(TRACKERS)} in it."
            )
        if self.mixed_precision not in PRECISIONS:
            needed = ", ".join(PRECISIONS)
            raise SDICError(f"mixed_precision is {self.mixed_precision!r}, but must be one of {needed}.")

    def _check_number(self, name: str, needed: str, fits: Callable[[float], bool]) -> None:
        value = getattr(self, name)
        if not isinstance(value, int | float) or not math.isfinite(value) or not fits(value):
            raise SDICError(f"{name} is {value!r}, but must be {needed}.")

    def save(self, path: Path) -> None:
        """Write the settings as JSON, whole or not at all."""
        with replacing_file(path) as temporary:
            temporary.write_text(json.dumps(dataclasses.asdict(self), indent=2) + "\n")


RECIPES = Path(__file__).parent / "recipes"

Config = TypeVar("Config", bound=TrainingConfig)


def load_config(cls: type[Config], path: str | Path | None, assignments: list[str]) -> Config:
    """Read a stage's settings from a TOML file, then apply `key=value` assignments (values as in TOML, or bare text).

    `path` may also be the name of a recipe of this package, such as "cats64_encoder".

    Raises:
        SDICError: For an unreadable file, an unknown key, or a missing one.
    """
    values: dict = {}
    if path is not None:
        recipe = RECIPES / f"{path}.toml"
        path = recipe if recipe.is_file() else Path(path)
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise SDICError(f"The settings file {path} cannot be read ({error}): give a TOML file.") from error
    for assignment in assignments:
        key, separator, text = assignment.partition("=")
        if not separator:
            raise SDICError(f"The setting {assignment!r} has no value: write key=value.")
        try:
            values[key.strip()] = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            values[key.strip()] = text
    known = {field.name for field in dataclasses.fields(cls)}
    unknown = sorted(values.keys() - known)
    if unknown:
        raise SDICError(f"The settings {unknown} are unknown; this stage knows {sorted(known)}.")
    try:
        return cls(**values)
    except TypeError as error:
        raise SDICError(f"The settings are incomplete ({error}): give them in the file or with --set.") from error
