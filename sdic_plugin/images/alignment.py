"""From a photo to the model's crop, and from an edited crop back into the photo.

Convention:
    Coordinates are continuous: x to the right, y down, pixel (0, 0) covers [0, 1) x [0, 1), so pixel centres are at
    integer + 0.5 and a photo covers [0, width] x [0, height]. Templates are in fractions of the crop's width and
    height. The "left" eye is the one at the smaller x in the picture, whichever eye of the face that is.
    Beyond its border a photo is continued by reflection at the border line.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

from sdic_plugin.errors import SDICError
from sdic_plugin.images.reading import load_image
from sdic_plugin.images.resampling import (
    Matrix,
    TileSampler,
    apply_affine,
    as_matrix,
    compose,
    invert_similarity,
    is_similarity,
    resample,
    to_float,
    to_picture,
)

Point = tuple[float, float]
Box = tuple[int, int, int, int]
"""Left, top, right and bottom, in whole pixels."""

MIN_EYE_DISTANCE = 1e-3

TILE, MAX_THREADS = 512, 4
"""Side of the tiles, in pixels, in which a crop is pasted back, and how many are pasted at once."""

FEATHER = 0.08
"""Width of the soft border of a crop that is pasted back, a fraction of the crop's width."""


# ------------------------------------------------------------------------------------------------ values


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
        rows = [_numbers(row, 3, "each row of an alignment's matrix") for row in given]
        matrix = as_matrix(rows) if len(rows) == 2 else None
        if matrix is None or not is_similarity(matrix):
            raise SDICError(
                f"The alignment's matrix {self.matrix} is not a rotation, scale and shift; "
                "pass [[a, -b, x], [b, a, y]]."
            )
        object.__setattr__(self, "matrix", matrix)

    def photo_to_crop(self, points: ArrayLike) -> np.ndarray:
        """Map points [..., 2] (x, y) from the photo to the crop, in float64."""
        return apply_affine(self.matrix, points)

    def crop_to_photo(self, points: ArrayLike) -> np.ndarray:
        """Map points [..., 2] (x, y) from the crop to the photo, in float64."""
        return apply_affine(invert_similarity(self.matrix), points)

    @property
    def quad(self) -> np.ndarray:
        """The crop's corners in the photo, [4, 2]: top left, top right, bottom right, bottom left."""
        width, height = self.crop_size
        return self.crop_to_photo([(0, 0), (width, 0), (width, height), (0, height)])

    def scaled(self, width: int, height: int) -> Alignment:
        """Return the same crop's alignment in a smaller or larger copy of the photo, width x height.

        Raises:
            SDICError: If the copy has another aspect, by more than the rounding of its sides.
        """
        old_width, old_height = self.photo_size
        scale = width / old_width if old_width >= old_height else height / old_height  # the shorter is rounded more
        if abs(width - old_width * scale) > 1 or abs(height - old_height * scale) > 1:
            raise SDICError(
                f"A photo of {width} x {height} is no scaled copy of one of {old_width} x {old_height}; "
                "keep the aspect."
            )
        return Alignment(compose(self.matrix, ((1 / scale, 0, 0), (0, 1 / scale, 0))), self.crop_size, (width, height))

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


def align_by_eyes(
    photo: Image.Image, eyes: Sequence[float], template: AlignmentTemplate, width: int, height: int
) -> tuple[Image.Image, Alignment]:
    """Crop a photo so that the eyes lie where the template puts them.

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
    left, right = checked_eyes(eyes, photo.size)
    alignment = two_point_alignment(left, right, template, (width, height), photo.size)
    return cut_crop(photo, alignment), alignment


def two_point_alignment(
    left: Point, right: Point, template: AlignmentTemplate, crop_size: tuple[int, int], photo_size: tuple[int, int]
) -> Alignment:
    """Find the similarity that brings two points of the photo to the template's `left_eye` and `right_eye`.

    Args:
        left: The point (x, y) of the photo that goes to the template's `left_eye`; it need not be on the photo's left.
        right: The point that goes to `right_eye`.
        template: Where they belong.
        crop_size: (width, height) of the crop.
        photo_size: (width, height) of the photo.

    Raises:
        SDICError: If the points coincide.
    """
    if math.dist(left, right) < MIN_EYE_DISTANCE:
        raise SDICError(f"Both eyes are at ({left[0]:g}, {left[1]:g}); give the centres of two different eyes.")
    width, height = crop_size
    source_left, source_right = complex(*left), complex(*right)
    target_left = complex(template.left_eye[0] * width, template.left_eye[1] * height)
    target_right = complex(template.right_eye[0] * width, template.right_eye[1] * height)
    turn = (target_right - target_left) / (source_right - source_left)  # rotation and scale as one complex factor
    shift = target_left - turn * source_left
    matrix = ((turn.real, -turn.imag, shift.real), (turn.imag, turn.real, shift.imag))
    return Alignment(matrix, crop_size, photo_size)


def take_crop(photo: Image.Image, alignment: Alignment) -> Image.Image:
    """Cut an aligned crop (RGB) out of its photo, antialiased, and reflected beyond the photo's border.

    Raises:
        SDICError: If the photo is not of the alignment's size.
    """
    photo = load_image(photo)
    _check_photo(photo, alignment)
    return cut_crop(photo, alignment)


def cut_crop(photo: Image.Image, alignment: Alignment) -> Image.Image:
    """Do what `take_crop` does to a photo that `load_image` returned, without copying the whole of it."""
    return to_picture(resample(photo, invert_similarity(alignment.matrix), *alignment.crop_size))


def checked_eyes(eyes: Sequence[float], photo_size: tuple[int, int]) -> list[tuple[float, float]]:
    """Return two eye centres, the left one first.

    Raises:
        SDICError: If they are not two points inside the photo.
    """
    x1, y1, x2, y2 = _numbers(eyes, 4, "the eyes")
    width, height = photo_size
    for x, y in ((x1, y1), (x2, y2)):
        if not (0 <= x <= width and 0 <= y <= height):
            raise SDICError(
                f"The eye ({x:g}, {y:g}) is outside the photo of {width} x {height} pixels; "
                "give eye centres as x,y in pixels of the upright photo."
            )
    return sorted([(x1, y1), (x2, y2)], key=lambda eye: eye[0])


# ------------------------------------------------------------------------------------------------ pasting back


def paste_back(
    photo: Image.Image,
    crop: Image.Image,
    alignment: Alignment,
    reference: Image.Image | None = None,
    feather: float = FEATHER,
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
        The photo at its own size, RGB, or RGBA with its own alpha if it may be transparent; unchanged outside the
        alignment's quad, and wherever `crop` equals `reference`.

    Raises:
        SDICError: If the sizes do not fit each other, or `feather` is out of range.
    """
    photo = load_image(photo, keep_alpha=True)
    paste_into(photo, crop, alignment, reference, feather)
    return photo


def paste_into(
    photo: Image.Image,
    crop: Image.Image,
    alignment: Alignment,
    reference: Image.Image | None = None,
    feather: float = FEATHER,
) -> None:
    """Do what `paste_back` does to a photo that `load_image` returned, in place, without copying the whole of it."""
    crop = load_image(crop)
    reference = None if reference is None else load_image(reference)
    _check_paste(photo, crop, alignment, reference, feather)
    box = covered_box(alignment)
    source = to_float(crop) if reference is None else to_float(crop) - to_float(reference)
    if box is None or (reference is not None and not source.any()):
        return
    left, top, right, bottom = box
    stretch = (crop.width / alignment.crop_size[0], crop.height / alignment.crop_size[1])
    matrix = compose(((stretch[0], 0, 0), (0, stretch[1], 0)), alignment.matrix)
    matrix = compose(matrix, ((1, 0, left), (0, 1, top)))  # photo window -> given crop
    sampler = TileSampler(source, matrix, right - left, bottom - top)

    def paste_tile(tile: Box) -> None:
        weight = _feather_weight(alignment, tile, feather)
        if weight is None:
            return
        change = sampler.sample(tile[0] - left, tile[1] - top, tile[2] - left, tile[3] - top)
        pixels = np.asarray(photo.crop(tile))
        photo.paste(Image.fromarray(_changed(pixels, change, weight, replace=reference is None)), tile[:2])

    # Tile by tile: as floats a large photo is many times as large. Pillow and numpy release Python's lock.
    with ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1)) as threads:
        for _ in threads.map(paste_tile, _tiles(box)):
            pass


def _check_paste(
    photo: Image.Image, crop: Image.Image, alignment: Alignment, reference: Image.Image | None, feather: float
) -> None:
    _check_photo(photo, alignment)
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


def _check_photo(photo: Image.Image, alignment: Alignment) -> None:
    if photo.size != alignment.photo_size:
        raise SDICError(
            f"The photo is {photo.size[0]} x {photo.size[1]} and the alignment was made for "
            f"{alignment.photo_size[0]} x {alignment.photo_size[1]}; pass the photo the crop was taken from."
        )


def covered_box(alignment: Alignment) -> Box | None:
    """Smallest box of whole photo pixels (left, top, right, bottom) that holds the quad, if any of it is inside."""
    low = np.maximum(np.floor(alignment.quad.min(axis=0)), 0).astype(int)
    high = np.minimum(np.ceil(alignment.quad.max(axis=0)), alignment.photo_size).astype(int)
    return (*low.tolist(), *high.tolist()) if (low < high).all() else None


def _tiles(box: Box) -> list[Box]:
    """Cut a box into tiles of at most `TILE` x `TILE`."""
    left, top, right, bottom = box
    return [
        (x, y, min(x + TILE, right), min(y + TILE, bottom))
        for y in range(top, bottom, TILE)
        for x in range(left, right, TILE)
    ]


def _changed(pixels: np.ndarray, change: np.ndarray, weight: np.ndarray | float, replace: bool) -> np.ndarray:
    """Add a change to pixels, or put it in their place.

    Args:
        pixels: RGB or RGBA, [h, w, 3 or 4], uint8.
        change: RGB in [0, 255], [h, w, 3]; changed in place.
        weight: How much of it, in [0, 1], [h, w, 1] or one number.
        replace: Whether `change` is the new colours rather than a difference. Of transparent pixels both are meant as
            they look on white.

    Returns:
        Pixels of the same shape, with the same alpha.
    """
    colours = pixels[..., :3]
    opacity = pixels[..., 3:] / np.float32(255)
    if replace:
        change -= colours if pixels.shape[2] == 3 else 255 + (colours - np.float32(255)) * opacity
    change *= weight
    if pixels.shape[2] == 4:  # on white, a colour shows in proportion to its opacity; without any, it stays as it is
        np.divide(change, opacity, out=change, where=opacity > 0)
        change *= opacity > 0
    change += colours
    np.clip(np.rint(change, out=change), 0, 255, out=change)
    return np.concatenate([change.astype(np.uint8), pixels[..., 3:]], axis=-1)


def _feather_weight(alignment: Alignment, box: Box, feather: float) -> np.ndarray | float | None:
    """Weight of the crop at each photo pixel of `box`, [h, w, 1] in [0, 1]; 0 where the centre is outside the quad.

    Where it is 1 in all of the box, just that, and None where it is 0 in all.
    """
    left, top, right, bottom = box
    corners = alignment.photo_to_crop([(x, y) for x in (left + 0.5, right - 0.5) for y in (top + 0.5, bottom - 0.5)])
    border, size = feather * alignment.crop_size[0], np.array(alignment.crop_size)
    if (corners <= 0).all(axis=0).any() or (corners >= size).all(axis=0).any():
        return None
    if (np.minimum(corners, size - corners) >= max(border, 1e-6)).all():
        return 1.0
    x, y = np.arange(left, right)[None, :] + 0.5, np.arange(top, bottom)[:, None] + 0.5
    weight = np.ones((1, 1))
    for (a, b, c), length in zip(alignment.matrix, alignment.crop_size, strict=True):
        # Where the crop is not turned, this is a single row or column.
        position = (a * x if a else 0) + (b * y if b else 0) + c
        inset = np.minimum(position, length - position)
        ramp = np.clip(inset / border, 0, 1) if border > 0 else (inset > 0).astype(float)
        weight = weight * (ramp * ramp * (3 - 2 * ramp))  # smoothstep
    return weight[..., None].astype(np.float32)
