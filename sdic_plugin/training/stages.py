"""The stages of a training by their names: what each is told, and what it runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdic_plugin.training.compensation import CompensationTrainingConfig, train_compensation
from sdic_plugin.training.config import TrainingConfig, load_config
from sdic_plugin.training.encoder import EncoderTrainingConfig, train_encoder
from sdic_plugin.training.generator import train_generator
from sdic_plugin.training.generator_config import GeneratorTrainingConfig
from sdic_plugin.training.transport import TransportTrainingConfig, train_transport


@dataclass(frozen=True)
class Stage:
    """A stage.

    Attributes:
        settings: Class of its settings.
        train: Trains with them; returns the folder of the model.
    """

    settings: type[TrainingConfig]
    train: Callable[[Any], Path]

    def load(self, source: str | None, assignments: Sequence[str]) -> TrainingConfig:
        """Read its settings, see `load_config`."""
        return load_config(self.settings, source, assignments)


STAGES = {
    "generator": Stage(GeneratorTrainingConfig, train_generator),
    "encoder": Stage(EncoderTrainingConfig, train_encoder),
    "compensation": Stage(CompensationTrainingConfig, train_compensation),
    "transport": Stage(TransportTrainingConfig, train_transport),
}
