"""The automatic mask: compensation stays where an edit does nothing, and yields where it acts.

After strong edits, compensation can paste the photo's old content back. The mask compares the generator's image so
far, after the block of the feature hook and without any compensation, with and without the edit. (The feature map
itself tells less: it also changes where the picture stays as it is.) What the edit does to the whole picture
alike, such as a warmer tone, does not count: the photo's detail stays right under it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from sdic_plugin.errors import SDICError


@dataclass(frozen=True)
class AutoMask:
    """How far compensation yields to an edit; changes are mean absolute differences of pictures in [-1, 1].

    Attributes:
        low: Change up to which all compensation stays.
        high: Change from which none does.
        smoothing: Side of the window, in pixels of the feature map, over which changes are averaged; odd.
    """

    low: float = 0.06
    high: float = 0.25
    smoothing: int = 3

    def __post_init__(self) -> None:
        """Raise SDICError for settings that make no sense."""
        if not 0 <= self.low < self.high < math.inf:
            raise SDICError(f"AutoMask has low {self.low} and high {self.high}, but 0 <= low < high is needed.")
        if self.smoothing < 1 or self.smoothing % 2 == 0:
            raise SDICError(f"AutoMask has smoothing {self.smoothing}, but an odd number of pixels is needed.")

    def keep(self, edited: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """Say how much compensation stays.

        Args:
            edited: Low-resolution image with the edit, [B, 3, r, r], about [-1, 1].
            reference: The same without it.

        Returns:
            [B, 1, r, r], float32: 1 where the edit changes nothing, or no more than everywhere, falling to 0 where it
            changes much.
        """
        change = edited.float() - reference.float()
        # A shift of the whole picture's colour leaves the photo's detail right; the median is blind to lesser parts.
        shift = change.flatten(2).median(dim=2).values[..., None, None]
        lesser = torch.minimum(self._smooth(change), self._smooth(change - shift))
        return ((self.high - lesser) / (self.high - self.low)).clamp(0, 1)

    def _smooth(self, change: torch.Tensor) -> torch.Tensor:
        """Mean absolute change around each pixel, [B, 1, r, r]."""
        size = change.abs().mean(dim=1, keepdim=True)
        padded = F.pad(size, (self.smoothing // 2,) * 4, mode="replicate")
        return F.avg_pool2d(padded, self.smoothing, stride=1)
