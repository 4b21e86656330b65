"""What the edits of faces128 are found by, and told apart by: measures on pixels and landmarks of an aligned face.

Eyes lie at (0.31, 0.31) and (0.69, 0.31) of an aligned face's width and height, the mouth's corners at (0.33, 0.69)
and (0.67, 0.69) (`FFHQTemplate(eye_scale=1.3, mouth_scale=1.2, shift=0.5)`). All measures map images [B, 3, R, R] in
[0, 1] to [B]; those on landmarks give NaN where no face is found.
"""

from __future__ import annotations

import torch

from sdic_plugin.edits.discovery import Measure, background, brightness, luma, warmth
from sdic_plugin.edits.face_measures import face_length, face_nod, face_smile, face_turn

Box = tuple[float, float, float, float]
"""Left, upper, right and lower border, fractions of width and height."""

LEFT_CHEEK: Box = (0.2, 0.45, 0.32, 0.58)
RIGHT_CHEEK: Box = (0.68, 0.45, 0.8, 0.58)
FOREHEAD: Box = (0.35, 0.1, 0.65, 0.2)
HAIRLINE: Box = (0.3, 0.0, 0.7, 0.07)
BRIDGE: Box = (0.45, 0.22, 0.55, 0.38)
LEFT_EYE: Box = (0.24, 0.26, 0.38, 0.36)
RIGHT_EYE: Box = (0.62, 0.26, 0.76, 0.36)
CHIN: Box = (0.38, 0.84, 0.62, 0.97)
MOUTH: Box = (0.42, 0.67, 0.58, 0.74)


def part(images: torch.Tensor, box: Box) -> torch.Tensor:
    """Luma [B, h, w] inside a box."""
    height, width = images.shape[2:]
    left, upper, right, lower = box
    return luma(images)[:, round(upper * height) : round(lower * height), round(left * width) : round(right * width)]


def light(images: torch.Tensor, *boxes: Box) -> torch.Tensor:
    """Mean luma inside boxes, each as much, [B]."""
    return torch.stack([part(images, box).mean(dim=(1, 2)) for box in boxes]).mean(dim=0)


def side_light(images: torch.Tensor) -> torch.Tensor:
    """How much lighter the cheek on the picture's right is than the one on its left."""
    return light(images, RIGHT_CHEEK) - light(images, LEFT_CHEEK)


def glasses(images: torch.Tensor) -> torch.Tensor:
    """How strong lines across the bridge of the nose are, as of a frame's: greatest vertical step of luma there."""
    rows = part(images, BRIDGE).mean(dim=2)
    return rows.diff(dim=1).abs().amax(dim=1)


def beard(images: torch.Tensor) -> torch.Tensor:
    """How much darker the chin is than the cheeks."""
    return light(images, LEFT_CHEEK, RIGHT_CHEEK) - light(images, CHIN)


def fringe(images: torch.Tensor) -> torch.Tensor:
    """How much darker the crop's upper edge is than the cheeks: hair that is low on the forehead."""
    return light(images, LEFT_CHEEK, RIGHT_CHEEK) - light(images, HAIRLINE, FOREHEAD)


def open_eyes(images: torch.Tensor) -> torch.Tensor:
    """How much luma varies in the eyes: white, iris and pupil are seen in open ones."""
    return torch.stack([part(images, box).flatten(1).std(dim=1) for box in (LEFT_EYE, RIGHT_EYE)]).mean(dim=0)


def teeth(images: torch.Tensor) -> torch.Tensor:
    """How light the middle of the mouth is beside the cheeks: teeth are seen."""
    return light(images, MOUTH) - light(images, LEFT_CHEEK, RIGHT_CHEEK)


MEASURES: dict[str, Measure] = {
    "warmth": warmth,
    "brightness": brightness,
    "background": background,
    "side_light": side_light,
    "face_turn": face_turn,
    "face_nod": face_nod,
    "face_smile": face_smile,
    "face_length": face_length,
    "teeth": teeth,
    "open_eyes": open_eyes,
    "glasses": glasses,
    "beard": beard,
    "fringe": fringe,
}
"""Measures by name."""
