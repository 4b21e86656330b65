"""Brightness and colour of video: how a change of red, green and blue changes what a frame stores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

COEFFICIENTS = {1: (0.2126, 0.0722), 9: (0.2627, 0.0593), 10: (0.2627, 0.0593)}
"""Shares of red and of blue in brightness, by FFmpeg's number of a colour space (BT.709, BT.2020)."""

USUAL_COEFFICIENTS = (0.299, 0.114)
"""BT.601, which FFmpeg takes where nothing is said."""

FULL_RANGE = 2
"""FFmpeg's number of brightness from 0 to 255, rather than from 16 to 235."""


@dataclass(frozen=True)
class Colours:
    """How brightness and colour are coded, in FFmpeg's numbers.

    Attributes:
        space: Matrix between red, green, blue and what is stored.
        range: `FULL_RANGE`, or another one for what is usual.
        primaries: Meaning of red, green and blue.
        transfer: Meaning of brightness.
    """

    space: int
    range: int
    primaries: int
    transfer: int

    @classmethod
    def of(cls, frame: Any) -> Colours:
        """Read what a frame of PyAV says."""
        full = FULL_RANGE if frame.format.name.startswith("yuvj") else int(frame.color_range)
        return cls(int(frame.colorspace), full, int(frame.color_primaries), int(frame.color_trc))

    def change(self, rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Turn a change of red, green and blue into one of brightness, blueness and redness.

        Args:
            rgb: [h, w, 3], of values in [0, 255].

        Returns:
            Three arrays [h, w].
        """
        red, blue = COEFFICIENTS.get(self.space, USUAL_COEFFICIENTS)
        luma = rgb @ np.array([red, 1 - red - blue, blue], rgb.dtype)
        light, colour = (1.0, 1.0) if self.range == FULL_RANGE else (219 / 255, 224 / 255)
        blueness = (rgb[..., 2] - luma) * np.float32(colour / (2 * (1 - blue)))
        redness = (rgb[..., 0] - luma) * np.float32(colour / (2 * (1 - red)))
        return luma * np.float32(light), blueness, redness
