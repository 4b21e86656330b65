"""Settings that every training stage has, read from TOML, checked on construction, saved with the run.

Each stage's own settings stand beside its loop.
"""

from __future__ import annotations

import dataclasses
import json
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from sdic_plugin.errors import SDICError


@dataclass
class TrainingConfig:
    """Settings that every stage has.

    Attributes:
        data: Folder or zip of training images.
        output: Folder of the run; a run that stands there already is resumed.
        model: What to build on: a folder (a pipeline, or components such as an earlier stage or `sdic convert` wrote),
            a bundled name, or a Hub id. A stage goes on from the networks of its own that it finds there.
        from_scratch: Train the stage's own networks anew, even where `model` has them.
        validation: Folder or zip of held-out images to report on, or None.
        validation_images: Number of them to use.
        steps: Optimiser steps.
        batch_size: Images per step, over all processes.
        learning_rate: Peak learning rate of Adam.
        decay_from: Fraction of the run after which the learning rate falls linearly to 0.
        gradient_clip: Largest gradient norm.
        ema_decay: Decay per step of the moving average of the weights, which is what the run saves.
        mixed_precision: "no", "bf16" or "fp16".
        horizontal_flips: Whether to mirror images at random.
        seed: Seed of the order of images, flips and initial weights.
        log_every: Steps between two lines of the log.
        sample_every: Steps between two sample sheets and validations.
        checkpoint_every: Steps between two checkpoints.
        keep_checkpoints: Number of checkpoints to keep.
    """

    data: str
    output: str
    model: str | None = None
    from_scratch: bool = False
    validation: str | None = None
    validation_images: int = 64
    steps: int = 10_000
    batch_size: int = 32
    learning_rate: float = 1e-3
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

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            SDICError: Naming the first value out of range.
        """
        for name in ("steps", "batch_size", "log_every", "sample_every", "checkpoint_every", "keep_checkpoints"):
            if int(getattr(self, name)) < 1:
                raise SDICError(f"{name} is {getattr(self, name)}, but must be at least 1.")
        if not self.learning_rate > 0:
            raise SDICError(f"learning_rate is {self.learning_rate}, but must be positive.")
        for name in ("decay_from", "ema_decay"):
            if not 0 <= getattr(self, name) <= 1:
                raise SDICError(f"{name} is {getattr(self, name)}, but must lie in [0, 1].")
        if self.mixed_precision not in ("no", "bf16", "fp16"):
            raise SDICError(f'mixed_precision is {self.mixed_precision!r}, but must be "no", "bf16" or "fp16".')

    def save(self, path: Path) -> None:
        """Write the settings as JSON."""
        path.write_text(json.dumps(dataclasses.asdict(self), indent=2) + "\n")


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
