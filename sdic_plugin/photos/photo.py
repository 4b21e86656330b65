"""One photo: load an example, crop it, compare its inversion with it, name its files."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from sdic_plugin.errors import SDICError, sentence_of
from sdic_plugin.images.alignment import Alignment
from sdic_plugin.images.face_alignment import Template, align_eyes, align_face, is_of_faces, read_template
from sdic_plugin.images.metrics import psnr
from sdic_plugin.images.processor import SDICImageProcessor
from sdic_plugin.images.reading import ImageSource, load_image
from sdic_plugin.photos.inputs import AUTOMATIC, EXAMPLES, Eyes, Photo, check_example
from sdic_plugin.pipeline.output import SDICInversion
from sdic_plugin.pipeline.sdic import SDICPipeline

logger = logging.getLogger(__name__)


ALIGNED = 0.1
"""A crop of a face whose corners are no further from the photo's, as a share of its side, is the photo itself."""


class Crop(NamedTuple):
    """What the model is to see of a photo.

    Attributes:
        picture: RGB, of the model's size.
        alignment: Where that lies in the photo.
        note: What a person should know about how it was chosen; None for nothing.
    """

    picture: Image.Image
    alignment: Alignment
    note: str | None = None


@dataclass(frozen=True)
class ExamplePhoto(Photo):
    """A photograph in memory, whose eye centres are known."""

    source: Image.Image
    eyes: Eyes


@dataclass
class PhotoSummary:
    """What became of the photos.

    Attributes:
        written: Files written.
        figures: PSNR in dB of the initial reconstruction and of the inversion, by photo.
        failed: Reason by photo that could not be processed.
        renamed: Photo by name, where that is not its own as another one has it.
        skipped: Photos left out because all their files were there, made as they would be now.
        notes: Warnings about photos that were processed all the same, by photo.
    """

    written: list[Path] = field(default_factory=list)
    figures: dict[str, tuple[float, float]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)
    skipped: int = 0
    notes: dict[str, str] = field(default_factory=dict)

    def fail(self, photo: Photo, error: Exception) -> None:
        """Note that a photo could not be processed, and why."""
        self.failed[photo.label] = sentence_of(error)

    def add(self, other: PhotoSummary) -> None:
        """Take in what became of other photos."""
        self.written += other.written
        self.figures |= other.figures
        self.failed |= other.failed
        self.renamed |= other.renamed
        self.skipped += other.skipped
        self.notes |= other.notes


def load_example(name: str) -> ExamplePhoto:
    """Load one of the photographs that come with scikit-image.

    Raises:
        SDICError: If the example is unknown or scikit-image is not installed.
    """
    check_example(name)
    try:
        from skimage import data
    except ImportError as error:
        raise SDICError(
            'The examples come with scikit-image, which is not installed: pip install "sdic-plugin[examples]".'
        ) from error
    file = Path(data.data_dir) / f"{name}.png"
    if file.is_file():  # scikit-image's own reader imports half of SciPy first
        with Image.open(file) as picture:
            return ExamplePhoto(name, picture.convert("RGB"), EXAMPLES[name])
    return ExamplePhoto(name, Image.fromarray(getattr(data, name)()), EXAMPLES[name])


def crop_photo(
    pipe: SDICPipeline,
    picture: ImageSource,
    eyes: Eyes | None,
    face: str | int | None = None,
    detector: str | os.PathLike[str] | None = None,
) -> tuple[Image.Image, Alignment]:
    """Crop a photo to what the model expects: by its eyes, or by a face found in it, else the centre.

    Arguments and errors as for `find_crop`, whose note is left out; the photo may also be a path, the bytes of a file,
    or a picture that `load_image` has yet to turn upright.
    """
    return find_crop(pipe, load_image(picture), eyes, face, detector)[:2]


def find_crop(
    pipe: SDICPipeline,
    picture: Image.Image,
    eyes: Eyes | None,
    face: str | int | None = None,
    detector: str | os.PathLike[str] | None = None,
) -> Crop:
    """Crop a photo to what the model expects, and say what is worth knowing about it.

    Args:
        pipe: The pipeline, whose configuration holds the alignment template.
        picture: The whole photo, RGB and upright.
        eyes: Its two eye centres; None if unknown.
        face: Without eyes, the face to find: "largest", a number counted from the left, or "auto": the largest, unless
            there is none or the photo is an aligned crop already; None, for the photo's centre.
        detector: File of the face detector; see `sdic_plugin.images.face_detection`.

    Raises:
        SDICError: If eyes or a face are given and the model has no template, or there is no such face.
    """
    height, width = pipe.image_size
    if eyes is not None:
        return Crop(*align_eyes(picture, eyes, model_template(pipe), width, height))
    if face is None:
        return _crop_centre(pipe, picture)
    if face == AUTOMATIC and not has_opencv():
        return _crop_centre(
            pipe, picture, 'faces are not looked for without OpenCV (pip install "sdic-plugin[align]")'
        )
    from sdic_plugin.images.face_detection import choose_face, detect_faces

    template, faces = model_template(pipe), detect_faces(picture, detector)
    if face != AUTOMATIC:
        return Crop(*align_face(picture, choose_face(faces, face).landmarks, template, width, height))
    if not faces:
        return _crop_centre(pipe, picture, "no face was found in it; --eyes says where its eyes are")
    found, alignment = align_face(picture, choose_face(faces).landmarks, template, width, height)
    corners = np.array([(0, 0), (picture.width, 0), picture.size, (0, picture.height)])
    if np.abs(alignment.quad - corners).max() <= ALIGNED * max(picture.size):
        return _crop_centre(pipe, picture)
    several = f"the largest of its {len(faces)} faces was taken; --face N takes another" if len(faces) > 1 else None
    return Crop(found, alignment, several)


def face_settings(face: str | int | None) -> tuple[object, ...]:
    """What crops depend on beside the photo and the detector, for digests: whether "auto" could look for faces."""
    return (face, "without OpenCV") if face == AUTOMATIC and not has_opencv() else (face,)


def has_opencv() -> bool:
    """Whether faces can be looked for."""
    try:
        import cv2  # noqa: F401
    except ImportError:  # not installed, or a library of the system is missing
        return False
    return True


def finds_faces(pipe: SDICPipeline) -> bool:
    """Whether the model is of people's faces, cropped as FFHQ's were, so that the face detector finds its subject."""
    return is_of_faces(pipe.config.alignment)


def suitable_example(pipe: SDICPipeline) -> str:
    """Name the example photo that suits a model: a person's for a model of people's faces, else a cat's."""
    return "astronaut" if finds_faces(pipe) else "chelsea"


def _crop_centre(pipe: SDICPipeline, picture: Image.Image, reason: str | None = None) -> Crop:
    height, width = pipe.image_size
    scale = max(width / picture.width, height / picture.height)
    shift_x, shift_y = (width - picture.width * scale) / 2, (height - picture.height * scale) / 2
    alignment = Alignment(((scale, 0.0, shift_x), (0.0, scale, shift_y)), (width, height), picture.size)
    processor = SDICImageProcessor(height, width)
    note = None if reason is None else f"it was taken as it is, as {reason}"
    return Crop(processor.postprocess(processor.preprocess(picture), "pil")[0], alignment, note)


def needed_detector(
    photos: Sequence[Photo], face: str | int | None, detector: str | os.PathLike[str] | None
) -> str | None:
    """File of the face detector if one is needed.

    Raises:
        CheckpointError: If there is none.
    """
    if face is None or all(photo.eyes is not None for photo in photos):
        return None
    from sdic_plugin.images.face_detection import find_detector

    return str(find_detector(detector))


def subject_note(
    pipe: SDICPipeline, inversion: SDICInversion, photo: Photo, face: str | int | None = None
) -> str | None:
    """Say, with what to do on the command line, that a photo looks unlike what the model was trained on; else None.

    Args:
        pipe: Judges only if it knows what its own kind of picture is like.
        inversion: Of the photo's crop.
        photo: Whether its eyes are known decides what the advice is.
        face: As `crop_photo` was given it.
    """
    if pipe.config.alignment is None:
        advice = "give a photo of the model's subject, cropped as its training pictures were"
    elif photo.eyes is None and face is None:
        advice = "give its eyes with --eyes, or find a person's face with --face"
    else:
        advice = "check that the right eyes were given or found, and that it shows the model's subject"
    return pipe.subject_warning(inversion, advice)


def model_template(pipe: SDICPipeline) -> Template:
    """Return the alignment template of a model.

    Raises:
        SDICError: If it has none.
    """
    if pipe.config.alignment is None:
        raise SDICError(
            "Eyes or a face were to be aligned, but this model has no alignment template: give aligned photos."
        )
    return read_template(pipe.config.alignment)


def reconstruction_psnr(
    pipe: SDICPipeline, inversion: SDICInversion, rendered: Sequence[Image.Image]
) -> list[tuple[float, float]]:
    """PSNR in dB of initial reconstructions and of inversions against their photos, at the encoder's size."""
    target = (inversion.image.float().cpu() / 2 + 0.5).clamp(0, 1)
    initial = pipe.shrink_initial(inversion.initial).float().cpu() / 2 + 0.5
    final = SDICImageProcessor(*pipe.image_size).preprocess(list(rendered)) / 2 + 0.5
    return list(zip(psnr(initial, target).tolist(), psnr(final, target).tolist(), strict=True))


def edit_label(strengths: Mapping[str, float]) -> str:
    """Name a combination of edits: "warmth +1.5"; different strengths have different names."""
    return ", ".join(f"{name} {_signed(strength)}" for name, strength in strengths.items())


def _signed(number: float) -> str:
    short = f"{number:+g}"
    return short if float(short) == number else f"{number:+}"


def file_label(label: str) -> str:
    """Turn a label into a part of a file name."""
    return re.sub(r"[^\w.+-]+", "_", label)
