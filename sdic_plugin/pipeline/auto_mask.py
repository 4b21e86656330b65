"""The automatic mask: compensation stays where an edit does nothing, and yields where it acts.

After strong edits, compensation can paste the photo's old content back. The mask compares the initial reconstruction
with its edited self, both without compensation. (The feature map itself tells less: it also changes where the picture
stays as it is.) What the edit does to the whole picture alike, such as a warmer tone, does not count: the photo's
detail stays right under it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from sdic_plugin.errors import SDICError

SMALLEST_SHIFT, SURE_SHIFT = 0.1, 0.2
"""Median change of a picture in [-1, 1], mean over its colours: up to the first it is no change of tone, from the
second on it is one."""


@dataclass(frozen=True)
class AutoMask:
    """How far compensation yields to an edit; changes are mean absolute differences of pictures in [-1, 1].

    Attributes:
        low: Change up to which all compensation stays.
        high: Change from which none does.
        smoothing: Side of the window over which changes are averaged, in halves of a pixel of the feature map; odd.
        feather: Side of the window over which the mask itself is averaged, in pixels of the feature map; odd.
    """

    low: float = 0.1
    high: float = 0.24
    smoothing: int = 3
    feather: int = 3

    def __post_init__(self) -> None:
        """Raise SDICError for settings that make no sense."""
        if not 0 <= self.low < self.high < math.inf:
            raise SDICError(f"AutoMask has low {self.low} and high {self.high}, but 0 <= low < high is needed.")
        for name in ("smoothing", "feather"):
            value = getattr(self, name)
            if value < 1 or value % 2 == 0:
                raise SDICError(f"AutoMask has {name} {value}, but an odd number of pixels is needed.")

    def keep(self, edited: torch.Tensor, reference: torch.Tensor, size: int) -> torch.Tensor:
        """Say how much compensation stays.

        Args:
            edited: Picture with the edit, [B, 3, R, R], about [-1, 1].
            reference: The same without it.
            size: Side r of the feature map.

        Returns:
            [B, 1, r, r], float32: 1 where the edit changes nothing, or no more than everywhere, falling to 0 where it
            changes much.
        """
        change = edited.float() - reference.float()
        # A shift of the whole picture's colour leaves the photo's detail right; the median is blind to lesser parts.
        shift = change.flatten(2).median(dim=2).values
        tone = ((shift.abs().mean(dim=1) - SMALLEST_SHIFT) / (SURE_SHIFT - SMALLEST_SHIFT)).clamp(0, 1)
        apart = change - (tone[:, None] * shift)[..., None, None]
        lesser = torch.minimum(*(self._size(part, size) for part in (change, apart)))
        # The least change within each pixel of the feature map: what an edit leaves alone keeps its neighbours whole.
        least = -F.max_pool2d(-lesser, 2)
        return _average(((self.high - least) / (self.high - self.low)).clamp(0, 1), self.feather)

    def _size(self, change: torch.Tensor, size: int) -> torch.Tensor:
        """Mean absolute change around each half of a pixel of the feature map, [B, 1, 2r, 2r]."""
        halves = F.adaptive_avg_pool2d(change.abs().mean(dim=1, keepdim=True), 2 * size)
        return _average(halves, self.smoothing)


def _average(values: torch.Tensor, window: int) -> torch.Tensor:
    """Mean over a window around each pixel; beyond the edges, values go on as they are there."""
    return F.avg_pool2d(F.pad(values, (window // 2,) * 4, mode="replicate"), window, stride=1)
