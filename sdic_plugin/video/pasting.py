"""Putting what an edit changed into a frame of video, as brightness and colour are stored, with a soft border.

Nothing but the crop's neighbourhood is touched; every other pixel keeps the value that the original was decoded to.
The change is turned into brightness and colour, and faded towards its border, while it is as small as the crop.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image

from sdic_plugin.images.alignment import FEATHER, Alignment, Box, covered_box
from sdic_plugin.images.resampling import compose, resize
from sdic_plugin.video.colours import Colours
from sdic_plugin.video.smoothing import ramp

MOST_ENLARGED = 8
"""Times that a crop is enlarged smoothly along its own axes; beyond, straight lines join its pixels."""


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
    box = covered_box(alignment)
    if box is None or strength <= 0 or not difference.any():
        return
    height, width = planes[0].shape
    # In whole pairs of pixels, for which there is one sample of colour.
    left, top = box[0] // 2 * 2, box[1] // 2 * 2
    right, bottom = min((box[2] + 1) // 2 * 2, width), min((box[3] + 1) // 2 * 2, height)
    stored = np.stack(colours.change(difference * np.float32(strength)), axis=-1)
    luma = fade(stored[..., :1], alignment, FEATHER)
    _add(planes[0][top:bottom, left:right], place(luma[..., 0], alignment, (left, top, right, bottom)))
    half = (left // 2, top // 2, right // 2, bottom // 2)
    colour = fade(stored[..., 1:], alignment, FEATHER, scale=2)
    for channel, plane in enumerate(planes[1:]):
        _add(plane[half[1] : half[3], half[0] : half[2]], place(colour[..., channel], alignment, half, scale=2))


def fade(difference: np.ndarray, alignment: Alignment, feather: float, scale: int = 1) -> np.ndarray:
    """Bring a difference about to the size that it has in a plane of the frame, and fade it towards its border.

    Args:
        difference: [ch, cw, C], float32.
        alignment: Where the crop lies in the frame.
        feather: Width of the soft border, a fraction of the crop's width in [0, 0.5].
        scale: Pixels of the frame along the side of a pixel of the plane.

    Returns:
        [fh, fw, C], no larger than `MOST_ENLARGED` times the crop.
    """
    height, width = difference.shape[:2]
    growth = min(math.dist(*alignment.quad[:2]) / width / scale, MOST_ENLARGED)
    sized = resize(difference, max(1, round(width * growth)), max(1, round(height * growth)))
    border = feather * sized.shape[1]
    across, down = (_window(length, border) for length in sized.shape[1::-1])
    return sized * (down[:, None] * across)[..., None]


def place(values: np.ndarray, alignment: Alignment, box: Box, scale: int = 1) -> np.ndarray:
    """Lay one channel of what `fade` returned into the frame.

    Args:
        values: [fh, fw], float32.
        alignment: Where the crop lies in the frame.
        box: Part of the frame: left, top, right and bottom, in pixels of the plane.
        scale: Pixels of the frame along the side of a pixel of the plane.

    Returns:
        [bottom - top, right - left], float32; 0 beyond the crop.
    """
    stretch = (values.shape[1] / alignment.crop_size[0], values.shape[0] / alignment.crop_size[1])
    matrix = compose(((stretch[0], 0, 0), (0, stretch[1], 0)), alignment.matrix)
    matrix = compose(matrix, ((scale, 0, scale * box[0]), (0, scale, scale * box[1])))
    picture = Image.fromarray(np.ascontiguousarray(values))
    size, kind = (box[2] - box[0], box[3] - box[1]), Image.Transform.AFFINE
    return np.array(picture.transform(size, kind, (*matrix[0], *matrix[1]), Image.Resampling.BILINEAR))


def _window(length: int, border: float) -> np.ndarray:
    """Weights [length] of pixels along one side: 1, but rising from 0 over the border."""
    inset = np.minimum(np.arange(length) + 0.5, length - 0.5 - np.arange(length))
    return (ramp(inset / border) if border > 0 else np.ones(length)).astype(np.float32)


def _add(pixels: np.ndarray, change: np.ndarray) -> None:
    change += pixels
    np.clip(np.rint(change, out=change), 0, 255, out=change)
    pixels[...] = change.astype(np.uint8)
