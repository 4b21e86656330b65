"""Putting what an edit changed into a frame of video, as brightness and colour are stored, with a soft border.

Nothing but the crop's neighbourhood is touched; every other pixel keeps the value that the original was decoded to.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from sdic_plugin.images.alignment import FEATHER, Alignment, Box, covered_box, cut_tiles, feather_weight
from sdic_plugin.images.resampling import TileSampler, compose
from sdic_plugin.video.colours import Colours


def add_difference(
    planes: Sequence[np.ndarray],
    difference: np.ndarray,
    alignment: Alignment,
    colours: Colours,
    strength: float = 1.0,
) -> None:
    """Add a difference of two crops to a frame, in place.

    Args:
        planes: Brightness [h, w], blueness and redness [h / 2, w / 2] of the frame, uint8, h and w even.
        difference: The crop after the edit minus the crop before, [ch, cw, 3], float32 in [-255, 255].
        alignment: Where the crop lies in the frame.
        colours: How the frame is coded.
        strength: How much of it, in [0, 1].
    """
    if strength <= 0 or not difference.any():
        return
    height, width = planes[0].shape
    for (x0, y0, x1, y1), change in place_difference(difference, alignment, width, height):
        change *= np.float32(strength)
        luma, blueness, redness = colours.change(change)
        _add(planes[0][y0:y1, x0:x1], luma)
        for plane, values in zip(planes[1:], (blueness, redness), strict=True):
            _add(plane[y0 // 2 : y1 // 2, x0 // 2 : x1 // 2], _halved(values))


def place_difference(
    difference: np.ndarray, alignment: Alignment, width: int, height: int, feather: float = FEATHER
) -> Iterator[tuple[Box, np.ndarray]]:
    """Yield a difference of crops as it lies in the frame, faded towards the crop's border, tile by tile.

    Args:
        difference: [ch, cw, 3], float32.
        alignment: Where the crop lies in the frame.
        width: Of the frame, even.
        height: Of the frame, even.
        feather: Width of the soft border, a fraction of the crop's width in [0, 0.5].

    Yields:
        Left, top, right and bottom, all even, and the values there, [bottom - top, right - left, 3].
    """
    box = covered_box(alignment)
    if box is None:
        return
    # In whole pairs of pixels, for which there is one sample of colour.
    left, top = box[0] // 2 * 2, box[1] // 2 * 2
    right, bottom = min((box[2] + 1) // 2 * 2, width), min((box[3] + 1) // 2 * 2, height)
    stretch = (difference.shape[1] / alignment.crop_size[0], difference.shape[0] / alignment.crop_size[1])
    matrix = compose(((stretch[0], 0, 0), (0, stretch[1], 0)), alignment.matrix)
    matrix = compose(matrix, ((1, 0, left), (0, 1, top)))
    sampler = TileSampler(difference, matrix, right - left, bottom - top)
    for tile in cut_tiles((left, top, right, bottom)):
        weight = feather_weight(alignment, tile, feather)
        if weight is not None:
            yield tile, sampler.sample(tile[0] - left, tile[1] - top, tile[2] - left, tile[3] - top) * weight


def _halved(values: np.ndarray) -> np.ndarray:
    """Means of 2 x 2 values."""
    height, width = values.shape
    return values.reshape(height // 2, 2, width // 2, 2).mean(axis=(1, 3), dtype=np.float32)


def _add(pixels: np.ndarray, change: np.ndarray) -> None:
    change += pixels
    np.clip(np.rint(change, out=change), 0, 255, out=change)
    pixels[...] = change.astype(np.uint8)
