"""Settings of the training stages: one dataclass each, read from TOML, checked on construction, saved with the run."""

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


@dataclass
class EncoderTrainingConfig(TrainingConfig):
    """e4e on a frozen generator (Tov et al., 2021).

    Attributes:
        generator: Folder with the `generator` component and, for the perceptual loss, the `discriminator`.
        start_from: Folder with an `encoder` component to go on from, whose widths are then kept; None starts anew.
        stage_channels: See `E4EEncoder`.
        stage_units: See `E4EEncoder`.
        head_channels: See `E4EEncoder`.
        pixel_weight: Weight of the mean squared error in [-1, 1].
        perceptual_weight: Weight of the perceptual loss.
        offset_weight: Weight of the offsets' squared norm (e4e's delta regularisation).
        adversarial_weight: Weight of the latent discriminator's loss; 0 leaves it out.
        r1_weight: Weight of the latent discriminator's gradient penalty.
        progressive_from: Fraction of the run after which the first offset joins.
        progressive_until: Fraction of the run after which all offsets have joined.
    """

    generator: str = ""
    start_from: str | None = None
    stage_channels: list[int] = dataclasses.field(default_factory=lambda: [64, 128, 256, 512])
    stage_units: list[int] = dataclasses.field(default_factory=lambda: [3, 4, 14, 3])
    head_channels: int = 512
    pixel_weight: float = 1.0
    perceptual_weight: float = 0.8
    offset_weight: float = 2e-4
    adversarial_weight: float = 0.0
    r1_weight: float = 10.0
    progressive_from: float = 0.05
    progressive_until: float = 0.25


@dataclass
class CompensationTrainingConfig(TrainingConfig):
    """DIPN and DICN with generator and encoder frozen (SDIC, section 3.4; weights as published).

    Attributes:
        model: Folder with the `generator` and `encoder` components and, for the perceptual loss, `discriminator`.
        encoder: Folder with the `encoder` component, if it is not in `model`.
        branch_channels: See `DIPN`.
        matching_channels: See `DIPN`.
        volume_channels: See `DIPN`.
        head_channels: See `DIPN`.
        condition_channels: See `DICN`.
        condition_size: See `DICN`.
        stem_channels: See `DICN`.
        pixel_weight: Weight of the mean squared error in [-1, 1].
        perceptual_weight: Weight of the perceptual loss.
        change_weight: Weight of the squared change of features and latents, which keeps the compensation small.
        feature_share: Share of the features in that change; the latents have the rest.
        discrepancy_weight: λ_D, weight of L1(D, image − initial).
    """

    model: str = ""
    encoder: str | None = None
    branch_channels: list[int] = dataclasses.field(default_factory=lambda: [16, 24, 32, 96, 160])
    matching_channels: int = 24
    volume_channels: list[int] = dataclasses.field(default_factory=lambda: [8, 16, 32, 48])
    head_channels: int = 16
    condition_channels: int = 18
    condition_size: int = 64
    stem_channels: list[int] = dataclasses.field(default_factory=lambda: [32, 64])
    pixel_weight: float = 1.0
    perceptual_weight: float = 0.8
    change_weight: float = 0.5
    feature_share: float = 0.8
    discrepancy_weight: float = 0.0


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
