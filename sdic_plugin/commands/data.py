"""`sdic data`: rebuild a training set from its public source."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import typer

from sdic_plugin.commands.framework import Arguments, Commands
from sdic_plugin.commands.options import MODELS


@dataclass(kw_only=True)
class DataArguments(Arguments):
    """Options of `sdic data`."""

    name: Annotated[Literal["cats64"], typer.Argument(help="the training set")]
    source: Annotated[str, typer.Option(help="folder with the public collection")]
    out: Annotated[str, typer.Option(help="folder for the zips")] = "."


def register(commands: Commands) -> None:
    """Add `sdic data`."""
    commands.command(
        "data",
        "rebuild a training set from its public source",
        ["sdic data cats64 --source collection --out data"],
        MODELS,
    )(data)


def data(options: DataArguments) -> int:
    """Run `sdic data`."""
    from sdic_plugin.training.datasets.cats64 import rebuild_cats64

    summary = rebuild_cats64(options.source, options.out)
    for split, archive in summary.archives.items():
        print(f"{archive}: {summary.counts[split]} pictures")
    return 0
