"""Sampling pictures through affine transforms without aliasing, and the mathematics of such transforms.

Coordinates follow the convention of `sdic_plugin.images.alignment`: pixel centres are at integer + 0.5.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

Matrix = tuple[tuple[float, float, float], tuple[float, float, float]]
"""Affine transform ((a, b, c), (d, e, f)): x' = a x + b y + c, y' = d x + e y + f."""

SUPERSAMPLING = 3
"""Samples per output pixel and axis when a picture is shrunk."""

MIN_ENLARGEMENT, MAX_ENLARGEMENT = 2.0, 8.0

RESIZE_CUBIC, TRANSFORM_CUBIC = -0.5, -1.0
"""The parameter of Keys' cubic kernel in Pillow's resizing, and in its transforms."""


# ------------------------------------------------------------------------------------------------ transforms


def apply_affine(matrix: Matrix, points: ArrayLike) -> np.ndarray:
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


def as_matrix(values: np.ndarray | Sequence[Sequence[float]]) -> Matrix:
    """Turn an array [2, 3] into plain numbers."""
    (a, b, c), (d, e, f) = ((float(value) for value in row) for row in values)
    return (a, b, c), (d, e, f)


def is_similarity(matrix: Matrix) -> bool:
    """Whether a transform only rotates, scales and shifts."""
    (a, b, _), (d, e, _) = matrix
    scale = math.hypot(a, d)
    return scale > 0 and abs(a - e) <= 1e-9 * scale and abs(b + d) <= 1e-9 * scale


# ------------------------------------------------------------------------------------------------ sampling


def resample(picture: np.ndarray | Image.Image, matrix: Matrix, width: int, height: int) -> np.ndarray:
    """Sample a picture [h, w, C] at every output pixel, without aliasing.

    When the picture shrinks it is reduced to `SUPERSAMPLING` samples per output pixel first, sampled that densely,
    and averaged down, so that fine detail becomes its mean. When it grows it is enlarged along its own axes first,
    because Pillow's cubic kernel for transforms ripples between pixels and the one for resizing does not.

    Args:
        picture: Numbers of any type, or a PIL picture, of which only the part that is needed becomes an array;
            continued by reflection beyond its border.
        matrix: Output coordinates to picture coordinates.
        width: Width of the output.
        height: Height of the output.

    Returns:
        [height, width, C], float32.
    """
    shrinks, scale = _choose_scale(matrix)
    picture, matrix = _needed_part(picture, matrix, width, height)
    picture, matrix = _rescale(picture, matrix, scale)
    return _average(picture, matrix, width, height) if shrinks else _warp(picture, matrix, width, height)


class TileSampler:
    """Samples a picture as `resample` does, one tile of the output at a time, which may be as large as a photo.

    Results differ from those of `resample` by float rounding only. Tiles may be sampled in several threads.
    """

    def __init__(self, picture: np.ndarray, matrix: Matrix, width: int, height: int) -> None:
        """Prepare to sample; the arguments are those of `resample`."""
        self._shrinks, scale = _choose_scale(matrix)
        self._picture, matrix = _needed_part(picture, matrix, width, height)
        if self._shrinks:
            self._picture, self._matrix = _rescale(self._picture, matrix, scale)
        else:  # the whole, enlarged, might be larger than a photo, so each tile enlarges its own part
            self._size, self._matrix = _rescaled(self._picture, matrix, scale)

    def sample(self, left: int, top: int, right: int, bottom: int) -> np.ndarray:
        """Return a part of the output, [bottom - top, right - left, C], float32."""
        matrix, width, height = compose(self._matrix, ((1, 0, left), (0, 1, top))), right - left, bottom - top
        if self._shrinks:
            return _average(self._picture, matrix, width, height)
        pixels = _reach(matrix, width, height, margin=3)
        (columns, x_weights), (rows, y_weights) = (
            _enlarging_weights(_reflect(index, size), size, length)
            for index, size, length in zip(pixels, self._size, self._picture.shape[1::-1], strict=True)
        )
        part, (first_x, first_y) = self._picture[rows, columns], (int(index[0]) for index in pixels)
        matrix = compose(((1, 0, -first_x), (0, 1, -first_y)), matrix)
        (a, b, c), (d, e, f) = matrix
        if b or d:
            return _transform(_combine(part, x_weights, y_weights), matrix, width, height)
        # Without rotation or shear each axis can be sampled on its own: far quicker, as products of matrices.
        x_weights = _cubic_weights(a * (np.arange(width) + 0.5) + c, len(x_weights), TRANSFORM_CUBIC) @ x_weights
        y_weights = _cubic_weights(e * (np.arange(height) + 0.5) + f, len(y_weights), TRANSFORM_CUBIC) @ y_weights
        return _combine(part, x_weights, y_weights)


def _choose_scale(matrix: Matrix) -> tuple[bool, float]:
    """Whether a picture shrinks under a transform from output to picture, and by how much to resize it first."""
    step = _step(matrix)
    if step > 1 + 1e-6:
        return True, min(1.0, SUPERSAMPLING / step)
    return False, 1.0 if _is_whole_shift(matrix) else min(max(1 / step, MIN_ENLARGEMENT), MAX_ENLARGEMENT)


def _step(matrix: Matrix) -> float:
    """Picture pixels per output pixel."""
    return math.sqrt(abs(matrix[0][0] * matrix[1][1] - matrix[0][1] * matrix[1][0]))


def _average(picture: np.ndarray, matrix: Matrix, width: int, height: int) -> np.ndarray:
    """Sample `SUPERSAMPLING` times as densely as the output, and average."""
    border = 3  # output pixels, so that those at the edge are averaged like the others
    matrix = compose(matrix, ((1 / SUPERSAMPLING, 0, -border), (0, 1 / SUPERSAMPLING, -border)))
    wide, high = width + 2 * border, height + 2 * border
    sampled = resize(_warp(picture, matrix, wide * SUPERSAMPLING, high * SUPERSAMPLING), wide, high)
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
    picture: np.ndarray | Image.Image, matrix: Matrix, width: int, height: int
) -> tuple[np.ndarray, Matrix]:
    """Cut away what the output never touches; borders that it reflects at stay borders. Returns float32."""
    full_width, full_height = picture.size if isinstance(picture, Image.Image) else picture.shape[1::-1]
    columns, rows = _reach(matrix, width, height, margin=4 + math.ceil(8 * _step(matrix)))
    columns, rows = _reflect(columns, full_width), _reflect(rows, full_height)
    left, top, right, bottom = (int(edge) for edge in (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
    if isinstance(picture, Image.Image):
        part = np.asarray(picture.crop((left, top, right, bottom)))
    else:
        part = picture[top:bottom, left:right]
    # Float only now: a large photo is four times as large then.
    return part.astype(np.float32), compose(((1, 0, -left), (0, 1, -top)), matrix)


def _rescaled(picture: np.ndarray, matrix: Matrix, scale: float) -> tuple[tuple[int, int], Matrix]:
    """Width and height of the picture resized by about `scale`, and the matrix by exactly what that came to."""
    old_height, old_width = picture.shape[:2]
    width, height = max(1, round(old_width * scale)), max(1, round(old_height * scale))
    return (width, height), compose(((width / old_width, 0, 0), (0, height / old_height, 0)), matrix)


def _rescale(picture: np.ndarray, matrix: Matrix, scale: float) -> tuple[np.ndarray, Matrix]:
    """Resize the picture by about `scale`, and the matrix with it."""
    size, matrix = _rescaled(picture, matrix, scale)
    return resize(picture, *size), matrix


def _enlarging_weights(index: np.ndarray, size: int, length: int) -> tuple[slice, np.ndarray]:
    """What pixels of a picture enlarged along one axis are made of, as `resize` does it.

    Args:
        index: Pixels of the enlarged picture.
        size: Its length.
        length: Length before.

    Returns:
        The pixels before that matter, and their weights, [len(index), number of those].
    """
    centres = (index + 0.5) * (length / size)
    first = max(0, math.floor(centres.min() - 0.5) - 1)
    last = min(length, math.floor(centres.max() - 0.5) + 3)
    return slice(first, last), _cubic_weights(centres - first, last - first, RESIZE_CUBIC)


def _cubic_weights(centres: np.ndarray, count: int, sharpness: float) -> np.ndarray:
    """Weights of `count` pixels at points along one axis, [len(centres), count], by the cubic kernel.

    What lies beyond the pixels is left out, as Pillow does.
    """
    pixels = np.floor(centres - 0.5).astype(int)[:, None] + np.arange(-1, 3)
    distance = np.abs(pixels + 0.5 - centres[:, None])
    near = (sharpness + 2) * distance**3 - (sharpness + 3) * distance**2 + 1
    far = sharpness * (distance**3 - 5 * distance**2 + 8 * distance - 4)
    values = np.where(distance < 1, near, far) * ((pixels >= 0) & (pixels < count))
    weights = np.zeros((len(centres), count), np.float32)
    # Pixels left out have weight 0, so they may be added anywhere.
    np.add.at(weights, (np.arange(len(centres))[:, None], pixels.clip(0, count - 1)), values)
    return weights / weights.sum(axis=1, keepdims=True)


def _combine(picture: np.ndarray, x_weights: np.ndarray, y_weights: np.ndarray) -> np.ndarray:
    """Resample [h, w, C] along both axes, by weights [width, w] and [height, h]; returns [height, width, C]."""
    wide = np.tensordot(picture, x_weights, axes=(1, 1)).transpose(0, 2, 1)  # [h, width, C]
    return (y_weights @ wide.reshape(len(picture), -1)).reshape(len(y_weights), len(x_weights), -1)


def _warp(picture: np.ndarray, matrix: Matrix, width: int, height: int) -> np.ndarray:
    """Sample bicubically at output pixel centres, [h, w, C] -> [height, width, C]; reflected beyond the border."""
    columns, rows = _reach(matrix, width, height, margin=3)  # the cubic kernel's reach, and rounding
    window = picture[np.ix_(_reflect(rows, picture.shape[0]), _reflect(columns, picture.shape[1]))]
    return _transform(window, compose(((1, 0, -int(columns[0])), (0, 1, -int(rows[0]))), matrix), width, height)


def _transform(picture: np.ndarray, matrix: Matrix, width: int, height: int) -> np.ndarray:
    """Sample bicubically at output pixel centres, all within the picture, [h, w, C] -> [height, width, C]."""
    kind, kernel = Image.Transform.AFFINE, Image.Resampling.BICUBIC
    return _per_channel(
        picture, lambda channel: channel.transform((width, height), kind, (*matrix[0], *matrix[1]), kernel)
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
