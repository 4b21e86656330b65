"""The automatic mask: compensation stays where an edit does nothing, and yields where it acts."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from sdic_plugin.errors import SDICError


@dataclass(frozen=True)
class AutoMask:
    """Says where an edit changes the features at the hook, from the features that the edit's own pass computes.

    Attributes:
        low: Relative change up to which all compensation stays.
        high: Relative change from which none does.
        smoothing: Side of the window, in feature pixels, over which changes are averaged; odd.
    """

    low: float = 0.5
    high: float = 1.5
    smoothing: int = 3

    def __post_init__(self) -> None:
        """Raise SDICError for settings that make no sense."""
        if not 0 <= self.low < self.high < math.inf:
            raise SDICError(f"AutoMask has low {self.low} and high {self.high}, but 0 <= low < high is needed.")
        if self.smoothing < 1 or self.smoothing % 2 == 0:
            raise SDICError(f"AutoMask has smoothing {self.smoothing}, but an odd number of pixels is needed.")

    def keep(self, features: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """How much compensation stays: 1 where the edit changes nothing, 0 where it changes much."""
        change, scale = (features - reference).float(), reference.float()
        change = change.square().mean(dim=1, keepdim=True)
        scale = scale.square().mean(dim=(1, 2, 3), keepdim=True)
        half = self.smoothing // 2
        padded = F.pad(change, (half,) * 4, mode="replicate")
        relative = (F.avg_pool2d(padded, self.smoothing, stride=1) / scale.clamp_min(1e-12)).sqrt()
        return ((self.high - relative) / (self.high - self.low)).clamp(0, 1)
