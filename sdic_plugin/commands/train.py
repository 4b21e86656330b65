"""`sdic train`: a generator, an encoder, DIPN and DICN, or a transport."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import typer

from sdic_plugin.commands.framework import Arguments, Commands
from sdic_plugin.commands.options import MODELS, bundled_names
from sdic_plugin.commands.parsing import check_assignments

Stage = Literal["generator", "encoder", "compensation", "transport"]


def recipe_names(incomplete: str) -> list[str]:
    """Names of recipes that begin so, for a shell's completion."""
    folder = Path(__file__).parent.parent / "training" / "recipes"
    return sorted(path.stem for path in folder.glob("*.toml") if path.stem.startswith(incomplete))


@dataclass(kw_only=True)
class TrainArguments(Arguments):
    """Options of `sdic train`."""

    stage: Annotated[Stage, typer.Argument(help="what to train; each stage builds on the one before")]
    config: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="TOML settings, or the name of a recipe of this package",
            autocompletion=recipe_names,
        ),
    ] = None
    model: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="MODEL",
            help="folder, bundled name or Hub id to build on",
            autocompletion=bundled_names,
        ),
    ] = None
    set: Annotated[list[str], typer.Option(metavar="KEY=VALUE", help="overrides one setting")] = field(
        default_factory=list
    )


def register(commands: Commands) -> None:
    """Add `sdic train`."""
    commands.command(
        "train",
        "train a generator, an encoder, DIPN and DICN, or a transport",
        [
            "sdic train generator --config toy_generator --set data=pictures --set output=toy/generator",
            "sdic train compensation --from cats64 --set data=my_cats --set output=run",
        ],
        MODELS,
    )(train)


def train(options: TrainArguments) -> int:
    """Run `sdic train`."""
    check_assignments(options.set)
    options.prepare_process()

    from sdic_plugin.training.stages import STAGES

    stage = STAGES[options.stage]
    model = [] if options.model is None else [f"model={json.dumps(options.model, ensure_ascii=False)}"]
    stage.train(stage.load(options.config, [*model, *options.set]))
    return 0
