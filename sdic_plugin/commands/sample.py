"""`sdic sample`: draw random pictures of a generator."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from sdic_plugin.checkpoints.folder import DEFAULT_MODEL
from sdic_plugin.commands.common import check_generator_model, load_generator
from sdic_plugin.commands.framework import Arguments, Commands
from sdic_plugin.commands.options import MODELS, Device, GeneratorModel
from sdic_plugin.commands.parsing import parse_layers, parse_seeds
from sdic_plugin.utils.devices import check_device
from sdic_plugin.utils.files import check_output_folder
from sdic_plugin.utils.ranges import check_seeds, check_truncation

DRAWING = "What is drawn"


@dataclass(kw_only=True)
class SampleArguments(Arguments):
    """Options of `sdic sample`."""

    model: GeneratorModel = DEFAULT_MODEL
    out: Annotated[Path, typer.Option(help="folder for the pictures")]
    count: Annotated[int, typer.Option(help="number of pictures", rich_help_panel=DRAWING)] = 16
    seed: Annotated[int, typer.Option(help="seed of the first; the others follow on it", rich_help_panel=DRAWING)] = 0
    seeds: Annotated[
        str | None,
        typer.Option(
            metavar="1,2,5-9", help="the seeds themselves, instead of --count and --seed", rich_help_panel=DRAWING
        ),
    ] = None
    truncation: Annotated[
        float, typer.Option(help="variety: 1 as trained, 0 the mean picture", rich_help_panel=DRAWING)
    ] = 0.7
    mixing: Annotated[
        bool,
        typer.Option(
            "--mixing",
            help="also mix the second half's styles into the first half",
            rich_help_panel=DRAWING,
        ),
    ] = False
    mix_layers: Annotated[
        str | None,
        typer.Option(
            metavar="FIRST:LAST", help="layers that are mixed; default: the finer half", rich_help_panel=DRAWING
        ),
    ] = None
    device: Device = "cpu"


def register(commands: Commands) -> None:
    """Add `sdic sample`."""
    commands.command(
        "sample",
        "draw random pictures of a generator",
        ["sdic sample --count 500 --out pictures", "sdic sample --seeds 1,2,5-9 --mixing --out pictures"],
        MODELS,
    )(sample)


def sample(options: SampleArguments) -> int:
    """Run `sdic sample`."""
    check_output_folder(options.out)
    check_truncation(options.truncation)
    asked = range(options.seed, options.seed + options.count) if options.seeds is None else parse_seeds(options.seeds)
    seeds = check_seeds(asked)
    layers = None if options.mix_layers is None else parse_layers(options.mix_layers)
    check_generator_model(options.model)
    check_device(options.device)
    options.prepare_process()

    from sdic_plugin.evaluation.samples import draw_samples, earlier_pictures, mixing_sheet, save_samples
    from sdic_plugin.images.sheets import save_picture
    from sdic_plugin.models import sampling

    generator = load_generator(options.model)
    generator.to(options.device)  # type: ignore[arg-type]  # diffusers' decorator hides nn.Module's signature
    notes = {"generator_id": generator.config.generator_id, "truncation": f"{options.truncation:g}"}
    metadata = {key: value for key, value in notes.items() if value is not None}
    if options.mixing or layers:
        samples = sampling.sample(generator, truncation=options.truncation, seeds=seeds)
        sheet = mixing_sheet(generator, samples, layers)
        written = save_samples(samples, options.out, metadata)
        written.append(save_picture(sheet, options.out / "mixing.png"))
    else:
        written = draw_samples(generator, options.out, seeds, options.truncation, metadata)
    print(f"{len(written)} files written to {options.out}")
    if earlier := earlier_pictures(options.out, written):
        print(f"note: {options.out / 'pictures'} also holds {len(earlier)} pictures of before", file=sys.stderr)
    return 0
