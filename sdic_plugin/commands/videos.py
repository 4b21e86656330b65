"""`sdic edit` of a video."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sdic_plugin.checkpoints.folder import resolve_model
from sdic_plugin.commands.framework import Arguments, BareValue, given_options
from sdic_plugin.commands.parsing import check_eyes_or_face, check_face, check_from
from sdic_plugin.errors import EditError, SDICError, printable, shorten
from sdic_plugin.photos.inputs import AUTOMATIC, parse_eyes
from sdic_plugin.photos.strengths import parse_edits
from sdic_plugin.utils.devices import check_device
from sdic_plugin.utils.files import check_output_folder
from sdic_plugin.utils.ranges import check_compensation
from sdic_plugin.video.inputs import check_video_files
from sdic_plugin.video.options import VideoOptions

if TYPE_CHECKING:
    from sdic_plugin.pipeline.sdic import SDICPipeline

VIDEOS = "Videos"


@dataclass(kw_only=True)
class VideoArguments(Arguments):
    """Options of `sdic edit` that photos have no use for."""

    preview: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="only draw N frames, 4 if none is given, before and after: OUT_preview.png",
            rich_help_panel=VIDEOS,
        ),
        BareValue("4"),
    ] = None
    smoothing: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            help="smooth the crop, and half as far the change, over time; 0: each frame by itself",
            rich_help_panel=VIDEOS,
        ),
    ] = 0.1
    gap: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            help="how long a face may be missed; for longer, frames stay as they are",
            rich_help_panel=VIDEOS,
        ),
    ] = 0.5
    quality: Annotated[
        int,
        typer.Option(metavar="N", help="of the encoder: 0 loses nothing, 51 is the worst", rich_help_panel=VIDEOS),
    ] = 18
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="replace the video if it is there", rich_help_panel=VIDEOS)
    ] = False


def check_photos_only(options: VideoArguments) -> None:
    """Raise SDICError if an option for videos was given with photos."""
    for option in given_options(options, [each.name for each in fields(VideoArguments)]):
        raise SDICError(f"{option} is for videos, and photos were given: leave it out.")


def video_options(options: Any) -> VideoOptions:
    """Check the options of `sdic edit` for a video.

    Raises:
        SDICError: If one makes no sense, or is for photos.
    """
    for name, given in (
        ("--sweep", options.sweep),
        ("--save-inversion", options.save_inversion),
        ("--skip-existing", options.skip_existing),
        ("--no-sheets", options.no_sheets),
        ("--example", options.example),
        ("--paste-back replace", options.paste_back == "replace"),
    ):
        if given:
            raise SDICError(f"{name} is for photos, and a video was given: leave it out.")
    edits = parse_edits(options.edit)
    if len(edits) != 1:
        raise EditError(
            f"A video takes one --edit, and {len(edits)} were given: join several by commas, such as "
            "--edit warmth=1,turn=2."
        )
    check_compensation(options.compensation)
    check_from("refine_steps", options.refine_steps, 0)
    check_from("batch_size", options.batch_size, 1)
    check_from("--preview", options.preview, 1, 64)
    if options.face is not None:
        check_face(options.face, ("none",))
    check_eyes_or_face(options.eyes, options.face)
    made = VideoOptions(
        edits=edits[0],
        eyes=None if options.eyes is None else parse_eyes(options.eyes),
        face={None: AUTOMATIC, "none": None}.get(options.face, options.face),
        detector=options.detector,
        longest_gap=options.gap,
        smoothing=options.smoothing,
        change_smoothing=options.smoothing / 2,
        compensation=options.compensation,
        mask=options.mask,
        feature_edit=options.feature_edit,
        refine_steps=options.refine_steps,
        quality=options.quality,
        batch_size=options.batch_size,
        overwrite=options.overwrite,
    )
    made.check()
    return made


def run_video(source: Path, options: Any) -> int:
    """Check the options, load the model, edit the video and say what became of it."""
    chosen = video_options(options)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise SDICError("Several processes were started, and one edits a video: start one, without torchrun.")
    check_output_folder(options.out.parent)
    check_video_files(source, options.out, chosen.overwrite or options.preview is not None)
    resolve_model(options.model)
    check_device(options.device)
    options.prepare_process()

    from sdic_plugin.pipeline.loading import fuse_where_it_pays, load_pipeline
    from sdic_plugin.utils.precision import warn_of_slow_bfloat16
    from sdic_plugin.video.reading import VideoReader

    VideoReader(source)  # what is no video is refused before the model is loaded
    pipe = load_pipeline(options.model, options.dtype).to(options.device)
    warn_of_slow_bfloat16(pipe.dtype, pipe.device)
    fuse_where_it_pays(pipe)
    for each in options.edits:
        pipe.load_edits(each)
    return _edit(pipe, source, options, chosen)


def _edit(pipe: SDICPipeline, source: Path, options: Any, chosen: VideoOptions) -> int:
    from sdic_plugin.video.preview import preview_video
    from sdic_plugin.video.process import edit_video

    with _Bars() as bars:
        if options.preview is not None:
            summary = preview_video(pipe, source, options.out, chosen, options.preview, bars.show)
        else:
            summary = edit_video(pipe, source, options.out, chosen, bars.show)
    written = printable(str(summary.path))
    if options.preview is not None:
        print(f"{written} shows frames before and after; without --preview, the video is written")
    else:
        left = summary.frames - summary.edited
        there = f", {left} without the subject are as they were" if left else ""
        resumed = f"; {summary.resumed} frames were done already" if summary.resumed else ""
        print(f"{written}: {summary.edited} of {summary.frames} frames edited{there}{resumed}")
    for note in summary.notes:
        print(f"warning: {shorten(str(source))}: {printable(note)}", file=sys.stderr)
    return 0


class _Bars:
    """A progress bar for each part of the work."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._part = ""

    def show(self, part: str, done: int, total: int) -> None:
        from tqdm.auto import tqdm

        if part != self._part:
            self.__exit__()
            self._part, self._bar = part, tqdm(total=total or None, unit="frame", desc=part, initial=0)
        if self._bar is not None:
            self._bar.update(done - self._bar.n)

    def __enter__(self) -> _Bars:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
