"""Sliders in bulk: one inversion, an edit at many strengths, or two edits crossed, as a grid and as a GIF."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from sdic_plugin.atomic import replacing_file
from sdic_plugin.errors import EditError, SDICError
from sdic_plugin.image_processor import load_image
from sdic_plugin.photos import Photo, PhotoSummary, crop_photo, edit_label, file_label, subject_note
from sdic_plugin.pipeline import SDICPipeline
from sdic_plugin.pipeline_output import SDICInversion
from sdic_plugin.sampling import save_picture
from sdic_plugin.visualization import SheetCell, SheetRow, comparison_sheet

MAX_PICTURES = 1024


@dataclass(frozen=True)
class Sweep:
    """One edit at several strengths.

    Attributes:
        name: Of the edit.
        strengths: In the order shown.
    """

    name: str
    strengths: tuple[float, ...]


def parse_sweep(text: str) -> Sweep:
    """Read "name=FIRST:LAST:COUNT", such as "turn=-3:3:7".

    Raises:
        EditError: If the text is something else.
    """
    name, _, values = text.partition("=")
    try:
        first, last, count = values.split(":")
        low, high, number = float(first), float(last), int(count)
    except ValueError:
        name = ""
    if not name.strip() or number < 2 or not math.isfinite(low) or not math.isfinite(high) or low == high:
        raise EditError(f"The sweep {text!r} is not of the form name=FIRST:LAST:COUNT, such as turn=-3:3:7.")
    steps = [low + (high - low) * i / (number - 1) for i in range(number)]
    return Sweep(name.strip(), tuple(round(step, 6) + 0.0 for step in steps))


def render_sweeps(
    pipe: SDICPipeline,
    inversion: SDICInversion,
    sweeps: Sequence[Sweep],
    edits: Mapping[str, float] | None = None,
    batch_size: int = 8,
    **options: object,
) -> list[list[Image.Image]]:
    """Render one inversion at every strength of a sweep, or at every pair of strengths of two.

    Args:
        pipe: With the edits.
        inversion: Of one photo.
        sweeps: One, whose strengths are the columns; or two, of which the second's are the rows.
        edits: Further edits, the same in every picture.
        batch_size: Pictures per generator pass; the photo is not inverted again.
        options: As for `SDICPipeline.edit` (`compensation`, `mask`, `feature_edit`).

    Returns:
        Rows of pictures.

    Raises:
        EditError: If there is no sweep or more than two, they share an edit, or would make too many pictures.
    """
    names = [sweep.name for sweep in sweeps] + list(edits or {})
    if not 1 <= len(sweeps) <= 2 or len(set(names)) != len(names):
        raise EditError(f"A grid takes one or two sweeps of different edits, but {names} were given.")
    columns, rows = sweeps[0], sweeps[1] if len(sweeps) == 2 else None
    count = len(columns.strengths) * (len(rows.strengths) if rows else 1)
    if count > MAX_PICTURES:
        raise EditError(f"These sweeps make {count} pictures, but at most {MAX_PICTURES} go into a grid: take fewer.")
    width = len(columns.strengths)
    strengths: dict[str, Sequence[float]] = {name: [strength] * count for name, strength in (edits or {}).items()}
    strengths[columns.name] = list(columns.strengths) * (count // width)
    if rows is not None:
        strengths[rows.name] = [strength for strength in rows.strengths for _ in range(width)]
    pictures = pipe.edit(inversion.repeat(count), edits=strengths, batch_size=batch_size, **options).images
    return [pictures[start : start + width] for start in range(0, count, width)]


def sweep_sheet(sweeps: Sequence[Sweep], pictures: Sequence[Sequence[Image.Image]], title: str = "") -> Image.Image:
    """Lay the pictures of `render_sweeps` out, with the strengths written beside them."""
    heads = [f"{sweeps[0].name} {strength:+g}" for strength in sweeps[0].strengths]
    rows = sweeps[1] if len(sweeps) == 2 else None
    titles = [title] if rows is None else [f"{rows.name} {strength:+g}" for strength in rows.strengths]
    return comparison_sheet(
        [
            SheetRow({head: SheetCell(picture) for head, picture in zip(heads, line, strict=True)}, title=name)
            for name, line in zip(titles, pictures, strict=True)
        ]
    )


def save_gif(
    pictures: Sequence[Image.Image], path: str | os.PathLike, milliseconds: int = 120, smallest_side: int = 256
) -> Path:
    """Write pictures as a GIF that runs to the last and back, whole or not at all.

    Args:
        pictures: Frames, in order.
        path: The file.
        milliseconds: Per frame.
        smallest_side: Smaller pictures are enlarged to this, so that they can be seen.
    """
    if len(pictures) < 2:
        raise SDICError(f"A GIF takes two pictures or more, but {len(pictures)} were given.")
    factor = max(1, -(-smallest_side // min(pictures[0].size)))
    size = tuple(side * factor for side in pictures[0].size)
    frames = [picture.convert("RGB").resize(size, Image.Resampling.BICUBIC) for picture in pictures]
    frames += frames[-2:0:-1]
    path = Path(path)
    with replacing_file(path) as temporary:
        frames[0].save(temporary, format="GIF", save_all=True, append_images=frames[1:], duration=milliseconds, loop=0)
    return path


def sweep_photos(
    pipe: SDICPipeline,
    photos: Sequence[Photo],
    output: Path,
    sweeps: Sequence[Sweep],
    edits: Mapping[str, float] | None = None,
    refine_steps: int = 0,
    progress: Callable[[int], object] | None = None,
    **options: object,
) -> PhotoSummary:
    """Write `NAME_sweep_<edits>.png` per photo, and the GIF of a single sweep beside it; failed photos are noted.

    Args:
        pipe: With the edits.
        photos: See `sdic_plugin.photos.find_photos`.
        output: Folder; made if needed.
        sweeps: One or two.
        edits: Further edits, the same in every picture.
        refine_steps: See `SDICPipeline.invert`.
        progress: Called with the number of photos that were finished since.
        options: As for `SDICPipeline.edit`.

    Raises:
        SDICError: If the sweeps or options themselves make no sense.
    """
    for name in [sweep.name for sweep in sweeps] + list(edits or {}):
        pipe.find_edit(name)
    summary = PhotoSummary()
    for photo in photos:
        try:
            crop, _ = crop_photo(pipe, load_image(photo.source), photo.eyes)
            inversion = pipe.invert(crop, refine_steps=refine_steps, check_subject=False)
            note = subject_note(pipe, inversion, photo)
            if note is not None:
                summary.notes[photo.label] = note
            pictures = render_sweeps(pipe, inversion, sweeps, edits, **options)
            label = "_".join([*(sweep.name for sweep in sweeps), *([edit_label(edits)] if edits else [])])
            stem = output / f"{photo.name}_sweep_{file_label(label)}"
            sheet = sweep_sheet(sweeps, pictures, photo.name)
            summary.written.append(save_picture(sheet, stem.with_name(f"{stem.name}.png")))
            if len(sweeps) == 1:
                summary.written.append(save_gif(pictures[0], stem.with_name(f"{stem.name}.gif")))
        except (SDICError, OSError) as error:
            summary.failed[photo.label] = str(error)
        if progress is not None:
            progress(1)
    return summary
