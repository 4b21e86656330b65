"""Finding a face again in the next frame of a video: far quicker than searching the whole of it (extra `[align]`)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from sdic_plugin.images.alignment import Alignment, AlignmentTemplate, two_point_alignment
from sdic_plugin.images.face_alignment import FaceLandmarks
from sdic_plugin.images.face_detection import (
    DetectedFace,
    cut_window,
    locked_detectors,
    look_tilted,
    run_detector,
    search_upright,
)

WINDOW, WINDOW_FACE = 224, 96
"""Sides, in pixels, of the window about a face in which it is looked for, and of the face in it."""

MIN_SCORE = 0.6

LOOK_SIDE = 16
"""Side of the small picture by which faces are told apart."""

EYES = AlignmentTemplate((0.3, 0.35), (0.7, 0.35))
"""Where eyes are in that picture."""


@dataclass(frozen=True)
class SeenFace:
    """A face in a frame.

    Attributes:
        face: Where it is.
        look: What it looks like, [16 · 16 · 3], of mean 0 and length 1: the product of two is their likeness, in
            [-1, 1], whatever the light.
    """

    face: DetectedFace
    look: np.ndarray

    @property
    def middle(self) -> complex:
        """Middle of eyes and mouth, x + iy, in pixels of the frame."""
        return face_middle(self.face)


def face_points(face: DetectedFace) -> list[complex]:
    """Both eyes and corners of the mouth, x + iy, in pixels of the photo."""
    marks = face.landmarks
    return [complex(*point) for point in (marks.left_eye, marks.right_eye, marks.left_mouth, marks.right_mouth)]


def face_middle(face: DetectedFace) -> complex:
    """Middle of a face's eyes and mouth, x + iy, in pixels of the photo."""
    return sum(face_points(face)) / 4


def landmark_distance(face: DetectedFace, other: DetectedFace) -> float:
    """Mean distance of a face's eyes and mouth corners from those of another, in pixels of the photo."""
    return sum(abs(a - b) for a, b in zip(face_points(face), face_points(other), strict=True)) / 4


def moved(face: DetectedFace, shift: complex) -> DetectedFace:
    """Return a face as it would be so many pixels, x + iy, further."""
    points = [point + shift for point in face_points(face)]
    return DetectedFace(FaceLandmarks(*((p.real, p.imag) for p in points)), face.size, face.score)


def see(photo: Image.Image, face: DetectedFace) -> SeenFace:
    """Look at a face that was found in a photo."""
    alignment = two_point_alignment(
        face.landmarks.left_eye, face.landmarks.right_eye, EYES, (LOOK_SIDE, LOOK_SIDE), photo.size
    )
    pixels = np.asarray(cut_window(photo, alignment), dtype=np.float32).reshape(-1)
    pixels = pixels - pixels.mean()
    return SeenFace(face, pixels / max(float(np.linalg.norm(pixels)), 1e-6))


def faces_near(
    photo: Image.Image, face: DetectedFace, model: str | os.PathLike[str] | None = None
) -> list[DetectedFace]:
    """Find the faces about where a face is thought to be, turned and sized about as that one.

    Args:
        photo: RGB and upright.
        face: As it was found in the frame before, perhaps `moved` on.
        model: As for `detect_faces`.

    Raises:
        SDICError: If OpenCV is not installed.
        CheckpointError: If the model cannot be found or read.
    """

    def look(detector: Any, tilt: complex) -> list[tuple[np.ndarray, float, float]]:
        alignment = _window(face, photo.size, tilt)
        rows = run_detector(detector, np.asarray(cut_window(photo, alignment)))
        points = alignment.crop_to_photo(rows[:, 4:14].reshape(-1, 5, 2))
        return [(p, row[2:4].max() * face.size / WINDOW_FACE, row[14]) for p, row in zip(points, rows, strict=True)]

    with locked_detectors(model, MIN_SCORE) as detectors:
        return _joined(*look_tilted(detectors, look))


def faces_upright(photo: Image.Image, model: str | os.PathLike[str] | None = None) -> list[DetectedFace]:
    """Find the faces of a frame as `detect_faces` does, but only those about upright, of the usual sizes."""
    with locked_detectors(model, MIN_SCORE) as (detector, _):
        rough = search_upright(detector, photo)
    found = [min(near, key=lambda each: abs(face_middle(each) - face_middle(face)), default=None)
             for face in rough for near in [faces_near(photo, face, model)]]  # fmt: skip
    return sorted((face for face in found if face is not None), key=lambda face: -face.size)


def _joined(first: list, second: list) -> list[DetectedFace]:
    """Means of two looks at the same faces; a face that one look alone has seen counts as it was seen."""
    faces, left = [], list(second)
    for points, size, score in first:
        middle = points.mean(axis=0)
        same = min(left, key=lambda each: np.linalg.norm(each[0].mean(axis=0) - middle), default=None)
        if same is not None and np.linalg.norm(same[0].mean(axis=0) - middle) < size / 4:
            left = [each for each in left if each is not same]
            points, size, score = (points + same[0]) / 2, (size + same[1]) / 2, max(score, same[2])
        faces.append((points, size, score))
    return [DetectedFace(FaceLandmarks.from_points(p), float(size), float(score)) for p, size, score in faces + left]


def _window(face: DetectedFace, photo_size: tuple[int, int], tilt: complex) -> Alignment:
    marks, middle = face.landmarks, face_middle(face)
    across = (complex(*marks.right_eye) - complex(*marks.left_eye)) * tilt
    half = across / abs(across) * face.size / WINDOW_FACE * WINDOW / 2
    left, right = ((end.real, end.imag) for end in (middle - half, middle + half))
    edges = AlignmentTemplate((0.0, 0.5), (1.0, 0.5))  # the window's own left and right edge
    return two_point_alignment(left, right, edges, (WINDOW, WINDOW), photo_size)
