"""From a photo to the model's crop, and from an edited crop back into the photo.

Convention:
    Coordinates are continuous: x to the right, y down, pixel (0, 0) covers [0, 1) x [0, 1), so pixel centres are at
    integer + 0.5 and a photo covers [0, width] x [0, height]. Templates are in fractions of the crop's width and
    height. The "left" eye is the one at the smaller x in the picture, whichever eye of the face that is.
    Beyond its border a photo is continued by reflection at the border line.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from sdic_plugin.errors import SDICError
from sdic_plugin.image_processor import load_image

Matrix = tuple[tuple[float, float, float], tuple[float, float, float]]
"""Affine transform ((a, b, c), (d, e, f)): x' = a x + b y + c, y' = d x + e y + f."""

SUPERSAMPLING = 3
"""Samples per output pixel and axis when a picture is shrunk."""

MIN_ENLARGEMENT, MAX_ENLARGEMENT = 2.0, 8.0
MIN_EYE_DISTANCE = 1e-3


# ------------------------------------------------------------------------------------------------ small mathematics


def _apply(matrix: Matrix, points: np.ndarray | Sequence) -> np.ndarray:
    transform = np.asarray(matrix, dtype=np.float64)
    return np.asarray(points, dtype=np.float64) @ transform[:, :2].T + transform[:, 2]


def _compose(outer: Matrix, inner: Matrix) -> Matrix:
    """Transform that applies `inner` first."""
    square = np.vstack([np.asarray(inner, dtype=np.float64), (0, 0, 1)])
    return _as_matrix(np.asarray(outer, dtype=np.float64) @ square)


def _invert(matrix: Matrix) -> Matrix:
    """Inverse of a similarity."""
    (a, _, c), (b, _, f) = matrix
    scale = a * a + b * b
    a, b = a / scale, b / scale
    return ((a, b, -a * c - b * f), (-b, a, b * c - a * f))


def _as_matrix(values: np.ndarray) -> Matrix:
    return tuple(tuple(float(value) for value in row) for row in values)


def _is_similarity(matrix: Matrix) -> bool:
    (a, b, _), (d, e, _) = matrix
    scale = math.hypot(a, d)
    return scale > 0 and abs(a - e) <= 1e-9 * scale and abs(b + d) <= 1e-9 * scale


def _numbers(values: Any, count: int, name: str) -> tuple[float, ...]:
    try:
        numbers = tuple(float(value) for value in values)
    except (TypeError, ValueError):
        numbers = ()
    if len(numbers) != count or not all(math.isfinite(number) for number in numbers):
        raise SDICError(f"For {name}, {values!r} was given; pass {count} finite numbers.")
    return numbers


def _exact_keys(values: Mapping[str, Any], keys: tuple[str, ...], what: str) -> dict[str, Any]:
    if not isinstance(values, Mapping) or set(values) != set(keys):
        given = sorted(values) if isinstance(values, Mapping) else values
        raise SDICError(f"{what} needs exactly the entries {', '.join(keys)} and {given} was given.")
    return dict(values)


# ------------------------------------------------------------------------------------------------ values


@dataclass(frozen=True)
class AlignmentTemplate:
    """Where the eye centres belong in the crop, each (x, y) in fractions of its width and height."""

    left_eye: tuple[float, float]
    right_eye: tuple[float, float]

    def __post_init__(self) -> None:
        """Check both points.

        Raises:
            SDICError: If one is not two numbers in [0, 1], or the left eye is not left of the right eye.
        """
        for name in ("left_eye", "right_eye"):
            point = _numbers(getattr(self, name), 2, f"the template's {name}")
            if not all(0 <= value <= 1 for value in point):
                raise SDICError(f"The template's {name} is {list(point)} and fractions in [0, 1] are needed.")
            object.__setattr__(self, name, point)
        if self.left_eye[0] >= self.right_eye[0]:
            raise SDICError(
                f"The template's left_eye {list(self.left_eye)} is not left of its right_eye {list(self.right_eye)}; "
                "swap them."
            )

    def to_dict(self) -> dict[str, list[float]]:
        """Return {"left_eye": [x, y], "right_eye": [x, y]}, fit for JSON."""
        return {"left_eye": list(self.left_eye), "right_eye": list(self.right_eye)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Sequence[float]]) -> AlignmentTemplate:
        """Read what `to_dict` gave.

        Raises:
            SDICError: If a key is missing or unknown, or a point is not valid.
        """
        return cls(**_exact_keys(values, ("left_eye", "right_eye"), "An alignment template"))


CATS64_TEMPLATE = AlignmentTemplate(left_eye=(0.284, 0.406), right_eye=(0.727, 0.406))
"""Template of the bundled `cats64` model, measured on the mean of its training pictures."""


@dataclass(frozen=True)
class Alignment:
    """The similarity transform between a photo and the crop taken from it.

    Attributes:
        matrix: Photo to crop, in pixels of both (see the module's convention).
        crop_size: (width, height) of the crop.
        photo_size: (width, height) of the photo.
    """

    matrix: Matrix
    crop_size: tuple[int, int]
    photo_size: tuple[int, int]

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            SDICError: If the matrix is not a similarity (rotation, scale and shift), or a size is not positive.
        """
        for name in ("crop_size", "photo_size"):
            size = _numbers(getattr(self, name), 2, f"the alignment's {name}")
            if not all(value >= 1 and value == int(value) for value in size):
                raise SDICError(f"The alignment's {name} is {list(size)} and a whole width and height are needed.")
            object.__setattr__(self, name, (int(size[0]), int(size[1])))
        given = self.matrix if isinstance(self.matrix, list | tuple) else ()
        rows = tuple(_numbers(row, 3, "each row of an alignment's matrix") for row in given)
        if len(rows) != 2 or not _is_similarity(rows):
            raise SDICError(
                f"The alignment's matrix {self.matrix} is not a rotation, scale and shift; "
                "pass [[a, -b, x], [b, a, y]]."
            )
        object.__setattr__(self, "matrix", rows)

    def photo_to_crop(self, points: np.ndarray | Sequence) -> np.ndarray:
        """Map points [..., 2] (x, y) from the photo to the crop, in float64."""
        return _apply(self.matrix, points)

    def crop_to_photo(self, points: np.ndarray | Sequence) -> np.ndarray:
        """Map points [..., 2] (x, y) from the crop to the photo, in float64."""
        return _apply(_invert(self.matrix), points)

    @property
    def quad(self) -> np.ndarray:
        """The crop's corners in the photo, [4, 2]: top left, top right, bottom right, bottom left."""
        width, height = self.crop_size
        return self.crop_to_photo([(0, 0), (width, 0), (width, height), (0, height)])

    def to_dict(self) -> dict[str, Any]:
        """Return the values as lists and numbers, fit for JSON; exact in float64."""
        return {
            "matrix": [list(row) for row in self.matrix],
            "crop_size": list(self.crop_size),
            "photo_size": list(self.photo_size),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Alignment:
        """Read what `to_dict` gave.

        Raises:
            SDICError: If a key is missing or unknown, or a value is not valid.
        """
        return cls(**_exact_keys(values, ("matrix", "crop_size", "photo_size"), "An alignment"))


# ------------------------------------------------------------------------------------------------ cropping


def parse_eyes(text: str) -> tuple[float, float, float, float]:
    """Read two eye centres as they are written on the command line.

    Args:
        text: "x1,y1,x2,y2", in pixels of the photo.

    Returns:
        The four numbers.

    Raises:
        SDICError: If there are not four finite numbers.
    """
    try:
        return _numbers([float(part) for part in text.split(",")], 4, "the eyes")
    except ValueError as error:  # SDICError is one too
        raise SDICError(
            f"The eyes {text!r} are not four numbers; write the two eye centres in pixels of the photo as x1,y1,x2,y2."
        ) from error


def align_by_eyes(
    photo: Image.Image, eyes: Sequence[float], template: AlignmentTemplate, width: int, height: int
) -> tuple[Image.Image, Alignment]:
    """Crop a photo so that the eyes come to lie where the template wants them.

    The crop is rotated, scaled and shifted, antialiased when it shrinks, and reflected where it reaches beyond the
    photo.

    Args:
        photo: Any picture; coordinates refer to it as `load_image` returns it (upright).
        eyes: The two eye centres (x1, y1, x2, y2) in the photo, in either order.
        template: Where they belong.
        width: Width of the crop in pixels.
        height: Height of the crop in pixels.

    Returns:
        The crop (RGB, width x height) and its alignment.

    Raises:
        SDICError: If the eyes are not two distinct points inside the photo, or the size is not positive.
    """
    photo = load_image(photo)
    left, right = _checked_eyes(eyes, photo.size)
    source_left, source_right = complex(*left), complex(*right)
    target_left = complex(template.left_eye[0] * width, template.left_eye[1] * height)
    target_right = complex(template.right_eye[0] * width, template.right_eye[1] * height)
    turn = (target_right - target_left) / (source_right - source_left)  # rotation and scale as one complex factor
    shift = target_left - turn * source_left
    matrix = ((turn.real, -turn.imag, shift.real), (turn.imag, turn.real, shift.imag))
    alignment = Alignment(matrix, (width, height), photo.size)
    crop = _resample(_to_float(photo), _invert(alignment.matrix), width, height)
    return _to_picture(crop), alignment


def _checked_eyes(eyes: Sequence[float], photo_size: tuple[int, int]) -> list[tuple[float, float]]:
    x1, y1, x2, y2 = _numbers(eyes, 4, "the eyes")
    width, height = photo_size
    for x, y in ((x1, y1), (x2, y2)):
        if not (0 <= x <= width and 0 <= y <= height):
            raise SDICError(
                f"The eye ({x:g}, {y:g}) is outside the photo of {width} x {height} pixels; "
                "give eye centres as x,y in pixels of the upright photo."
            )
    if math.hypot(x2 - x1, y2 - y1) < MIN_EYE_DISTANCE:
        raise SDICError(f"Both eyes are at ({x1:g}, {y1:g}); give the centres of two different eyes.")
    return sorted([(x1, y1), (x2, y2)], key=lambda eye: eye[0])


# ------------------------------------------------------------------------------------------------ pasting back


def paste_back(
    photo: Image.Image,
    crop: Image.Image,
    alignment: Alignment,
    reference: Image.Image | None = None,
    feather: float = 0.08,
) -> Image.Image:
    """Put an edited crop back into its photo, with a soft border.

    Args:
        photo: The photo that `alignment` belongs to.
        crop: The edited crop, of any size with the alignment's aspect.
        alignment: Where the crop comes from.
        reference: The crop before the edit, of the edited crop's size (the inversion, or the photo's own crop). With
            it only `crop - reference` is added, smoothly enlarged, so that the photo keeps its own detail.
        feather: Width of the soft border, a fraction of the crop's width in [0, 0.5].

    Returns:
        The photo, RGB, at its own size; unchanged outside the alignment's quad, and wherever `crop` equals
        `reference`.

    Raises:
        SDICError: If the sizes do not fit each other, or `feather` is out of range.
    """
    photo, crop = load_image(photo), load_image(crop)
    reference = None if reference is None else load_image(reference)
    _check_paste(photo, crop, alignment, reference, feather)
    box = _covered_box(alignment)
    if box is None:
        return photo
    left, top, right, bottom = box
    target = _to_float(photo.crop(box))
    source = _to_float(crop) if reference is None else _to_float(crop) - _to_float(reference)
    stretch = (crop.width / alignment.crop_size[0], crop.height / alignment.crop_size[1])
    matrix = _compose(((stretch[0], 0, 0), (0, stretch[1], 0)), alignment.matrix)
    matrix = _compose(matrix, ((1, 0, left), (0, 1, top)))  # photo window -> given crop
    mask = _feather_mask(alignment, box, feather)[..., None]
    change = _resample(source, matrix, right - left, bottom - top)
    if reference is None:
        change = change - target
    photo.paste(_to_picture(target + mask * change), (left, top))
    return photo


def _check_paste(
    photo: Image.Image, crop: Image.Image, alignment: Alignment, reference: Image.Image | None, feather: float
) -> None:
    if photo.size != alignment.photo_size:
        raise SDICError(
            f"The photo is {photo.size[0]} x {photo.size[1]} and the alignment was made for "
            f"{alignment.photo_size[0]} x {alignment.photo_size[1]}; pass the photo the crop was taken from."
        )
    width, height = alignment.crop_size
    if abs(crop.width * height - crop.height * width) > max(width, height) / 2:  # up to half a pixel of rounding
        raise SDICError(
            f"The crop is {crop.width} x {crop.height} and the alignment's is {width} x {height}; "
            "pass a crop of the same aspect."
        )
    if reference is not None and reference.size != crop.size:
        raise SDICError(
            f"The reference is {reference.width} x {reference.height} and the crop {crop.width} x {crop.height}; "
            "pass two pictures of the same size."
        )
    if not 0 <= feather <= 0.5:
        raise SDICError(f"A feather of {feather} was given and a fraction of the crop's width in [0, 0.5] is needed.")


def _covered_box(alignment: Alignment) -> tuple[int, int, int, int] | None:
    """Smallest box of whole photo pixels (left, top, right, bottom) that holds the quad, if any of it is inside."""
    low = np.maximum(np.floor(alignment.quad.min(axis=0)), 0).astype(int)
    high = np.minimum(np.ceil(alignment.quad.max(axis=0)), alignment.photo_size).astype(int)
    return (low[0], low[1], high[0], high[1]) if (low < high).all() else None


def _feather_mask(alignment: Alignment, box: tuple[int, int, int, int], feather: float) -> np.ndarray:
    """Weight of the crop at each photo pixel of `box`, [h, w] in [0, 1]; 0 where the centre is outside the quad."""
    left, top, right, bottom = box
    x, y = np.meshgrid(np.arange(left, right) + 0.5, np.arange(top, bottom) + 0.5)
    points = alignment.photo_to_crop(np.stack([x, y], axis=-1))
    border = feather * alignment.crop_size[0]
    mask = np.ones(x.shape)
    for axis in (0, 1):
        inset = np.minimum(points[..., axis], alignment.crop_size[axis] - points[..., axis])
        ramp = np.clip(inset / border, 0, 1) if border > 0 else (inset > 0).astype(float)
        mask *= ramp * ramp * (3 - 2 * ramp)  # smoothstep
    return mask


# ------------------------------------------------------------------------------------------------ resampling


def _resample(picture: np.ndarray, matrix: Matrix, width: int, height: int) -> np.ndarray:
    """Sample a picture [h, w, C] at every output pixel, without aliasing.

    When the picture shrinks it is reduced to `SUPERSAMPLING` samples per output pixel first, sampled that densely,
    and averaged down, so that fine detail becomes its mean. When it grows it is enlarged along its own axes first,
    because Pillow's cubic kernel for transforms ripples between pixels and the one for resizing does not.

    Args:
        picture: Float values; continued by reflection beyond its border.
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
    picture, matrix = _rescale(picture, matrix, scale)
    if samples == 1:
        return _warp(picture, matrix, width, height)
    border = 3  # output pixels, so that those at the edge are averaged like the others
    matrix = _compose(matrix, ((1 / samples, 0, -border), (0, 1 / samples, -border)))
    wide, high = width + 2 * border, height + 2 * border
    sampled = _resize(_warp(picture, matrix, wide * samples, high * samples), wide, high)
    return sampled[border : border + height, border : border + width]


def _is_whole_shift(matrix: Matrix) -> bool:
    """Whether output pixels fall on picture pixels, so that sampling is a copy."""
    values = np.asarray(matrix)
    return bool(np.allclose(values[:, :2], np.eye(2), atol=1e-6) and np.allclose(values[:, 2] % 1, 0, atol=1e-6))


def _reach(matrix: Matrix, width: int, height: int, margin: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixel columns and rows that the output touches; some may lie beyond the picture's border."""
    corners = _apply(matrix, [(0, 0), (width, 0), (width, height), (0, height)])
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
    return part, _compose(((1, 0, -left), (0, 1, -top)), matrix)


def _rescale(picture: np.ndarray, matrix: Matrix, scale: float) -> tuple[np.ndarray, Matrix]:
    """Resize the picture by about `scale`, and the matrix by exactly what that came to."""
    old_height, old_width = picture.shape[:2]
    width, height = max(1, round(old_width * scale)), max(1, round(old_height * scale))
    return _resize(picture, width, height), _compose(((width / old_width, 0, 0), (0, height / old_height, 0)), matrix)


def _warp(picture: np.ndarray, matrix: Matrix, width: int, height: int) -> np.ndarray:
    """Sample bicubically at output pixel centres, [h, w, C] -> [height, width, C]; reflected beyond the border."""
    columns, rows = _reach(matrix, width, height, margin=3)  # the cubic kernel's reach, and rounding
    window = picture[np.ix_(_reflect(rows, picture.shape[0]), _reflect(columns, picture.shape[1]))]
    (a, b, c), (d, e, f) = _compose(((1, 0, -int(columns[0])), (0, 1, -int(rows[0]))), matrix)
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


def _resize(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    if picture.shape[:2] == (height, width):
        return picture
    kernel = Image.Resampling.LANCZOS if width < picture.shape[1] else Image.Resampling.BICUBIC
    return _per_channel(picture, lambda channel: channel.resize((width, height), kernel))


def _per_channel(picture: np.ndarray, change: Callable[[Image.Image], Image.Image]) -> np.ndarray:
    """Apply a PIL operation to every channel as float pixels, so that nothing is rounded or clipped on the way."""
    channels = [np.ascontiguousarray(picture[..., index]) for index in range(picture.shape[-1])]
    return np.stack([np.asarray(change(Image.fromarray(channel))) for channel in channels], axis=-1)


def _to_float(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture, dtype=np.float32)


def _to_picture(values: np.ndarray) -> Image.Image:
    return Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8))
