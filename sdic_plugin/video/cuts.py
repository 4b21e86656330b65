"""Where a video cuts from one shot to another: nothing is smoothed across, and a face is chosen anew."""

from __future__ import annotations

from collections import deque

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 48, 27
"""Of the small grey pictures that are compared."""

FINE = 180
"""Rows and columns of a frame, at least, that those are made of: the others tell nothing more."""

LEAST, TIMES = 0.35, 4.0
"""A cut differs from the frame before by this share at least, and by this many times what frames before did."""

BEFORE = 8
"""Frames before whose differences are compared with."""


class CutFinder:
    """Says of each frame whether a new shot begins with it.

    Frames are compared by what is in them, not by how bright they are: a flash, or a fade of the light, is no cut.
    """

    def __init__(self) -> None:
        self._last: np.ndarray | None = None
        self._differences: deque[float] = deque(maxlen=BEFORE)

    def is_cut(self, luma: np.ndarray) -> bool:
        """Take the next frame's brightness [h, w], uint8."""
        every = max(1, min(luma.shape) // FINE)
        pixels = np.ascontiguousarray(luma[::every, ::every])
        small = Image.fromarray(pixels).resize((WIDTH, HEIGHT), Image.Resampling.BOX)
        picture = np.asarray(small, dtype=np.float32)
        picture = picture - picture.mean()
        picture /= np.float32(max(float(np.linalg.norm(picture)), 1.0))
        last, self._last = self._last, picture
        if last is None:
            return False
        difference = 1 - float((picture * last).sum())  # 0: the same; 1: nothing in common
        usual = float(np.median(self._differences)) if self._differences else 0.0
        if difference > LEAST and difference > TIMES * usual:
            self._differences.clear()
            return True
        self._differences.append(difference)
        return False
