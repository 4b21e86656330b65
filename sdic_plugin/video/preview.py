"""A few frames of a video before and after its edit, as one picture: a look before the long work."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image

from sdic_plugin.errors import SDICError
from sdic_plugin.images.alignment import FEATHER, paste_back
from sdic_plugin.images.sheets import SheetCell, SheetRow, comparison_sheet, save_picture
from sdic_plugin.pipeline.sdic import SDICPipeline
from sdic_plugin.video.crops import crop_frame
from sdic_plugin.video.inputs import check_video_files, output_format, preview_path
from sdic_plugin.video.options import VideoOptions
from sdic_plugin.video.process import Progress, VideoSummary, tracked, video_notes
from sdic_plugin.video.progress_folder import ProgressFolder
from sdic_plugin.video.reading import VideoReader
from sdic_plugin.video.writing import Encoding

MOST_FRAMES = 64
"""Frames of a preview; they are all in memory at once."""

CELL = 384
"""Longer side, in pixels, at which frames are shown."""


def preview_video(
    pipe: SDICPipeline,
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    options: VideoOptions,
    count: int = 4,
    progress: Progress | None = None,
) -> VideoSummary:
    """Write a sheet of frames, evenly spread over those with the subject, before and after the edit.

    What was found in the video is kept beside the output, so that editing it does not search again.

    Args:
        pipe: On its device, with the edits that the options name.
        source: The video.
        output: The video that would be written; the sheet is `NAME_preview.png` beside it.
        options: As for `edit_video`.
        count: Number of frames, at most `MOST_FRAMES`.
        progress: Told how far it is.

    Returns:
        The sheet's path; of the video, how many frames there are, how many would be edited, and what a person should
        know.

    Raises:
        SDICError: As `edit_video` does.
    """
    source, output = Path(source), Path(output)
    options.check()
    if not 1 <= count <= MOST_FRAMES:
        raise SDICError(f"A preview of {count} frames was asked for, and 1 to {MOST_FRAMES} are possible.")
    pipe.check_edit_inputs(edits=options.edits, feature_edit=options.feature_edit, compensation=options.compensation)
    check_video_files(source, output, overwrite=True)
    reader = VideoReader(source)
    with ProgressFolder(output) as kept:
        track, notes = tracked(pipe, reader, options, kept, progress)
    notes += video_notes(Encoding(output_format(output), options.quality, reader.info), track, options)
    track = track.steadied(reader.info.time_base, options.longest_gap, options.smoothing)
    there = np.flatnonzero(track.has_subject)
    chosen = set(there[np.linspace(0, len(there) - 1, min(count, len(there))).round().astype(int)].tolist())
    frames, last = {}, max(chosen)
    for frame in reader.frames():
        if frame.index in chosen:
            frames[frame.index] = frame
        if frame.index == last:
            break
    indices = sorted(frames)
    crops = [crop_frame(pipe, frames[i], track.alignment(i)) for i in indices]
    inversion = pipe.invert(
        crops, batch_size=options.batch_size, refine_steps=options.refine_steps, check_subject=False
    )
    rest, edited = (
        pipe.edit(
            inversion, edits, batch_size=options.batch_size, compensation=options.compensation, mask=options.mask,
            feature_edit=options.feature_edit,
        ).images
        for edits in ({}, options.edits)
    )  # fmt: skip
    seconds, rows = track.seconds(reader.info.time_base), []
    for i, before, after in zip(indices, rest, edited, strict=True):
        picture = frames[i].rgb()
        pasted = paste_back(picture, after, track.alignment(i), before, FEATHER)
        cells = {"before": SheetCell(_shown(picture)), "after": SheetCell(_shown(pasted))}
        rows.append(SheetRow(cells, title=f"{seconds[i]:.2f} s"))
    sheet = save_picture(comparison_sheet(rows, cell_size=CELL), preview_path(output))
    return VideoSummary(sheet, len(track), len(there), notes=notes)


def _shown(frame: Image.Image) -> Image.Image:
    frame.thumbnail((CELL, CELL), Image.Resampling.LANCZOS)
    return frame
