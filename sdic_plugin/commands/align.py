"""`sdic align`: crop photos as a model's training pictures were."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from sdic_plugin.checkpoints.folder import resolve_model
from sdic_plugin.commands.common import report_failures
from sdic_plugin.commands.framework import Arguments, Commands
from sdic_plugin.commands.options import FACES, PHOTOS, Detector, Eyes, bundled_names
from sdic_plugin.commands.parsing import check_face
from sdic_plugin.photos.find import find_photos
from sdic_plugin.photos.inputs import parse_eyes
from sdic_plugin.photos.results import ALIGNED, EDITED
from sdic_plugin.utils.files import check_output_folder


@dataclass(kw_only=True)
class AlignArguments(Arguments):
    """Options of `sdic align`."""

    photos: Annotated[list[str], typer.Argument(metavar="PHOTO", help="picture files or folders")]
    out: Annotated[Path, typer.Option(help="folder for NAME.png and NAME.json")]
    model: Annotated[
        str | None,
        typer.Option(
            help="folder, bundled name or Hub id whose template to take; without one, FFHQ's",
            autocompletion=bundled_names,
        ),
    ] = None
    size: Annotated[int | None, typer.Option(help="width of the crop in pixels; by default the model's, or 1024")] = (
        None
    )
    eyes: Eyes = None
    face: Annotated[
        str, typer.Option(metavar="N", help="largest, all, or number N from the left", rich_help_panel=FACES)
    ] = "largest"
    detector: Detector = None


def register(commands: Commands) -> None:
    """Add `sdic align`."""
    commands.command(
        "align",
        "crop photos as a model's training pictures were",
        ["sdic align photo.jpg --out crops", "sdic align cat.jpg --model cats64 --eyes 172,113,316,134 --out crops"],
        PHOTOS,
    )(align)


def align(options: AlignArguments) -> int:
    """Run `sdic align`."""
    check_output_folder(options.out)
    eyes = None if options.eyes is None else parse_eyes(options.eyes)
    check_face(options.face, also=["all"])
    photos = find_photos(options.photos, eyes, options.out, (EDITED, ALIGNED))
    if options.model is not None:
        resolve_model(options.model)
    options.prepare_process()

    from sdic_plugin.images.face_alignment import FFHQTemplate, Template
    from sdic_plugin.photos.align import align_photos
    from sdic_plugin.photos.photo import model_template, needed_detector
    from sdic_plugin.pipeline.loading import load_pipeline

    detector = needed_detector(photos, options.face, options.detector)
    template: Template = FFHQTemplate()
    height, width = 1024, 1024
    if options.model is not None:
        pipe = load_pipeline(options.model)
        template, (height, width) = model_template(pipe), pipe.image_size
    if options.size is not None:
        width, height = options.size, round(options.size * height / width)
    summary = align_photos(photos, options.out, template, width, height, options.face, detector)
    print(f"{len(summary.written)} files written to {options.out}")
    report_failures(summary)
    return 1 if summary.failed else 0
