"""Sampling pictures through affine transforms without aliasing, and the small mathematics of such transforms.

Coordinates follow the convention of `sdic_plugin.alignment`: pixel centres are at integer + 0.5.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

Matrix = tuple[tuple[float, float, float], tuple[float, float, float]]
"""Affine transform ((a, b, c), (d, e, f)): x' = a x + b y + c, y' = d x + e y + f."""

SUPERSAMPLING = 3
"""Samples per output pixel and axis when a picture is shrunk."""

MIN_ENLARGEMENT, MAX_ENLARGEMENT = 2.0, 8.0


# ------------------------------------------------------------------------------------------------ transforms


def apply_affine(matrix: Matrix, points: np.ndarray | Sequence) -> np.ndarray:
    """Map points [..., 2] (x, y), in float64."""
    transform = np.asarray(matrix, dtype=np.float64)
    return np.asarray(points, dtype=np.float64) @ transform[:, :2].T + transform[:, 2]


def compose(outer: Matrix, inner: Matrix) -> Matrix:
    """Transform that applies `inner` first."""
    square = np.vstack([np.asarray(inner, dtype=np.float64), (0, 0, 1)])
    return as_matrix(np.asarray(outer, dtype=np.float64) @ square)


def invert_similarity(matrix: Matrix) -> Matrix:
    """Inverse of a similarity."""
    (a, _, c), (b, _, f) = matrix
    scale = a * a + b * b
    a, b = a / scale, b / scale
    return ((a, b, -a * c - b * f), (-b, a, b * c - a * f))


def as_matrix(values: np.ndarray) -> Matrix:
    """Turn an array [2, 3] into plain numbers."""
    return tuple(tuple(float(value) for value in row) for row in values)


def is_similarity(matrix: Matrix) -> bool:
    """Whether a transform only rotates, scales and shifts."""
    (a, b, _), (d, e, _) = matrix
    scale = math.hypot(a, d)
    return scale > 0 and abs(a - e) <= 1e-9 * scale and abs(b + d) <= 1e-9 * scale


# ------------------------------------------------------------------------------------------------ sampling


def resample(picture: np.ndarray, matrix: Matrix, width: int, height: int) -> np.ndarray:
    """Sample a picture [h, w, C] at every output pixel, without aliasing.

    When the picture shrinks it is reduced to `SUPERSAMPLING` samples per output pixel first, sampled that densely,
    and averaged down, so that fine detail becomes its mean. When it grows it is enlarged along its own axes first,
    because Pillow's cubic kernel for transforms ripples between pixels and the one for resizing does not.

    Args:
        picture: Numbers of any type; continued by reflection beyond its border.
        matrix: Output coordinates to picture coordinates.
        width: Width of the output.
        height: Height of the output.

    Returns:
        [height, width, C], float32.
    """
    step = math.sqrt(abs(matrix[0][0] * matrix[1][1] - matrix[0][1] * matrix[1][0]))  # picture px per output px
    samples = SUPERSAMPLING if step > 1 + 1e-6 else 1
    if step > 1 + 1e-6:
        scale = min(1.0, samples / step)
    else:
        scale = 1.0 if _is_whole_shift(matrix) else min(max(1 / step, MIN_ENLARGEMENT), MAX_ENLARGEMENT)
    picture, matrix = _needed_part(picture, matrix, width, height, margin=4 + math.ceil(8 * step))
    picture = picture.astype(np.float32)  # only now: a large photo is four times as large in float
    picture, matrix = _rescale(picture, matrix, scale)
    if samples == 1:
        return _warp(picture, matrix, width, height)
    border = 3  # output pixels, so that those at the edge are averaged like the others
    matrix = compose(matrix, ((1 / samples, 0, -border), (0, 1 / samples, -border)))
    wide, high = width + 2 * border, height + 2 * border
    sampled = resize(_warp(picture, matrix, wide * samples, high * samples), wide, high)
    return sampled[border : border + height, border : border + width]


def _is_whole_shift(matrix: Matrix) -> bool:
    """Whether output pixels fall on picture pixels, so that sampling is a copy."""
    values = np.asarray(matrix)
    return bool(np.allclose(values[:, :2], np.eye(2), atol=1e-6) and np.allclose(values[:, 2] % 1, 0, atol=1e-6))


def _reach(matrix: Matrix, width: int, height: int, margin: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixel columns and rows that the output touches; some may lie beyond the picture's border."""
    corners = apply_affine(matrix, [(0, 0), (width, 0), (width, height), (0, height)])
    left, top = np.floor(corners.min(axis=0)).astype(int) - margin
    right, bottom = np.ceil(corners.max(axis=0)).astype(int) + margin
    return np.arange(left, right), np.arange(top, bottom)


def _needed_part(
    picture: np.ndarray, matrix: Matrix, width: int, height: int, margin: int
) -> tuple[np.ndarray, Matrix]:
    """Cut away what the output never touches; borders that it reflects at stay borders."""
    columns, rows = _reach(matrix, width, height, margin)
    columns, rows = _reflect(columns, picture.shape[1]), _reflect(rows, picture.shape[0])
    left, top = int(columns.min()), int(rows.min())
    part = picture[top : rows.max() + 1, left : columns.max() + 1]
    return part, compose(((1, 0, -left), (0, 1, -top)), matrix)


def _rescale(picture: np.ndarray, matrix: Matrix, scale: float) -> tuple[np.ndarray, Matrix]:
    """Resize the picture by about `scale`, and the matrix by exactly what that came to."""
    old_height, old_width = picture.shape[:2]
    width, height = max(1, round(old_width * scale)), max(1, round(old_height * scale))
    return resize(picture, width, height), compose(((width / old_width, 0, 0), (0, height / old_height, 0)), matrix)


def _warp(picture: np.ndarray, matrix: Matrix, width: int, height: int) -> np.ndarray:
    """Sample bicubically at output pixel centres, [h, w, C] -> [height, width, C]; reflected beyond the border."""
    columns, rows = _reach(matrix, width, height, margin=3)  # the cubic kernel's reach, and rounding
    window = picture[np.ix_(_reflect(rows, picture.shape[0]), _reflect(columns, picture.shape[1]))]
    (a, b, c), (d, e, f) = compose(((1, 0, -int(columns[0])), (0, 1, -int(rows[0]))), matrix)
    return _per_channel(
        window,
        lambda channel: channel.transform(
            (width, height), Image.Transform.AFFINE, (a, b, c, d, e, f), Image.Resampling.BICUBIC
        ),
    )


def _reflect(index: np.ndarray, length: int) -> np.ndarray:
    """Fold pixel indices into [0, length) by reflection at the border line: -1 -> 0, length -> length - 1."""
    folded = index % (2 * length)
    return np.where(folded < length, folded, 2 * length - 1 - folded)


def resize(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    """Resize [h, w, C] to [height, width, C], float32, without aliasing."""
    if picture.shape[:2] == (height, width):
        return picture
    kernel = Image.Resampling.LANCZOS if width < picture.shape[1] else Image.Resampling.BICUBIC
    return _per_channel(picture, lambda channel: channel.resize((width, height), kernel))


def _per_channel(picture: np.ndarray, change: Callable[[Image.Image], Image.Image]) -> np.ndarray:
    """Apply a PIL operation to every channel as float pixels, so that nothing is rounded or clipped on the way."""
    channels = [np.ascontiguousarray(picture[..., index]) for index in range(picture.shape[-1])]
    return np.stack([np.asarray(change(Image.fromarray(channel))) for channel in channels], axis=-1)


def to_float(picture: Image.Image) -> np.ndarray:
    """RGB picture -> [h, w, 3], float32 in [0, 255]."""
    return np.asarray(picture, dtype=np.float32)


def to_picture(values: np.ndarray) -> Image.Image:
    """[h, w, 3] -> RGB picture, rounded and clipped."""
    return Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8))
