"""Settings that every training stage has, read from TOML, checked on construction, saved with the run.

Each stage's own settings stand beside its loop.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import Field

from sdic_plugin.errors import SDICError, short_reason, shorten
from sdic_plugin.training.capture import Compile
from sdic_plugin.training.settings import (
    BatchSize,
    Betas,
    Count,
    EachOnce,
    GradientClip,
    LearningRate,
    Number,
    Place,
    Seed,
    Settings,
    Share,
    Text,
    rules_of,
)
from sdic_plugin.utils.files import replacing_file
from sdic_plugin.utils.precision import Precision

LARGEST_FILE = 2**20
"""Largest settings file, in bytes."""


@dataclass
class TrainingConfig(Settings):
    """Settings that every stage has.

    Attributes:
        data: Training images: a folder, a zip, or `dataset:NAME_OR_FOLDER[@REVISION][:SPLIT]` (see `images.sources`).
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
        mixed_precision: "no", "bf16", "fp16", or "auto": "bf16" where the device is faster in it, else "no". A
            run keeps the precision that it started with.
        compile: "yes", "no", or "auto": "yes" where a compiler is and the run is long enough to pay for it. A run
            keeps what it started with. See `sdic_plugin.training.capture`.
        balance: Columns of the images' labels; images whose combination of values is rare are drawn more often.
        balance_power: How much more: 1 draws each combination equally often, 0 as often as it occurs.
        labels: CSV file of the labels; None takes that among the images (see `images.labels`).
        horizontal_flips: Whether to mirror images at random.
        seed: Seed of the order of images, flips and initial weights.
        log_every: Steps between two lines of the log.
        sample_every: Steps between two sample sheets and validations.
        checkpoint_every: Steps between two checkpoints.
        keep_checkpoints: Number of checkpoints to keep.
        trackers: Where to log beside `log.jsonl`: "tensorboard" or nothing.
    """

    MAY_CHANGE: ClassVar[frozenset[str]] = frozenset(
        "output cache data labels validation validation_images steps log_every sample_every checkpoint_every "
        "keep_checkpoints trackers gradient_accumulation compile".split()
    )
    """Settings with which a run may be resumed otherwise than it was started."""

    data: Place
    output: Place
    model: Place | None = None
    from_scratch: bool = False
    validation: Place | None = None
    validation_images: Annotated[int, Field(ge=1, le=1_000_000)] = 64
    validation_share: Annotated[Number, Field(ge=0, lt=1)] = 0.0
    steps: Annotated[int, Field(ge=1, le=99_999_999)] = 10_000
    batch_size: BatchSize = 32
    gradient_accumulation: BatchSize = 1
    learning_rate: LearningRate = 1e-3
    adam_betas: Betas = field(default_factory=lambda: [0.9, 0.99])
    decay_from: Share = 0.5
    gradient_clip: GradientClip = 1.0
    ema_decay: Share = 0.998
    mixed_precision: Precision = "no"
    compile: Compile = "auto"
    balance: Annotated[list[Text], EachOnce] = field(default_factory=list)
    balance_power: Share = 0.5
    labels: Place | None = None
    horizontal_flips: bool = True
    seed: Seed = 0
    log_every: Count = 50
    sample_every: Count = 500
    checkpoint_every: Count = 500
    keep_checkpoints: Count = 2
    trackers: Annotated[list[Literal["tensorboard"]], EachOnce] = field(default_factory=list)
    cache: Place | None = None

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            SDICError: Naming the first value out of range.
        """
        super().__post_init__()
        if self.batch_size % self.gradient_accumulation:
            raise SDICError(
                f"batch_size {self.batch_size} cannot be divided into gradient_accumulation "
                f"{self.gradient_accumulation} equal micro-batches: choose a multiple of it."
            )
        if self.labels is not None and not self.balance:
            raise SDICError(
                f"labels names {shorten(self.labels)}, but nothing is balanced by them: set balance to some of their "
                "columns."
            )

    def save(self, path: Path) -> None:
        """Write the settings as JSON, whole or not at all."""
        with replacing_file(path) as temporary:
            temporary.write_text(json.dumps(dataclasses.asdict(self), indent=2) + "\n")


RECIPES = Path(__file__).parent / "recipes"

Config = TypeVar("Config", bound=Settings)


def load_config(cls: type[Config], path: str | Path | None, assignments: Sequence[str]) -> Config:
    """Read settings from a TOML file, then apply `key=value` assignments.

    Text is written bare, other values as in TOML. `key=none` takes back what the file says, so that the setting has
    its default, whatever its type; where "none" is one of a setting's choices, it is that choice.

    Args:
        cls: A dataclass of settings.
        path: The file, or the name of a recipe of this package, such as "cats64_encoder"; None for no file.
        assignments: Of the command line.

    Raises:
        SDICError: In one sentence, for an unreadable file, or the first setting that is unknown, missing or wrong.
    """
    values = {} if path is None else _read_settings(path)
    rules = rules_of(cls)
    for assignment in assignments:
        key, separator, text = assignment.partition("=")
        key = key.strip()
        if not separator:
            raise SDICError(f"The setting {shorten(assignment)} has no value: write key=value.")
        if key not in rules:
            values[key] = text
        elif rules[key].unsets(text):
            values.pop(key, None)
        else:
            values[key] = rules[key].read(text)
    _check_names(cls, values)
    return cls(**values)


def _read_settings(path: str | Path) -> dict[str, Any]:
    recipes = {recipe.stem: recipe for recipe in sorted(RECIPES.glob("*.toml"))}
    file = recipes.get(str(path), path)
    try:
        if not os.path.isfile(file):  # a device or a pipe could be read without end
            raise OSError("there is no such file")
        if os.path.getsize(file) > LARGEST_FILE:
            raise OSError(f"it has more than {LARGEST_FILE} bytes")
        return tomllib.loads(Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        # The names of all recipes help where the name was wrong, not where a file of that name is.
        advice = "mend it" if os.path.isfile(file) else f"give a TOML file, or a recipe ({', '.join(recipes)})"
        raise SDICError(
            f"The settings file {shorten(str(path))} cannot be read ({short_reason(error)}): {advice}."
        ) from error


def _check_names(cls: type[Settings], values: Mapping[str, object]) -> None:
    """Raise SDICError if a setting is unknown, telling which name is nearest, or one without a default is missing."""
    known = rules_of(cls)
    unknown = sorted(values.keys() - known.keys())
    if unknown:
        near = difflib.get_close_matches(unknown[0].lower(), known, n=1, cutoff=0.5)
        advice = f"perhaps {near[0]} was meant" if near else f"the docstring of {cls.__name__} lists those there are"
        raise SDICError(f"The settings {shorten(unknown)} are unknown to this stage: {advice}.")
    missing = [each.name for each in dataclasses.fields(cls) if _is_required(each) and each.name not in values]
    if missing:
        raise SDICError(
            f"The settings are incomplete, for {' and '.join(missing)} have no value: give them in the file or with "
            f"--set {missing[0]}=…."
        )


def _is_required(setting: dataclasses.Field[Any]) -> bool:
    return setting.default is dataclasses.MISSING and setting.default_factory is dataclasses.MISSING
