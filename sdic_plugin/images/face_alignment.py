"""The crop that FFHQ models were trained on, from the eyes and mouth that any detector found.

Coordinates follow the convention of `sdic_plugin.images.alignment`: continuous, pixel centres at integer + 0.5. "Left"
is the viewer's left when the face is upright, so in a photo turned upside down the left eye is on the right.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

from sdic_plugin.errors import SDICError
from sdic_plugin.images.alignment import (
    MIN_EYE_DISTANCE,
    Alignment,
    AlignmentTemplate,
    Point,
    align_by_eyes,
    checked_eyes,
    cut_crop,
    two_point_alignment,
)
from sdic_plugin.images.reading import load_image
from sdic_plugin.images.resampling import Matrix, compose, invert_similarity, resample, resize, to_picture

FFHQ_RULE = "ffhq"

MOUTH_DISTANCE = 1.1
"""Assumed distance from eyes to mouth, in distances between the eyes, where only the eyes are known."""


@dataclass(frozen=True)
class FaceLandmarks:
    """Where a face's eyes and mouth are in a photo.

    Attributes:
        left_eye: Centre of the eye on the viewer's left when the face is upright, (x, y) in pixels of the photo.
        right_eye: Centre of the other eye.
        left_mouth: Corner of the mouth on the side of `left_eye`.
        right_mouth: The other corner.
    """

    left_eye: Point
    right_eye: Point
    left_mouth: Point
    right_mouth: Point

    def __post_init__(self) -> None:
        """Check the points.

        Raises:
            SDICError: If one is not two finite numbers, or both eyes are at one place.
        """
        for field in fields(self):
            value = getattr(self, field.name)
            try:
                point = tuple(float(number) for number in value)
            except (TypeError, ValueError):
                point = ()
            if len(point) != 2 or not all(map(math.isfinite, point)):
                raise SDICError(f"For the landmark {field.name}, {value!r} was given; pass x and y, both finite.")
            object.__setattr__(self, field.name, point)
        if math.dist(self.left_eye, self.right_eye) < MIN_EYE_DISTANCE:
            raise SDICError(f"Both eyes are at {self.left_eye}; give the centres of two different eyes.")

    @classmethod
    def from_points(cls, points: ArrayLike) -> FaceLandmarks:
        """Read the landmarks of a detector.

        Args:
            points: [5, 2] eyes, nose, mouth corners, the viewer's left of each pair first (YuNet, MTCNN, RetinaFace),
                or [68, 2] in the order of iBUG 300-W (dlib).

        Raises:
            SDICError: If the shape is another one.
        """
        array = np.asarray(points, dtype=np.float64)
        if array.shape == (68, 2):
            chosen = [array[36:42].mean(axis=0), array[42:48].mean(axis=0), array[48], array[54]]
        elif array.shape == (5, 2):
            chosen = [array[0], array[1], array[3], array[4]]
        else:
            raise SDICError(f"Landmarks of shape {list(array.shape)} were given and [5, 2] or [68, 2] is needed.")
        return cls(*(tuple(point.tolist()) for point in chosen))

    @classmethod
    def from_eyes(cls, left_eye: Point, right_eye: Point) -> FaceLandmarks:
        """Guess the mouth of a face seen from the front, for photos in which only the eyes are known."""
        left, right = complex(*left_eye), complex(*right_eye)
        mouth = (left + right) / 2 + 1j * MOUTH_DISTANCE * (right - left)
        half = 0.4 * (right - left)
        return cls(left_eye, right_eye, *((point.real, point.imag) for point in (mouth - half, mouth + half)))


@dataclass(frozen=True)
class FFHQTemplate:
    """The rule that cut FFHQ's faces out of their photos (Karras et al., 2019, appendix C of PGGAN's CelebA-HQ).

    The crop's horizontal direction is that of the eyes and of the mouth's perpendicular together, its half side is the
    larger of `eye_scale` eye distances and `mouth_scale` distances from the eyes to the mouth, and its centre lies
    between the eyes, moved towards the mouth by `shift` of that distance.

    Attributes:
        eye_scale: Half side in distances between the eyes.
        mouth_scale: Half side in distances from the eyes' middle to the mouth's.
        shift: Move of the centre towards the mouth.
    """

    eye_scale: float = 2.0
    mouth_scale: float = 1.8
    shift: float = 0.1

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            SDICError: If a scale is not positive, or a number is not finite.
        """
        for field in fields(self):
            value = getattr(self, field.name)
            valid = isinstance(value, int | float) and math.isfinite(value) and (field.name == "shift" or value > 0)
            if not valid:
                raise SDICError(f"The FFHQ template's {field.name} is {value!r} and a positive number is needed.")

    def to_dict(self) -> dict[str, Any]:
        """Return {"rule": "ffhq", ...}, fit for JSON."""
        return {"rule": FFHQ_RULE, **asdict(self)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> FFHQTemplate:
        """Read what `to_dict` gave; {"rule": "ffhq"} alone is the published rule.

        Raises:
            SDICError: If the rule or a key is unknown, or a value is not valid.
        """
        known = {"rule", *(field.name for field in fields(cls))}
        if values.get("rule") != FFHQ_RULE or not set(values) <= known:
            raise SDICError(f'An FFHQ template needs "rule": "{FFHQ_RULE}" and at most {sorted(known)}, not {values}.')
        return cls(**{key: value for key, value in values.items() if key != "rule"})

    def align(self, landmarks: FaceLandmarks, size: int, photo_size: tuple[int, int]) -> Alignment:
        """Find the similarity that takes the rule's square to a crop of `size` x `size`.

        Raises:
            SDICError: If the landmarks contradict each other so far that there is no square.
        """
        left_eye, right_eye = complex(*landmarks.left_eye), complex(*landmarks.right_eye)
        mouth = (complex(*landmarks.left_mouth) + complex(*landmarks.right_mouth)) / 2
        eyes, across = (left_eye + right_eye) / 2, right_eye - left_eye
        down = mouth - eyes
        direction = across - 1j * down  # `down` turned by a quarter points along the eyes
        if abs(direction) < MIN_EYE_DISTANCE:
            raise SDICError(
                f"The landmarks {landmarks} are no face: the mouth lies above the eyes; check their order."
            )
        half = direction / abs(direction) * max(self.eye_scale * abs(across), self.mouth_scale * abs(down))
        centre = eyes + self.shift * down
        turn = size / (2 * half)
        origin = -turn * (centre - half - 1j * half)
        matrix = ((turn.real, -turn.imag, origin.real), (turn.imag, turn.real, origin.imag))
        return Alignment(matrix, (size, size), photo_size)


Template = AlignmentTemplate | FFHQTemplate


def read_template(values: Mapping[str, Any]) -> Template:
    """Read the template that a pipeline's configuration holds (`pipe.config.alignment`), of either kind.

    Raises:
        SDICError: If it is neither.
    """
    if isinstance(values, Mapping) and "rule" in values:
        return FFHQTemplate.from_dict(values)
    return AlignmentTemplate.from_dict(values)


def is_of_faces(alignment: Mapping[str, Any] | None) -> bool:
    """Whether the template that a configuration holds is FFHQ's: of people's faces, which a detector finds."""
    return alignment is not None and isinstance(read_template(alignment), FFHQTemplate)


def align_face(
    photo: Image.Image, landmarks: FaceLandmarks, template: Template, width: int, height: int
) -> tuple[Image.Image, Alignment]:
    """Crop a photo to its face, as the template's model was trained on.

    Args:
        photo: Any picture; coordinates refer to it as `load_image` returns it (upright).
        landmarks: Eyes and mouth, from any detector; they may lie a little outside the photo.
        template: Two eye points, or FFHQ's rule.
        width: Width of the crop in pixels.
        height: Height of the crop in pixels; equal to the width for FFHQ's rule.

    Returns:
        The crop (RGB, width x height) and its alignment. By FFHQ's rule, what lies beyond the photo's border is
        reflected, blurred, and faded to the photo's median colour.

    Raises:
        SDICError: If the landmarks or the size make no crop.
    """
    photo = load_image(photo)
    if isinstance(template, AlignmentTemplate):
        eyes = (landmarks.left_eye, landmarks.right_eye)
        alignment = two_point_alignment(*eyes, template, (width, height), photo.size)
        return cut_crop(photo, alignment), alignment
    if width != height:
        raise SDICError(f"FFHQ's crop is a square and {width} x {height} was asked for; ask for equal sides.")
    alignment = template.align(landmarks, width, photo.size)
    return ffhq_crop(photo, alignment), alignment


def align_eyes(
    photo: Image.Image, eyes: Sequence[float], template: Template, width: int, height: int
) -> tuple[Image.Image, Alignment]:
    """Crop a photo by its two eye centres alone, for either kind of template.

    For FFHQ's rule the mouth is assumed where it is in a face seen from the front. Arguments and errors as for
    `align_by_eyes`.
    """
    if isinstance(template, AlignmentTemplate):
        return align_by_eyes(photo, eyes, template, width, height)
    photo = load_image(photo)
    left, right = checked_eyes(eyes, photo.size)
    return align_face(photo, FaceLandmarks.from_eyes(left, right), template, width, height)


# ------------------------------------------------------------------------------------------------ FFHQ's pixels


def ffhq_crop(photo: Image.Image, alignment: Alignment) -> Image.Image:
    """Cut the crop out by FFHQ's rules of shrinking and padding.

    A photo much larger than the crop is shrunk by a whole factor first. If the crop, with a border of a tenth, reaches
    beyond the photo, the photo is padded by reflection, blurred towards its border (sigma 2 % of the crop's side), and
    faded to its median colour.
    """
    size = alignment.crop_size[0]
    side = math.dist(alignment.quad[0], alignment.quad[1])
    matrix = invert_similarity(alignment.matrix)  # crop -> photo
    picture, matrix, pads = _cut_out(photo, alignment, matrix, side)
    picture = picture.astype(np.float32)
    shrink = math.floor(side / size * 0.5)
    if shrink > 1:
        old_height, old_width = picture.shape[:2]
        new_width, new_height = max(1, round(old_width / shrink)), max(1, round(old_height / shrink))
        picture = resize(picture, new_width, new_height)
        stretch = (new_width / old_width, new_height / old_height)
        matrix = compose(((stretch[0], 0, 0), (0, stretch[1], 0)), matrix)
        pads, side = pads / shrink, side / shrink
    border = max(round(0.1 * side), 3)
    if pads.max() > border - 4:
        pads = np.maximum(np.rint(pads), round(0.3 * side)).astype(int)
        picture = _fade_to_median(_reflect_pad(picture, pads), pads, blur=0.02 * side)
        matrix = compose(((1, 0, int(pads[0])), (0, 1, int(pads[1]))), matrix)
    return to_picture(resample(picture, matrix, size, size))


def _cut_out(
    photo: Image.Image, alignment: Alignment, matrix: Matrix, side: float
) -> tuple[np.ndarray, Matrix, np.ndarray]:
    """Cut out the crop's surroundings; also return how far they reach beyond the photo, [left, top, right, bottom]."""
    border = max(round(0.1 * side), 3)
    width, height = photo.size
    low = np.floor(alignment.quad.min(axis=0)).astype(int) - border
    high = np.ceil(alignment.quad.max(axis=0)).astype(int) + border
    pads = np.maximum([-low[0], -low[1], high[0] - width, high[1] - height], 0)
    low, high = np.clip(low, 0, [width - 1, height - 1]), np.clip(high, 1, [width, height])
    part = np.asarray(photo.crop((*low.tolist(), *high.tolist())))
    return part, compose(((1, 0, -int(low[0])), (0, 1, -int(low[1]))), matrix), pads.astype(float)


def _reflect_pad(picture: np.ndarray, pads: np.ndarray) -> np.ndarray:
    left, top, right, bottom = pads
    return np.pad(picture, ((top, bottom), (left, right), (0, 0)), mode="symmetric")


def _fade_to_median(picture: np.ndarray, pads: np.ndarray, blur: float) -> np.ndarray:
    """Blur the padding, and a third of its width inside, and fade it to the median colour at the outer border."""
    left, top, right, bottom = np.maximum(pads, 1)
    height, width = picture.shape[:2]
    x, y = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)
    outward_x = 1 - np.minimum(x / left, (width - 1 - x) / right)
    outward_y = 1 - np.minimum(y / top, (height - 1 - y) / bottom)
    outward = np.maximum(outward_x[None, :], outward_y[:, None])[..., None]
    picture = picture + (_gaussian_blur(picture, blur) - picture) * np.clip(3 * outward + 1, 0, 1)
    return picture + (np.median(picture, axis=(0, 1)) - picture) * np.clip(outward, 0, 1)


def _gaussian_blur(picture: np.ndarray, sigma: float) -> np.ndarray:
    """Blur [h, w, C] along both axes, reflected at the border."""
    radius = max(1, math.ceil(4 * sigma))
    offsets = np.arange(-radius, radius + 1)
    kernel = np.exp(-0.5 * (offsets / max(sigma, 1e-6)) ** 2)
    kernel = (kernel / kernel.sum()).astype(np.float32)
    for axis in (0, 1):
        widths = [(radius, radius) if index == axis else (0, 0) for index in range(3)]
        padded = np.pad(picture, widths, mode="symmetric")
        windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * radius + 1, axis=axis)
        picture = windows @ kernel
    return picture
