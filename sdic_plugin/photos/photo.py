"""One photo: load an example, crop it, compare its inversion with it, name its files."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from sdic_plugin.errors import SDICError, sentence_of
from sdic_plugin.images.alignment import Alignment
from sdic_plugin.images.face_alignment import Template, align_eyes, align_face, read_template
from sdic_plugin.images.metrics import psnr
from sdic_plugin.images.processor import SDICImageProcessor
from sdic_plugin.photos.inputs import EXAMPLES, Eyes, Photo, check_example
from sdic_plugin.pipeline.output import SDICInversion
from sdic_plugin.pipeline.sdic import SDICPipeline

logger = logging.getLogger(__name__)


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
    picture: Image.Image,
    eyes: Eyes | None,
    face: str | int | None = None,
    detector: str | os.PathLike[str] | None = None,
) -> tuple[Image.Image, Alignment]:
    """Crop a photo to what the model expects: by its eyes, or by a face found in it, else the centre.

    Args:
        pipe: The pipeline, whose configuration holds the alignment template.
        picture: The whole photo, RGB and upright.
        eyes: Its two eye centres; None if unknown.
        face: Without eyes, the face to find: "largest", or a number counted from the left; None for the centre.
        detector: File of the face detector; see `sdic_plugin.images.face_detection`.

    Raises:
        SDICError: If eyes or a face are given and the model has no template, or there is no such face.
    """
    height, width = pipe.image_size
    if eyes is not None:
        return align_eyes(picture, eyes, model_template(pipe), width, height)
    if face is not None:
        from sdic_plugin.images.face_detection import choose_face, detect_faces

        template = model_template(pipe)
        landmarks = choose_face(detect_faces(picture, detector), face).landmarks
        return align_face(picture, landmarks, template, width, height)
    scale = max(width / picture.width, height / picture.height)
    shift_x, shift_y = (width - picture.width * scale) / 2, (height - picture.height * scale) / 2
    alignment = Alignment(((scale, 0.0, shift_x), (0.0, scale, shift_y)), (width, height), picture.size)
    processor = SDICImageProcessor(height, width)
    return processor.postprocess(processor.preprocess(picture), "pil")[0], alignment


def needed_detector(
    photos: Sequence[Photo], face: str | int | None, detector: str | os.PathLike[str] | None
) -> str | None:
    """File of the face detector if one is needed, found once: a Hub out of reach keeps one waiting.

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
