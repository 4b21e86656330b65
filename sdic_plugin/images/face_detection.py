"""Finding faces with YuNet through OpenCV (extra `[align]`); any other detector's landmarks do as well.

The model comes with the package (`yunet/NOTICE.md` says whose it is). Another file is given to the functions here, or
named in the environment variable `SDIC_FACE_DETECTOR`.
"""

from __future__ import annotations

import cmath
import contextlib
import functools
import math
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from sdic_plugin.errors import CheckpointError, SDICError
from sdic_plugin.images.alignment import Alignment, AlignmentTemplate, two_point_alignment
from sdic_plugin.images.face_alignment import FaceLandmarks
from sdic_plugin.images.reading import ImageSource, load_image
from sdic_plugin.images.resampling import invert_similarity

BUNDLED = Path(__file__).parent / "yunet" / "yunet.onnx"

DETECTOR_VARIABLE = "SDIC_FACE_DETECTOR"

SEARCHES = ((640, (0, 1, 2, 3)), (1280, (0,)), (256, (0,)))
"""Longer side and quarter turns at which a photo is searched, until a face is found: most, small, very large ones."""

TURN_GAIN = 0.05
"""How much higher the confidence of a search in a turned photo must be to count."""

WINDOW_SIZE, WINDOW_FACE = 320, 128
"""Sides, in pixels, of the upright window in which a found face is looked at again, and of the face in it."""

LOOKS = 6

TILTS = (cmath.rect(1, math.radians(-20)), cmath.rect(1, math.radians(20)))
"""A face is looked at turned to either side by so much, and the mean is taken: of a slightly tilted face YuNet's
landmarks are an upright one's, while here the detector sees the tilt."""

CROP_SIDES = (160, 320)
"""Longer sides, in pixels, at which `find_points` looks at aligned crops, both ways round: each look errs a little."""

MARGIN = 0.25
"""Grey border around the photo, as a share of its longer side, so that a face that fills it is found."""

GREY = (127, 127, 127)
"""What is seen beyond the photo."""

OVERLAP_THRESHOLD = 0.3
MAX_CANDIDATES = 5000

detector_lock = threading.Lock()
"""Detectors keep their settings between calls: whoever sets and runs one holds it."""

Detectors = tuple[Any, Any]
"""Two of OpenCV's, of the same file."""

Look = TypeVar("Look")


@dataclass(frozen=True)
class DetectedFace:
    """A face that was found.

    Attributes:
        landmarks: Eyes and mouth, in pixels of the photo.
        size: Side of its box, in pixels of the photo.
        score: Confidence in [0, 1].
    """

    landmarks: FaceLandmarks
    size: float
    score: float


def detect_faces(
    photo: ImageSource, model: str | os.PathLike[str] | None = None, min_score: float = 0.6
) -> list[DetectedFace]:
    """Find the faces in a photo, upright or turned by any angle.

    Args:
        photo: Any picture; coordinates refer to it as `load_image` returns it (upright).
        model: File of YuNet; None for that of `SDIC_FACE_DETECTOR`, else the package's.
        min_score: Smallest confidence.

    Returns:
        Faces, the largest first; empty if there is none.

    Raises:
        SDICError: If OpenCV is not installed, or `min_score` is not in (0, 1).
        CheckpointError: If the model cannot be found or read.
    """
    if not 0 < min_score < 1:
        raise SDICError(f"A smallest score of {min_score} was given and a number between 0 and 1 is needed.")
    photo = load_image(photo)
    with locked_detectors(model, min_score) as detectors:
        for side, turns in SEARCHES:
            # A face lying on its side is found too, but with less confidence and wrong landmarks.
            small = _with_longer_side(photo, side)
            found = [_search(detectors[0], small, photo.size, turn) for turn in turns]
            turned = max(found, key=_best_score)
            candidates = turned if _best_score(turned) > _best_score(found[0]) + TURN_GAIN else found[0]
            faces = [face for face in (_look_again(detectors, photo, face) for face in candidates) if face is not None]
            if faces:
                return sorted(faces, key=lambda face: -face.size)
    return []


def find_points(crops: np.ndarray, model: str | os.PathLike[str] | None = None, min_score: float = 0.6) -> np.ndarray:
    """Find the five landmarks of the surest upright face in each of many small pictures, such as aligned crops.

    Args:
        crops: RGB, uint8 [N, H, W, 3].
        model: As for `detect_faces`.
        min_score: Smallest confidence.

    Returns:
        [N, 5, 2]: x and y, as shares of width and height, of eyes, nose and mouth corners, the viewer's left of each
        pair first; NaN where there is no face.

    Raises:
        SDICError: If OpenCV is not installed.
        CheckpointError: If the model cannot be found or read.
    """
    found = np.full((len(crops), 5, 2), np.nan)
    with locked_detectors(model, min_score) as (detector, _):
        for i, crop in enumerate(crops):
            small = [_with_longer_side(Image.fromarray(crop), side) for side in CROP_SIDES]
            looks = [_look_at_crop(detector, picture[:, ::step], step < 0) for picture in small for step in (1, -1)]
            seen = [points for points in looks if points is not None]
            if seen:
                found[i] = np.mean(seen, axis=0)
    return found


def _look_at_crop(detector: Any, picture: np.ndarray, mirrored: bool) -> np.ndarray | None:
    """Landmarks [5, 2] of the surest face, as shares of the picture's size, taken back if it was mirrored."""
    border = round(MARGIN * max(picture.shape))
    rows = run_detector(detector, np.pad(picture, ((border,) * 2, (border,) * 2, (0, 0)), constant_values=GREY[0]))
    if not len(rows):
        return None
    points = rows[rows[:, 14].argmax(), 4:14].reshape(5, 2) - border
    points /= (picture.shape[1], picture.shape[0])
    return points[[1, 0, 2, 4, 3]] * (-1, 1) + (1, 0) if mirrored else points


def _best_score(faces: Sequence[DetectedFace]) -> float:
    return max((face.score for face in faces), default=0.0)


def choose_face(faces: Sequence[DetectedFace], choice: str | int = "largest") -> DetectedFace:
    """Choose one of the faces that `detect_faces` found.

    Args:
        faces: As `detect_faces` returned them.
        choice: "largest", or a number from 0 on, counted from the left of the photo.

    Raises:
        SDICError: If there is no face, or not so many.
    """
    if not faces:
        raise SDICError("No face was found in the photo; give its two eye centres, or another photo.")
    if choice == "largest":
        return max(faces, key=lambda face: face.size)
    ordered = sorted(faces, key=lambda face: face.landmarks.left_eye[0] + face.landmarks.right_eye[0])
    if not str(choice).isdecimal() or int(choice) >= len(ordered):
        raise SDICError(
            f'Face {choice!r} was asked for, and the photo has {len(ordered)}: give "largest", or a number from 0 to '
            f"{len(ordered) - 1}, counted from the left."
        )
    return ordered[int(choice)]


def find_detector(model: str | os.PathLike[str] | None = None) -> Path:
    """Return the file of YuNet: the given one, else that of `SDIC_FACE_DETECTOR`, else the package's.

    Raises:
        CheckpointError: If what was given or named is no file.
    """
    path = Path(model or os.environ.get(DETECTOR_VARIABLE) or BUNDLED)
    if not path.is_file():
        raise CheckpointError(f"The face detector {path} is no file: give YuNet's .onnx file.")
    return path


@contextlib.contextmanager
def locked_detectors(model: str | os.PathLike[str] | None, min_score: float) -> Iterator[Detectors]:
    """Two detectors, which nobody else uses meanwhile.

    Args:
        model: As for `detect_faces`.
        min_score: Smallest confidence.

    Raises:
        SDICError: If OpenCV is not installed.
        CheckpointError: If the model cannot be found or read.
    """
    path = str(find_detector(model))
    detectors = load_detector(path, 0), load_detector(path, 1)
    with detector_lock:
        for detector in detectors:
            detector.setScoreThreshold(min_score)
        yield detectors


def look_tilted(detectors: Detectors, look: Callable[[Any, complex], Look]) -> tuple[Look, Look]:
    """Look with one detector at each of the `TILTS`, at the same time: OpenCV alone does not keep two cores busy."""
    with ThreadPoolExecutor(1) as beside:
        second = beside.submit(look, detectors[1], TILTS[1])
        return look(detectors[0], TILTS[0]), second.result()


@functools.lru_cache(maxsize=4)
def load_detector(path: str, number: int = 0) -> Any:
    """Return OpenCV's detector of a file of YuNet; each number has its own.

    Raises:
        SDICError: If OpenCV is not installed.
        CheckpointError: If the file cannot be read.
    """
    try:
        import cv2
    except ImportError as error:
        raise SDICError(
            'Face detection needs OpenCV, which is not installed: pip install "sdic-plugin[align]".'
        ) from error
    try:
        # The model is given as bytes: the path with non-ASCII letters would not be found on every system.
        weights = np.frombuffer(Path(path).read_bytes(), dtype=np.uint8)
        detector = cv2.FaceDetectorYN.create(
            "onnx", weights, np.empty(0, np.uint8), (320, 320), 0.6, OVERLAP_THRESHOLD, MAX_CANDIDATES
        )
        detector.detect(np.zeros((320, 320, 3), np.uint8))  # the file of another network fails here
        return detector
    except (cv2.error, OSError) as error:
        raise CheckpointError(f"The face detector {path} cannot be read: give YuNet's .onnx file.") from error


def _with_longer_side(photo: Image.Image, side: int) -> np.ndarray:
    scale = side / max(photo.size)
    width, height = (max(1, round(length * scale)) for length in photo.size)
    return np.asarray(photo.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2.0))


def _search(detector: Any, small: np.ndarray, photo_size: tuple[int, int], turns: int) -> list[DetectedFace]:
    """Search a small copy [h, w, 3] of the photo, turned counter-clockwise by quarter turns."""
    stretch = np.array(photo_size) / (small.shape[1], small.shape[0])
    turned = np.rot90(small, turns)
    border = round(MARGIN * max(small.shape))
    padded = np.pad(turned, ((border, border), (border, border), (0, 0)), constant_values=GREY[0])
    faces = []
    for row in run_detector(detector, padded):
        points = _turn_back(row[4:14].reshape(5, 2) - border, (turned.shape[1], turned.shape[0]), turns)
        points *= stretch
        middle = points[:2].mean(axis=0)
        if (middle >= 0).all() and (middle <= photo_size).all():  # not in the grey border
            faces.append(_face(points, row[2:4].max() * stretch.max(), row[14]))
    return faces


def search_upright(detector: Any, photo: Image.Image) -> list[DetectedFace]:
    """Search a whole photo for upright faces at the first size only; the landmarks are rough."""
    return _search(detector, _with_longer_side(photo, SEARCHES[0][0]), photo.size, 0)


def _look_again(detectors: Detectors, photo: Image.Image, face: DetectedFace) -> DetectedFace | None:
    """Find a face's landmarks in windows turned until the face is upright; None if it is no face then."""
    for _ in range(LOOKS):
        found = look_tilted(detectors, functools.partial(_look, photo, face))
        seen = [each for each in found if each is not None]
        if not seen:
            return None
        points = np.mean([points for points, _, _ in seen], axis=0)
        face = _face(points, float(np.mean([size for _, size, _ in seen])), max(score for _, _, score in seen))
    return face


def _look(
    photo: Image.Image, face: DetectedFace, detector: Any, tilt: complex
) -> tuple[np.ndarray, float, float] | None:
    """Landmarks [5, 2] in the photo, size and score, seen in one window."""
    alignment = _window(face, photo.size, tilt)
    rows = run_detector(detector, np.asarray(cut_window(photo, alignment)))
    if not len(rows):
        return None
    middles = rows[:, 4:14].reshape(-1, 5, 2).mean(axis=1)
    row = rows[np.linalg.norm(middles - WINDOW_SIZE / 2, axis=1).argmin()]
    points = alignment.crop_to_photo(row[4:14].reshape(5, 2))
    return points, row[2:4].max() * face.size / WINDOW_FACE, row[14]


def _window(face: DetectedFace, photo_size: tuple[int, int], tilt: complex) -> Alignment:
    """A window about the face, in which it is upright but for `tilt`, a complex number of length 1."""
    marks = face.landmarks
    middle = np.mean([marks.left_eye, marks.right_eye, marks.left_mouth, marks.right_mouth], axis=0)
    across = (complex(*marks.right_eye) - complex(*marks.left_eye)) * tilt
    half = across / abs(across) * face.size / WINDOW_FACE * WINDOW_SIZE / 2
    left, right = ((middle[0] + sign * half.real, middle[1] + sign * half.imag) for sign in (-1, 1))
    edges = AlignmentTemplate((0.0, 0.5), (1.0, 0.5))  # the window's own left and right edge
    return two_point_alignment(left, right, edges, (WINDOW_SIZE, WINDOW_SIZE), photo_size)


def cut_window(photo: Image.Image, alignment: Alignment) -> Image.Image:
    """Cut a window out, a little blurred or aliased, and grey beyond the photo; for detecting only."""
    (a, b, c), (d, e, f) = invert_similarity(alignment.matrix)
    step = math.hypot(a, d)
    shrink, grow = max(1, int(step)), max(1, round(1 / step))
    low = np.maximum(np.floor(alignment.quad.min(axis=0)).astype(int) - 2 * shrink, 0)
    high = np.minimum(np.ceil(alignment.quad.max(axis=0)).astype(int) + 2 * shrink, photo.size)
    if (low >= high).any():
        return Image.new("RGB", alignment.crop_size, GREY)
    box = (*low.tolist(), *high.tolist())
    part = photo.reduce(shrink, box) if shrink > 1 else photo.crop(box)
    if grow > 1:
        part = part.resize((part.width * grow, part.height * grow), Image.Resampling.BICUBIC)
    scale = grow / shrink
    matrix = (a * scale, b * scale, (c - box[0]) * scale, d * scale, e * scale, (f - box[1]) * scale)
    kind, kernel = Image.Transform.AFFINE, Image.Resampling.BILINEAR
    return part.transform(alignment.crop_size, kind, matrix, kernel, fillcolor=GREY)


def run_detector(detector: Any, picture: np.ndarray) -> np.ndarray:
    """Run YuNet on RGB pixels [h, w, 3]; returns rows of box (4), landmarks (10) and score."""
    detector.setInputSize((picture.shape[1], picture.shape[0]))
    _, found = detector.detect(np.ascontiguousarray(picture[..., ::-1]))
    return np.empty((0, 15)) if found is None else np.asarray(found, dtype=np.float64)


def _face(points: np.ndarray, size: float, score: float) -> DetectedFace:
    return DetectedFace(FaceLandmarks.from_points(points), float(size), float(score))


def _turn_back(points: np.ndarray, size: tuple[int, int], turns: int) -> np.ndarray:
    """Map points [..., 2] of a picture of `size` that was turned counter-clockwise to the picture before."""
    width, height = size
    for _ in range(turns):
        points = np.stack([height - points[..., 1], points[..., 0]], axis=-1)
        width, height = height, width
    return points
