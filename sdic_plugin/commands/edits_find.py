"""`sdic edits find`: candidates for edits, drawn for you to name and keep."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from sdic_plugin.checkpoints.folder import DEFAULT_MODEL
from sdic_plugin.commands.common import check_generator_model, check_set_path, describe_edits, load_generator
from sdic_plugin.commands.framework import Arguments, Commands, SeveralValues, given_options
from sdic_plugin.commands.options import GeneratorModel, Layers
from sdic_plugin.commands.parsing import by_name, parse_layers
from sdic_plugin.errors import EditError
from sdic_plugin.utils.ranges import check_seeds, check_truncation

if TYPE_CHECKING:
    from sdic_plugin.edits.attributes import FitReport
    from sdic_plugin.edits.base import Edit
    from sdic_plugin.edits.scores import Encode, ScoredLatents
    from sdic_plugin.models import StyleGAN2Generator
    from sdic_plugin.pipeline.sdic import SDICPipeline

FindMethod = Literal["ganspace", "sefa", "interfacegan"]
Fit = Literal["regression", "svm"]

SAMPLING, SCORES = "What is drawn", "Scores (interfacegan)"

COMPONENTS_ONLY = ("count",)
SCORES_ONLY = ("scores", "latents", "truncation", "folders", "measure", "labelled", "by", "labels", "fit", "apart")
"""Options that the other methods have no use for."""


@dataclass(kw_only=True)
class FindArguments(Arguments):
    """Options of `sdic edits find`."""

    method: Annotated[FindMethod, typer.Option(help="how to search")]
    model: GeneratorModel = DEFAULT_MODEL
    out: Annotated[Path, typer.Option(metavar="SET", help="the set, *.safetensors; sheet beside")]
    count: Annotated[int, typer.Option(help="ganspace, sefa: number of candidates")] = 10
    layers: Layers = None
    samples: Annotated[
        int | None,
        typer.Option(help="random pictures (interfacegan) or latents (ganspace) to draw", rich_help_panel=SAMPLING),
    ] = None
    seed: Annotated[int, typer.Option(help="of the samples", rich_help_panel=SAMPLING)] = 0
    seeds: Annotated[
        list[int],
        typer.Option(metavar="SEED...", help="pictures of the contact sheet", rich_help_panel=SAMPLING),
        SeveralValues(),
    ] = field(default_factory=lambda: [0])
    scores: Annotated[
        Path | None,
        typer.Option(metavar="CSV", help="a column seed or image, and one per attribute", rich_help_panel=SCORES),
    ] = None
    latents: Annotated[
        Path | None,
        typer.Option(help="latents.safetensors of `sdic sample`, for a column seed", rich_help_panel=SCORES),
    ] = None
    truncation: Annotated[
        float, typer.Option(help="that the seeds' pictures were drawn with", rich_help_panel=SCORES)
    ] = 0.7
    folders: Annotated[
        list[str],
        typer.Option(metavar="NAME=WITH,WITHOUT", help="folders of labelled pictures", rich_help_panel=SCORES),
    ] = field(default_factory=list)
    measure: Annotated[
        list[str],
        typer.Option(metavar="NAME|MODULE:FUNCTION", help="function of images", rich_help_panel=SCORES),
    ] = field(default_factory=list)
    labelled: Annotated[
        str | None,
        typer.Option(metavar="PHOTOS", help="folder or zip of photos with labels to learn", rich_help_panel=SCORES),
    ] = None
    by: Annotated[
        list[str],
        typer.Option(
            metavar="COLUMN[=VALUE]...", help="columns of the photos' labels, or values", rich_help_panel=SCORES
        ),
        SeveralValues(),
    ] = field(default_factory=list)
    labels: Annotated[
        Path | None,
        typer.Option(metavar="CSV", help="the labels, else those among the photos", rich_help_panel=SCORES),
    ] = None
    fit: Annotated[Fit, typer.Option(help="interfacegan: how to fit", rich_help_panel=SCORES)] = "regression"
    apart: Annotated[
        bool,
        typer.Option("--apart", help="interfacegan: every attribute leaves the others alone", rich_help_panel=SCORES),
    ] = False


def register(actions: Commands) -> None:
    """Add `sdic edits find`."""
    actions.command(
        "find",
        "find candidates, and draw them for you to name and keep",
        [
            "sdic edits find --method ganspace --layers 0:5 --count 3 --out found.safetensors",
            "sdic edits find --method interfacegan --measure warmth --measure brightness --apart --out "
            "measured.safetensors",
        ],
    )(find)


def find(options: FindArguments) -> int:
    """Run `sdic edits find`."""
    check_set_path(options.out)
    check_truncation(options.truncation)
    check_seeds(options.seeds)
    layers = None if options.layers is None else parse_layers(options.layers)
    check_method(options)
    check_generator_model(options.model)
    options.prepare_process()

    from sdic_plugin.edits.attributes import FitConfig, fit_attributes
    from sdic_plugin.edits.files import write_edits
    from sdic_plugin.edits.ganspace import find_ganspace
    from sdic_plugin.edits.sefa import find_sefa
    from sdic_plugin.edits.sheets import contact_sheet
    from sdic_plugin.images.sheets import save_picture

    generator = load_generator(options.model)
    reports: list[FitReport] = []
    if options.method == "ganspace":
        enough = max(10_000, 4 * generator.config.style_width)
        samples = enough if options.samples is None else options.samples
        edits: Sequence[Edit] = find_ganspace(generator, options.count, samples, layers, seed=options.seed)
    elif options.method == "sefa":
        edits = find_sefa(generator, options.count, layers)
    else:
        scored = find_scores(options, generator)
        names = list(scored.scores)
        apart = {name: [other for other in names if other != name] for name in names} if options.apart else None
        edits, reports = fit_attributes(
            scored.latents, scored.scores, apart, FitConfig(options.fit, seed=options.seed)
        )
        edits = [dataclasses.replace(edit, layers=layers) for edit in edits]
    sheet = contact_sheet(generator, edits, options.seeds)
    write_edits(edits, options.out, generator.config.generator_id, f"sdic edits find --method {options.method}")
    picture = save_picture(sheet, options.out.with_suffix(".png"))
    print("\n".join(describe_edits(edits)))
    for report in reports:
        print(describe_fit(report))
    print(f"{len(edits)} edits written to {options.out}, their sheet to {picture}")
    return 0


def check_method(options: FindArguments) -> None:
    """Raise EditError if options are for another method, or scores are not of one kind."""
    scored = options.method == "interfacegan"
    for option in given_options(options, COMPONENTS_ONLY if scored else SCORES_ONLY):
        others = "ganspace or sefa" if scored else "interfacegan"
        raise EditError(f"{option} is for --method {others}, and {options.method} was given: leave it out.")
    if scored:
        check_scores(options)


def check_scores(options: FindArguments) -> None:
    """Raise EditError unless scores of one kind were given."""
    if sum(map(bool, (options.scores, options.folders, options.measure, options.labelled))) != 1:
        raise EditError(
            "--method interfacegan takes scores of one kind: give --scores, --folders, --measure or --labelled."
        )
    if bool(options.labelled) != bool(options.by) or (options.labels is not None and not options.labelled):
        raise EditError("--labelled PHOTOS and --by COLUMN belong together, and --labels CSV to both: give both.")


def find_scores(options: FindArguments, generator: StyleGAN2Generator) -> ScoredLatents:
    """Find the scores that `sdic edits find --method interfacegan` was given."""
    from sdic_plugin.edits.probes import scores_of_labels
    from sdic_plugin.edits.scores import (
        find_measure,
        lists_images,
        scores_of_folders,
        scores_of_measures,
        scores_of_table,
    )
    from sdic_plugin.pipeline.loading import load_pipeline

    samples = 2000 if options.samples is None else options.samples
    if options.labelled:
        scored, probes = scores_of_labels(
            generator, options.labelled, options.by, options.labels, samples, options.seed
        )
        for probe in probes:
            print(f"{probe.name}: learnt from {probe.count:,} photos, correlation {probe.correlation:.2f} on others")
        return scored
    if options.measure:
        named = [(text.rpartition(":")[2], find_measure(text)) for text in options.measure]
        return scores_of_measures(generator, by_name(named, "--measure"), samples, options.seed)
    if options.folders:
        pairs = [text.partition("=")[::2] for text in options.folders]
        folders = by_name([(name, paths.split(",")) for name, paths in pairs], "--folders")
        pipe = load_pipeline(options.model)
        return scores_of_folders(_encoding(pipe), pipe.image_size, folders)
    table = options.scores or Path()
    encode = _encoding(load_pipeline(options.model)) if lists_images(table) else None
    return scores_of_table(table, generator, options.latents, options.truncation, encode)


def _encoding(pipe: SDICPipeline) -> Encode:
    """What finds the latents of photos with a pipeline's encoder."""
    return lambda image: pipe.encode(pipe.prepare_image(image)).float().cpu()


def describe_fit(report: FitReport) -> str:
    """Say how well a fit does."""
    text = (
        f"{report.name}: {report.accuracy:.1%} of {report.test_count} held-out pictures on the right side, "
        f"correlation {report.correlation:.2f} ({report.method} on {report.train_count})"
    )
    if report.leakage:
        text += "; without projection it moves " + ", ".join(
            f"{name} by {value:+.2f}" for name, value in report.leakage.items()
        )
    return text
