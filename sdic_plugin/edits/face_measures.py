"""Measures on the landmarks of aligned faces, which YuNet finds (extra `[align]`): where a head points, or a smile.

Landmarks are brought to the face's own frame: the middle between the eyes is the origin, the eyes lie on the x axis,
and their distance is 1. All measures map images [B, 3, R, R] in [0, 1] to [B], NaN where no face is found.
"""

from __future__ import annotations

import functools

import numpy as np
import torch

from sdic_plugin.edits.discovery import Measure
from sdic_plugin.images.face_detection import find_points

LEFT_EYE, RIGHT_EYE, NOSE, LEFT_MOUTH, RIGHT_MOUTH = range(5)


def face_turn(images: torch.Tensor) -> torch.Tensor:
    """How far the nose points to the picture's right: its x, in eye distances; 0 seen from the front."""
    return landmarks(images)[:, NOSE, 0]


def face_nod(images: torch.Tensor) -> torch.Tensor:
    """How far the nose points down: its share of the way from the eyes to the mouth."""
    points = landmarks(images)
    return points[:, NOSE, 1] / points[:, LEFT_MOUTH:, 1].mean(dim=1)


def face_smile(images: torch.Tensor) -> torch.Tensor:
    """How wide the mouth is, in eye distances; a smile draws its corners apart."""
    points = landmarks(images)
    return (points[:, RIGHT_MOUTH] - points[:, LEFT_MOUTH]).norm(dim=1)


def face_length(images: torch.Tensor) -> torch.Tensor:
    """How far the mouth is below the eyes, in eye distances."""
    return landmarks(images)[:, LEFT_MOUTH:, 1].mean(dim=1)


def landmarks(images: torch.Tensor) -> torch.Tensor:
    """Landmarks of images [B, 3, R, R] in [0, 1], in the face's frame (x to the right, y down): [B, 5, 2]."""
    pixels = (images.float().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).contiguous().cpu().numpy()
    points = torch.from_numpy(_find(pixels.tobytes(), pixels.shape)).to(images.device)
    points = points * points.new_tensor([pixels.shape[2], pixels.shape[1]])
    eyes = points[:, :2]
    across = eyes[:, 1] - eyes[:, 0]
    down = torch.stack([-across[:, 1], across[:, 0]], dim=1)
    frame = torch.stack([across, down], dim=2) / across.square().sum(dim=1)[:, None, None]  # columns: x and y axis
    return (points - eyes.mean(dim=1, keepdim=True)) @ frame


@functools.lru_cache(maxsize=2)
def _find(pixels: bytes, shape: tuple[int, ...]) -> np.ndarray:
    """Landmarks of pictures, found once for the several measures that follow each other on them."""
    return find_points(np.frombuffer(pixels, np.uint8).reshape(shape)).astype(np.float32)


FACE_MEASURES: dict[str, Measure] = {
    "face_turn": face_turn,
    "face_nod": face_nod,
    "face_smile": face_smile,
    "face_length": face_length,
}
"""Measures by name."""
