"""`sdic invert` and `sdic edit`: photos through the pipeline."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from sdic_plugin.checkpoints.folder import DEFAULT_MODEL, resolve_model
from sdic_plugin.commands.common import report_failures
from sdic_plugin.commands.framework import Arguments, BareValue, Commands, given_options
from sdic_plugin.commands.options import (
    COMPUTING,
    FACES,
    PHOTOS,
    WRITING,
    Detector,
    Device,
    DtypeOption,
    Eyes,
    Model,
)
from sdic_plugin.commands.parsing import check_eyes_or_face, check_face, check_from
from sdic_plugin.commands.videos import VideoArguments, check_photos_only, run_video
from sdic_plugin.errors import EditError, SDICError, printable, shorten
from sdic_plugin.photos.find import find_photos
from sdic_plugin.photos.inputs import AUTOMATIC, EXAMPLES, Photo, check_example, parse_eyes
from sdic_plugin.photos.strengths import Sweep, check_sweeps, parse_edits, parse_sweep
from sdic_plugin.utils.devices import check_device
from sdic_plugin.utils.files import check_output_folder
from sdic_plugin.utils.ranges import check_compensation
from sdic_plugin.video.inputs import find_video

if TYPE_CHECKING:
    from sdic_plugin.photos.photo import PhotoSummary
    from sdic_plugin.photos.processes import Processes
    from sdic_plugin.pipeline.sdic import SDICPipeline

EDITING = "Editing"
NO_FACE = "none"
"""Value of `--face` that takes photos as they are."""


def example_names(incomplete: str) -> list[str]:
    """Names of examples that begin so, for a shell's completion."""
    return [name for name in EXAMPLES if name.startswith(incomplete)]


@dataclass(kw_only=True)
class EditingArguments(Arguments):
    """Options of `sdic edit` that `sdic invert` has not."""

    edit: Annotated[
        list[str],
        typer.Option(
            metavar="NAME=STRENGTH[,…]",
            help="one edited picture per --edit; several edits joined by commas are combined in one picture",
            rich_help_panel=EDITING,
        ),
    ] = field(default_factory=list)
    sweep: Annotated[
        list[str],
        typer.Option(
            metavar="NAME=FIRST:LAST:COUNT",
            help="an edit at many strengths, as a grid and a GIF; two are crossed; --edit is then in all pictures",
            rich_help_panel=EDITING,
        ),
    ] = field(default_factory=list)
    edits: Annotated[
        list[str],
        typer.Option(metavar="SET", help="load more edits: file, folder, Hub id", rich_help_panel=EDITING),
    ] = field(default_factory=list)
    compensation: Annotated[
        float, typer.Option(help="how much detail to put back, 0 to 1", rich_help_panel=EDITING)
    ] = 1.0
    mask: Annotated[
        str | None,
        typer.Option(
            help="picture, drawn on the whole photo or on its crop, whose white keeps the photo's detail and whose "
            "black trusts the edit; or auto: found per edit",
            rich_help_panel=EDITING,
        ),
    ] = None
    feature_edit: Annotated[
        Literal["continuous", "official"] | None,
        typer.Option(help="rule for the features", rich_help_panel=EDITING),
    ] = None


@dataclass(kw_only=True)
class InvertArguments(Arguments):
    """Options of `sdic invert`."""

    photos: Annotated[
        list[str], typer.Argument(metavar="PHOTO", help="picture files or folders", show_default=False)
    ] = field(default_factory=list)
    out: Annotated[Path, typer.Option(help="folder for the results")]
    example: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="a photograph of scikit-image: astronaut (a person) or chelsea (a cat)",
            autocompletion=example_names,
        ),
    ] = None
    model: Model = DEFAULT_MODEL
    eyes: Eyes = None
    face: Annotated[
        str | None,
        typer.Option(
            metavar="[N|none]",
            help=r"find the face with YuNet (extra \[align]): the largest, or number N from the left, from 0 on; "
            "models of faces find the largest by themselves, unless none is given",
            rich_help_panel=FACES,
        ),
        BareValue("largest"),
    ] = None
    detector: Detector = None
    paste_back: Annotated[
        Literal["auto", "replace", "difference"] | None,
        typer.Option(
            metavar="[auto|replace|difference]",
            help="also put results back into the photo: the crop itself, or only what the edit changed; auto, the "
            "default, does the latter where the crop has more pixels in the photo than in the model",
            rich_help_panel=WRITING,
        ),
        BareValue("auto"),
    ] = None
    save_inversion: Annotated[
        bool,
        typer.Option("--save-inversion", help="also write NAME_inversion.safetensors", rich_help_panel=WRITING),
    ] = False
    no_sheets: Annotated[
        bool, typer.Option("--no-sheets", help="write no NAME_sheet.png", rich_help_panel=WRITING)
    ] = False
    skip_existing: Annotated[
        bool,
        typer.Option(
            "--skip-existing",
            help="leave out photos whose files are all there, made of the same photo with the same settings",
            rich_help_panel=WRITING,
        ),
    ] = False
    refine_steps: Annotated[
        int, typer.Option(metavar="N", help="optimise each inversion for N steps", rich_help_panel=COMPUTING)
    ] = 0
    batch_size: Annotated[
        int, typer.Option(metavar="N", help="photos computed together", rich_help_panel=COMPUTING)
    ] = 8
    device: Device = "cpu"
    dtype: DtypeOption = "float32"


@dataclass(kw_only=True)
class EditArguments(InvertArguments, EditingArguments, VideoArguments):
    """Options of `sdic edit`; in the help those of editing come first."""

    photos: Annotated[
        list[str], typer.Argument(metavar="PHOTO", help="picture files or folders, or one video", show_default=False)
    ] = field(default_factory=list)
    out: Annotated[Path, typer.Option(help="folder for the results; of a video, the file to write, such as out.mp4")]


@dataclass(frozen=True)
class Rendering:
    """What to render of each photo.

    Attributes:
        edits: One picture per entry; with sweeps at most one, which is in all pictures.
        sweeps: One or two; without any, single pictures.
        sets: More edits to load.
        compensation: See `SDICPipeline.edit`.
        mask: See `SDICPipeline.edit`.
        feature_edit: See `SDICPipeline.edit`.
    """

    edits: Sequence[Mapping[str, float]] = ()
    sweeps: Sequence[Sweep] = ()
    sets: Sequence[str] = ()
    compensation: float = 1.0
    mask: str | None = None
    feature_edit: str | None = None


def register(commands: Commands) -> None:
    """Add `sdic invert` and `sdic edit`."""
    commands.command(
        "invert",
        "invert photos",
        [
            "sdic invert photos --out out --no-sheets --skip-existing",
            "sdic invert --example chelsea --model cats64 --out out",
        ],
        PHOTOS,
    )(invert)
    commands.command(
        "edit",
        "invert and edit photos, or a video",
        [
            "sdic edit --example chelsea --model cats64 --edit warmth=1.5 --paste-back difference --out out",
            "sdic edit cat.jpg --model cats64 --eyes 172,113,316,134 --edit lightness=1 --out out",
            "sdic edit photo.jpg --sweep turn=-2:2:5 --out out",
            "sdic edit clip.mp4 --edit turn=2 --out turned.mp4",
        ],
        PHOTOS,
    )(edit)


def invert(options: InvertArguments) -> int:
    """Run `sdic invert`."""
    video = find_video(options.photos)
    if video is not None:
        raise SDICError(
            f"{shorten(str(video))} is a video, and `sdic invert` takes photos: `sdic edit` takes a video."
        )
    return run_photos(options, Rendering())


def edit(options: EditArguments) -> int:
    """Run `sdic edit`."""
    video = find_video(options.photos)
    if video is not None:
        return run_video(video, options)
    check_photos_only(options)
    edits, sweeps = parse_edits(options.edit), [parse_sweep(text) for text in options.sweep]
    if sweeps and len(edits) > 1:
        raise EditError(f"--sweep takes one --edit at most, for all its pictures, but {len(edits)} were given.")
    if sweeps:
        check_sweeps(sweeps, edits[0] if edits else {})
    check_compensation(options.compensation)
    if not edits and not sweeps:
        for option in given_options(options, ("edits", "compensation", "mask", "feature_edit")):
            raise EditError(f"{option} does nothing without an edit: name one, such as --edit NAME=1.")
    rendering = Rendering(edits, sweeps, options.edits, options.compensation, options.mask, options.feature_edit)
    return run_photos(options, rendering)


def run_photos(options: InvertArguments, rendering: Rendering) -> int:
    """Check the options, load the model, process the photos and say what became of them."""
    check_output_folder(options.out)
    check_from("refine_steps", options.refine_steps, 0)
    check_from("batch_size", options.batch_size, 1)
    photos = given_photos(options)
    resolve_model(options.model)
    check_device(options.device)
    options.prepare_process()

    from tqdm.auto import tqdm

    from sdic_plugin.photos.photo import finds_faces, load_example, needed_detector
    from sdic_plugin.photos.processes import Processes
    from sdic_plugin.pipeline.loading import fuse_where_it_pays, load_pipeline
    from sdic_plugin.utils.precision import warn_of_slow_bfloat16

    if options.example is not None:
        photos = [load_example(options.example)]
    face = {None: AUTOMATIC, NO_FACE: None}.get(options.face, options.face)
    if face != AUTOMATIC:
        options.detector = needed_detector(photos, face, options.detector)
    processes = Processes.of_environment()
    pipe = load_pipeline(options.model, options.dtype).to(processes.device(options.device))
    if face == AUTOMATIC:
        face = AUTOMATIC if finds_faces(pipe) else None
        options.detector = needed_detector(photos, face, options.detector)
    options.face = face
    warn_of_slow_bfloat16(pipe.dtype, pipe.device)
    fuse_where_it_pays(pipe)
    for source in rendering.sets:
        pipe.load_edits(source)
    count = len(processes.share(photos))
    with tqdm(total=count, unit="photo", disable=count <= 1 or processes.index > 0) as bar:
        summary = process(pipe, photos, options, rendering, bar.update, processes)
    summary = processes.join(summary)
    if processes.index == 0:
        report_photos(summary, options.out)
    return 1 if summary.failed else 0


def given_photos(options: InvertArguments) -> list[Photo]:
    """Find the photos; none for an example, which is loaded later.

    Raises:
        SDICError: If there is none, or the options about them make no sense.
    """
    eyes = None if options.eyes is None else parse_eyes(options.eyes)
    if options.face is not None:
        check_face(options.face, (NO_FACE,))
    check_eyes_or_face(options.eyes, options.face)
    if options.example is None:
        return find_photos(options.photos, eyes, options.out)
    if options.photos:
        raise SDICError(f"Both photos and --example {options.example} were given: give one of them.")
    check_example(options.example)
    # That no face is to be found is true of an example.
    for option, given in (("--eyes", eyes is not None), ("--face", options.face not in (None, NO_FACE))):
        if given:
            raise SDICError(
                f"{option} does nothing with --example {options.example}, whose eyes are known: leave it out."
            )
    return []


def process(
    pipe: SDICPipeline,
    photos: Sequence[Photo],
    options: InvertArguments,
    rendering: Rendering,
    progress: Callable[[int], object],
    processes: Processes,
) -> PhotoSummary:
    """Render single pictures, or sweeps, of the photos."""
    from sdic_plugin.photos.process import PhotoOptions, process_photos
    from sdic_plugin.photos.sweep import sweep_photos

    if rendering.sweeps:
        for name, given in (
            ("--paste-back", options.paste_back is not None),
            ("--save-inversion", options.save_inversion),
            ("--no-sheets", options.no_sheets),
        ):
            if given:
                raise SDICError(f"{name} does nothing with --sweep, which writes only its grids: leave it out.")
        return sweep_photos(
            pipe,
            photos,
            options.out,
            rendering.sweeps,
            rendering.edits[0] if rendering.edits else {},
            options.refine_steps,
            progress,
            skip_existing=options.skip_existing,
            face=options.face,
            detector=options.detector,
            processes=processes,
            batch_size=options.batch_size,
            compensation=rendering.compensation,
            mask=rendering.mask,
            feature_edit=rendering.feature_edit,
        )
    settings = PhotoOptions(
        edits=rendering.edits,
        paste=options.paste_back,
        feature_edit=rendering.feature_edit,
        compensation=rendering.compensation,
        mask=rendering.mask,
        save_inversion=options.save_inversion,
        sheets=not options.no_sheets,
        skip_existing=options.skip_existing,
        refine_steps=options.refine_steps,
        face=options.face,
        detector=options.detector,
        batch_size=options.batch_size,
    )
    return process_photos(pipe, photos, options.out, settings, progress, processes)


def report_photos(summary: PhotoSummary, output: Path) -> None:
    """Print what became of the photos."""
    for name, (before, after) in summary.figures.items():
        print(f"{printable(name)}: PSNR {before:.2f} dB initial, {after:.2f} dB inverted")
    for name, photo in summary.renamed.items():
        print(f"{printable(name)} is {printable(photo)}: results of another photo have the name without the number")
    skipped = f", {summary.skipped} photos were done already" if summary.skipped else ""
    print(f"{len(summary.written)} files written to {output}{skipped}")
    for name, note in summary.notes.items():
        print(f"warning: {printable(name)}: {note}", file=sys.stderr)
    report_failures(summary)
