"""The main job on files: find photos, crop, invert, edit, paste back, write pictures and a comparison sheet."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from sdic_plugin.alignment import Alignment, paste_back
from sdic_plugin.atomic import replacing_file
from sdic_plugin.errors import EditError, SDICError
from sdic_plugin.evaluation.metrics import psnr
from sdic_plugin.face_alignment import Template, align_eyes, align_face, read_template
from sdic_plugin.image_processor import SDICImageProcessor, load_image
from sdic_plugin.pipeline import SDICPipeline
from sdic_plugin.pipeline_output import SDICInversion
from sdic_plugin.visualization import DISCREPANCY_LABEL, SheetCell, SheetRow, comparison_sheet, discrepancy_to_image

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"}

EXAMPLES: dict[str, tuple[float, float, float, float]] = {
    "chelsea": (172.0, 113.0, 316.0, 134.0),
    "astronaut": (204.0, 102.0, 247.0, 104.0),
}
"""Photographs that come with scikit-image, and the eye centres in them: x1, y1, x2, y2 in pixels."""

Eyes = tuple[float, float, float, float]


@dataclass(frozen=True)
class Photo:
    """One photo to work on.

    Attributes:
        name: Relative name without suffix, which the outputs start with.
        source: Path, or the picture itself.
        eyes: The two eye centres x1, y1, x2, y2 in pixels, or None if the photo shows the subject as it should be.
    """

    name: str
    source: Path | Image.Image
    eyes: Eyes | None = None


@dataclass(frozen=True)
class PhotoOptions:
    """What to do with each photo.

    Attributes:
        edits: One picture per entry, each with the strengths by name of edits to combine.
        paste: None, "replace" (put the edited crop into the photo) or "difference" (add only what the edit changed).
        feature_edit: See `SDICPipeline.edit`.
        compensation: See `SDICPipeline.edit`.
        mask: See `SDICPipeline.edit`.
        save_inversion: Also write `NAME_inversion.safetensors`.
        refine_steps: Steps of an optimisation of each inversion; see `SDICPipeline.invert`.
        face: Find a face in photos whose eyes are not given: "largest", or a number counted from the left; None takes
            photos as they are.
        detector: File of the face detector; see `sdic_plugin.face_detection`.
    """

    edits: Sequence[Mapping[str, float]] = ()
    paste: str | None = None
    feature_edit: str | None = None
    compensation: float = 1.0
    mask: str | None = None
    save_inversion: bool = False
    refine_steps: int = 0
    face: str | int | None = None
    detector: str | None = None


@dataclass
class PhotoSummary:
    """What became of the photos.

    Attributes:
        written: Files written.
        figures: PSNR in dB of the initial reconstruction and of the inversion, by photo.
        failed: Reason by photo that could not be processed.
    """

    written: list[Path] = field(default_factory=list)
    figures: dict[str, tuple[float, float]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def load_example(name: str) -> Photo:
    """Load one of the photographs that come with scikit-image.

    Raises:
        SDICError: If the example is unknown or scikit-image is not installed.
    """
    if name not in EXAMPLES:
        raise SDICError(f"The example {name!r} is unknown; there is {', '.join(sorted(EXAMPLES))}.")
    try:
        from skimage import data
    except ImportError as error:
        raise SDICError(
            'The examples come with scikit-image, which is not installed: pip install "sdic-plugin[examples]".'
        ) from error
    return Photo(name, Image.fromarray(getattr(data, name)()), EXAMPLES[name])


def find_photos(paths: Sequence[str | os.PathLike], eyes: Eyes | None = None) -> list[Photo]:
    """List the photos that files and folders (searched to any depth) hold; names are made to differ.

    Raises:
        SDICError: If there is none, or eyes were given for several.
    """
    found: list[tuple[Path, Path]] = []
    for path in map(Path, paths):
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
            found += [(p, p.relative_to(path)) for p in inside]
        else:
            found.append((path, Path(path.name)))
    if not found:
        raise SDICError(
            f"No photo was found in {', '.join(map(str, paths)) or 'nothing'}: give picture files or folders."
        )
    if eyes is not None and len(found) > 1:
        raise SDICError(f"--eyes was given for {len(found)} photos, but eye points belong to one: give one photo.")
    photos, taken = [], set()
    for path, relative in found:
        name = "_".join(relative.with_suffix("").parts)
        unique, number = name, 2
        while unique in taken:
            unique, number = f"{name}_{number}", number + 1
        taken.add(unique)
        photos.append(Photo(unique, path, eyes))
    return photos


def parse_edits(texts: Sequence[str]) -> list[dict[str, float]]:
    """Parse command-line edits: each text is one picture, "name=strength", several joined by commas.

    Raises:
        EditError: If a text is not of that form.
    """
    pictures = []
    for text in texts:
        strengths: dict[str, float] = {}
        for part in text.split(","):
            name, separator, value = part.partition("=")
            try:
                strengths[name.strip()] = float(value)
            except ValueError:
                separator = ""
            if not separator or not name.strip():
                raise EditError(f"The edit {text!r} is not of the form name=strength, such as warmth=1.5.")
        pictures.append(strengths)
    return pictures


def process_photos(
    pipe: SDICPipeline, photos: Sequence[Photo], output: Path, options: PhotoOptions, progress: Sequence | None = None
) -> PhotoSummary:
    """Invert and edit every photo; a photo that fails is noted with its reason and the rest is done.

    For each photo this writes `NAME_inversion.png`, one `NAME_<edits>.png` per edit (and `…_pasted.png` with `paste`),
    and `NAME_sheet.png`, the comparison sheet with PSNR.

    Args:
        pipe: The pipeline.
        photos: The photos.
        output: Folder for the pictures; made if needed.
        options: What to do.
        progress: The photos wrapped in a progress bar, if wanted.

    Raises:
        SDICError: If the options themselves make no sense (unknown edits, no template …).
    """
    for strengths in options.edits:
        pipe.check_edit_inputs(edits=strengths, feature_edit=options.feature_edit, compensation=options.compensation)
    if options.refine_steps < 0:
        raise SDICError(f"refine_steps is {options.refine_steps}, but must be 0 or more.")
    if options.mask not in (None, "auto"):
        load_image(options.mask)
    output.mkdir(parents=True, exist_ok=True)
    summary = PhotoSummary()
    for photo in progress if progress is not None else photos:
        try:
            process_photo(pipe, photo, output, options, summary)
        except (SDICError, OSError) as error:
            summary.failed[str(photo.source) if isinstance(photo.source, Path) else photo.name] = str(error)
    return summary


def process_photo(
    pipe: SDICPipeline, photo: Photo, output: Path, options: PhotoOptions, summary: PhotoSummary
) -> None:
    """Invert and edit one photo, write its pictures, and note them in the summary."""
    picture = load_image(photo.source)
    crop, alignment = crop_photo(pipe, picture, photo.eyes, options.face, options.detector)
    inversion = pipe.invert(crop, refine_steps=options.refine_steps)
    pictures = {"inversion": render(pipe, inversion, {}, options)}
    for strengths in options.edits:
        pictures[edit_label(strengths)] = render(pipe, inversion, strengths, options)
    before, after = reconstruction_psnr(pipe, inversion, pictures["inversion"])
    summary.figures[photo.name] = (before, after)

    for label, rendered in pictures.items():
        summary.written.append(_save(rendered, output / f"{photo.name}_{file_label(label)}.png"))
        if options.paste is not None:
            reference = pictures["inversion"] if options.paste == "difference" else None
            pasted = paste_back(picture, rendered, alignment, reference=reference)
            summary.written.append(_save(pasted, output / f"{photo.name}_{file_label(label)}_pasted.png"))
    sheet = comparison_sheet([sheet_row(pipe, photo.name, inversion, pictures, before, after)])
    summary.written.append(_save(sheet, output / f"{photo.name}_sheet.png"))
    if options.save_inversion:
        path = output / f"{photo.name}_inversion.safetensors"
        inversion.save(path)
        summary.written.append(path)


def crop_photo(
    pipe: SDICPipeline,
    picture: Image.Image,
    eyes: Eyes | None,
    face: str | int | None = None,
    detector: str | os.PathLike | None = None,
) -> tuple[Image.Image, Alignment]:
    """Crop a photo to what the model expects: by its eyes, or by a face found in it, else the centre.

    Args:
        pipe: The pipeline, whose configuration holds the alignment template.
        picture: The photo.
        eyes: Its two eye centres; None if unknown.
        face: Without eyes, the face to find: "largest", or a number counted from the left; None for the centre.
        detector: File of the face detector; see `sdic_plugin.face_detection`.

    Raises:
        SDICError: If eyes or a face are given and the model has no template, or there is no such face.
    """
    height, width = pipe.image_size
    if eyes is not None:
        return align_eyes(picture, eyes, model_template(pipe), width, height)
    if face is not None:
        from sdic_plugin.face_detection import choose_face, detect_faces

        template = model_template(pipe)
        landmarks = choose_face(detect_faces(picture, detector), face).landmarks
        return align_face(picture, landmarks, template, width, height)
    scale = max(width / picture.width, height / picture.height)
    shift_x, shift_y = (width - picture.width * scale) / 2, (height - picture.height * scale) / 2
    alignment = Alignment(((scale, 0.0, shift_x), (0.0, scale, shift_y)), (width, height), picture.size)
    processor = SDICImageProcessor(height, width)
    return processor.postprocess(processor.preprocess(picture), "pil")[0], alignment


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


def render(
    pipe: SDICPipeline, inversion: SDICInversion, strengths: Mapping[str, float], options: PhotoOptions
) -> Image.Image:
    """Render one edit (none: the inversion, with full compensation)."""
    if not strengths:
        return pipe.edit(inversion).images[0]
    return pipe.edit(
        inversion,
        edits=strengths,
        feature_edit=options.feature_edit,
        compensation=options.compensation,
        mask=options.mask,
    ).images[0]


def reconstruction_psnr(pipe: SDICPipeline, inversion: SDICInversion, rendered: Image.Image) -> tuple[float, float]:
    """PSNR in dB of the initial reconstruction and of the inversion against the photo, at the encoder's size."""
    target = (inversion.image.float().cpu() / 2 + 0.5).clamp(0, 1)
    initial = pipe.shrink_initial(inversion.initial).float().cpu() / 2 + 0.5
    final = SDICImageProcessor(*pipe.image_size).preprocess(rendered) / 2 + 0.5
    return psnr(initial, target).item(), psnr(final, target).item()


def sheet_row(
    pipe: SDICPipeline,
    name: str,
    inversion: SDICInversion,
    pictures: Mapping[str, Image.Image],
    before: float,
    after: float,
) -> SheetRow:
    """Lay out one photo: original, initial reconstruction, discrepancy, inversion, edits."""
    processor = SDICImageProcessor(*pipe.image_size)
    cells = {
        "original": SheetCell(processor.postprocess(inversion.image, "pil")[0]),
        "initial": SheetCell(
            processor.postprocess(inversion.initial[:, :, pipe.output_rows], "pil")[0], f"PSNR {before:.1f} dB"
        ),
        DISCREPANCY_LABEL: SheetCell(discrepancy_to_image(inversion.discrepancy[0].float().cpu())),
    }
    for label, rendered in pictures.items():
        cells[label] = SheetCell(rendered, f"PSNR {after:.1f} dB" if label == "inversion" else "")
    return SheetRow(cells, title=name)


def edit_label(strengths: Mapping[str, float]) -> str:
    """Name a combination of edits: "warmth +1.5"."""
    return ", ".join(f"{name} {strength:+g}" for name, strength in strengths.items())


def file_label(label: str) -> str:
    """Turn a label into a part of a file name."""
    return re.sub(r"[^\w.+-]+", "_", label)


def _save(picture: Image.Image, path: Path) -> Path:
    """Write a PNG, whole or not at all."""
    with replacing_file(path) as temporary:
        picture.save(temporary, format="PNG")
    return path
