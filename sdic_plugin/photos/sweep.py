"""Sliders in bulk: one inversion, an edit at many strengths, or two edits crossed, as a grid and as a GIF."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Unpack

from PIL import Image

from sdic_plugin.errors import SDICError
from sdic_plugin.images.reading import load_image
from sdic_plugin.images.sheets import SheetCell, SheetRow, comparison_sheet, save_picture
from sdic_plugin.photos.fingerprints import digest, edit_digest, file_digest, pipeline_digest
from sdic_plugin.photos.masks import crop_mask, cut_mask_digest, read_mask
from sdic_plugin.photos.photo import (
    Photo,
    PhotoSummary,
    edit_label,
    face_settings,
    file_label,
    find_crop,
    needed_detector,
    subject_note,
)
from sdic_plugin.photos.processes import ALONE, Processes
from sdic_plugin.photos.results import EDITED, PhotoIdentity, is_done, named_photos
from sdic_plugin.photos.strengths import Sweep, check_sweeps
from sdic_plugin.pipeline.options import RenderOptions
from sdic_plugin.pipeline.output import SDICInversion
from sdic_plugin.pipeline.sdic import SDICPipeline
from sdic_plugin.utils.files import check_output_folder, replacing_file


def render_sweeps(
    pipe: SDICPipeline,
    inversion: SDICInversion,
    sweeps: Sequence[Sweep],
    edits: Mapping[str, float] | None = None,
    batch_size: int = 8,
    **options: Unpack[RenderOptions],
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
    check_sweeps(sweeps, edits)
    columns, rows = sweeps[0], sweeps[1] if len(sweeps) == 2 else None
    count = math.prod(len(sweep.strengths) for sweep in sweeps)
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
    pictures: Sequence[Image.Image],
    path: str | os.PathLike[str],
    milliseconds: int = 120,
    smallest_side: int = 256,
    comment: str = "",
) -> Path:
    """Write pictures as a GIF that runs to the last and back, whole or not at all.

    Args:
        pictures: Frames, in order.
        path: Replaced if it is there.
        milliseconds: Per frame.
        smallest_side: Smaller pictures are enlarged to this, so that they can be seen.
        comment: Text for the file's comment.
    """
    if len(pictures) < 2:
        raise SDICError(f"A GIF takes two pictures or more, but {len(pictures)} were given.")
    factor = max(1, -(-smallest_side // min(pictures[0].size)))
    size = pictures[0].width * factor, pictures[0].height * factor
    frames = [picture.convert("RGB").resize(size, Image.Resampling.BICUBIC) for picture in pictures]
    frames += frames[-2:0:-1]
    path = Path(path)
    with replacing_file(path) as temporary:
        options = {"save_all": True, "append_images": frames[1:], "duration": milliseconds, "loop": 0}
        frames[0].save(temporary, format="GIF", comment=comment.encode(), **options)
    return path


def sweep_photos(
    pipe: SDICPipeline,
    photos: Sequence[Photo],
    output: Path,
    sweeps: Sequence[Sweep],
    edits: Mapping[str, float] | None = None,
    refine_steps: int = 0,
    progress: Callable[[int], object] | None = None,
    skip_existing: bool = False,
    face: str | int | None = None,
    detector: str | None = None,
    processes: Processes = ALONE,
    batch_size: int = 8,
    **options: Unpack[RenderOptions],
) -> PhotoSummary:
    """Write `NAME_sweep_<edits>.png` per photo, and the GIF of a single sweep beside it; failed photos are noted.

    Args:
        pipe: With the edits.
        photos: See `sdic_plugin.photos.find.find_photos`.
        output: Folder; made if needed.
        sweeps: One or two.
        edits: Further edits, the same in every picture.
        refine_steps: See `SDICPipeline.invert`.
        progress: Called with the number of photos that were finished since.
        skip_existing: Leave photos alone of which every file is there already, made of them with these settings.
        face: See `sdic_plugin.photos.photo.find_crop`.
        detector: File of the face detector; see `sdic_plugin.images.face_detection`.
        processes: Those that share the photos.
        batch_size: Pictures per generator pass.
        options: As for `SDICPipeline.edit`; a mask that is a picture has each photo's size or its crop's aspect.

    Raises:
        SDICError: If the sweeps or options themselves make no sense, or the folder cannot be written.
    """
    check_sweeps(sweeps, edits)
    pipe.check_strengths({**{sweep.name: sweep.strengths for sweep in sweeps}, **(edits or {})})
    names = [sweep.name for sweep in sweeps] + list(edits or {})
    used = {name: edit_digest(pipe.find_edit(name)) for name in names}
    check_output_folder(output)
    mask = read_mask(options.get("mask"))
    detector = needed_detector(photos, face, detector)
    ends = [".png", ".gif"] if len(sweeps) == 1 else [".png"]
    label = "_".join([*(sweep.name for sweep in sweeps), *([edit_label(edits)] if edits else [])])
    files = [f"_sweep_{file_label(label)}{end}" for end in ends]
    finding = (*face_settings(face), None if detector is None else file_digest(detector))
    rendering = (used, [asdict(sweep) for sweep in sweeps], edits, options, cut_mask_digest(options.get("mask")))
    recipe = (pipeline_digest(pipe), finding, refine_steps, rendering)
    share = processes.share(named_photos(photos, output, files))
    summary = PhotoSummary(renamed={photo.name: photo.label for photo in share if photo.name != photo.stem})
    for photo in share:
        settings, paths = digest(recipe, photo.eyes), [output / f"{photo.name}{file}" for file in files]
        try:
            if skip_existing and is_done(photo, dict.fromkeys(paths, settings)):
                summary.skipped += 1
            else:
                crop = find_crop(pipe, load_image(photo.source), photo.eyes, face, detector)
                inversion = pipe.invert(crop.picture, refine_steps=refine_steps, check_subject=False)
                notes = [crop.note, subject_note(pipe, inversion, photo, face)]
                if any(notes):
                    summary.notes[photo.label] = "; ".join(filter(None, notes))
                own = options.copy()
                if mask is not None:
                    own["mask"] = crop_mask(mask, crop.alignment)
                pictures = render_sweeps(pipe, inversion, sweeps, edits, batch_size, **own)
                metadata = PhotoIdentity(photo).mark(EDITED, settings).to_metadata()
                summary.written.append(save_picture(sweep_sheet(sweeps, pictures, photo.name), paths[0], metadata))
                if len(paths) > 1:
                    summary.written.append(save_gif(pictures[0], paths[1], comment=json.dumps(metadata)))
        except (SDICError, OSError) as error:
            summary.fail(photo, error)
        if progress is not None:
            progress(1)
    return summary
