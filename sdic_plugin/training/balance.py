"""Which images are drawn more often than others: those whose labels are rare, so that a model serves everybody alike.

Images of one combination of labels, n of them, weigh n^−power each. An epoch has as many images as there are; how
often each is among them is drawn systematically: by its weight, up to the next whole number below or above.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from sdic_plugin.images.labels import read_labels

if TYPE_CHECKING:
    from sdic_plugin.images.cache import ImageSet
    from sdic_plugin.training.config import TrainingConfig


@dataclass(frozen=True, eq=False)  # each is itself alone, and can be a key
class SamplingWeights:
    """How often images are drawn.

    Attributes:
        values: [N], float64, of mean 1.
    """

    values: torch.Tensor

    @classmethod
    def of_labels(cls, labels: Sequence[Hashable], power: float) -> SamplingWeights:
        """Weigh images by how rare their labels are.

        Args:
            labels: Of each image, whatever can be counted.
            power: 1 to draw each label equally often, 0 as often as it occurs.
        """
        counts = Counter(labels)
        values = torch.tensor([counts[label] ** -power for label in labels], dtype=torch.float64)
        return cls(values / values.mean())

    def __str__(self) -> str:
        """What tells them from others: a hash."""
        return hashlib.sha256(self.values.numpy().tobytes()).hexdigest()[:16]

    def epoch(self, rng: torch.Generator) -> torch.Tensor:
        """Draw an epoch of N images, in the order of their indices, [N]."""
        count = len(self.values)
        ends = self.values.cumsum(0)
        points = (torch.arange(count, dtype=torch.float64) + torch.rand(1, generator=rng).double()) / count
        return torch.searchsorted(ends / ends[-1], points).clamp(max=count - 1)


def sampling_weights(config: TrainingConfig, images: ImageSet) -> SamplingWeights:
    """Weigh a run's images by the columns of labels that `balance` names.

    Raises:
        SDICError: If there are no labels, or they lack a column or an image.
    """
    columns = read_labels(config.data, images.names, config.balance, config.labels)
    return SamplingWeights.of_labels(list(zip(*columns.values(), strict=True)), config.balance_power)
