"""`sdic convert`: checkpoints in other formats into a folder of ours."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from sdic_plugin.checkpoints.output import check_output
from sdic_plugin.commands.framework import Arguments, Commands
from sdic_plugin.commands.options import MODELS, RECORDS, Dtype
from sdic_plugin.errors import CheckpointError

NETWORKS = "Networks"


@dataclass(kw_only=True)
class ConvertArguments(Arguments):
    """Options of `sdic convert`."""

    files: Annotated[list[Path], typer.Argument(metavar="FILE", help="checkpoints, of which one model is made")]
    out: Annotated[Path, typer.Option(help="folder to write")]
    feature_resolution: Annotated[
        int | None,
        typer.Option(help="resolution of the feature map that is compensated", rich_help_panel=NETWORKS),
    ] = None
    content_rows: Annotated[
        tuple[int, int] | None,
        typer.Option(metavar="FIRST LAST", help="rows of wide photos", rich_help_panel=NETWORKS),
    ] = None
    encoder_type: Annotated[
        Literal["e4e", "psp"] | None,
        typer.Option(help="overrule what the file says", rich_help_panel=NETWORKS),
    ] = None
    dtype: Annotated[Dtype, typer.Option(help="of the weights that are written", rich_help_panel=NETWORKS)] = "float32"
    variant: Annotated[
        str | None,
        typer.Option(help="variant in the weights' file names, such as fp16", rich_help_panel=NETWORKS),
    ] = None
    source: Annotated[
        str | None,
        typer.Option(help="where the weights come from, for the model's card", rich_help_panel=RECORDS),
    ] = None
    license: Annotated[
        str | None, typer.Option(help="licence of the weights, for the model's card", rich_help_panel=RECORDS)
    ] = None
    alignment: Annotated[
        Literal["ffhq"] | None,
        typer.Option(help="crop the model was trained on, so that faces are found", rich_help_panel=RECORDS),
    ] = None
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace what an earlier conversion wrote")] = False


def register(commands: Commands) -> None:
    """Add `sdic convert`."""
    commands.command(
        "convert",
        "convert SDIC, e4e, pSp, rosinality and NVlabs checkpoints",
        ["sdic convert sdic_ffhq.pt --out ffhq --alignment ffhq", "sdic convert stylegan2-cat.pt --out cat"],
        MODELS,
    )(convert)


def convert(options: ConvertArguments) -> int:
    """Run `sdic convert`."""
    check_output(options.out, options.overwrite, sources=options.files)
    for file in options.files:
        if not file.exists():
            raise CheckpointError(f"There is no file {file}: check the path of the checkpoint.")
    options.prepare_process()

    from sdic_plugin.conversion import convert as convert_files
    from sdic_plugin.conversion import format_report

    report = convert_files(
        options.files,
        options.out,
        feature_resolution=options.feature_resolution,
        content_rows=options.content_rows,
        encoder_type=options.encoder_type,
        dtype=options.dtype,
        variant=options.variant,
        source=options.source,
        license=options.license,
        alignment=None if options.alignment is None else {"rule": options.alignment},
        overwrite=options.overwrite,
    )
    print(format_report(report))
    return 0
