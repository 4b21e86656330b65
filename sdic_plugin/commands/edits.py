"""The commands `sdic edits import | find | show`; each only calls the library."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import torch

from sdic_plugin.checkpoints.components import find_model, load_component
from sdic_plugin.commands.parsing import parse_layers
from sdic_plugin.edits import importing, styleclip
from sdic_plugin.edits.attributes import METHODS, FitConfig, FitReport, fit_attributes
from sdic_plugin.edits.base import Edit
from sdic_plugin.edits.files import check_name, read_edits, write_edits
from sdic_plugin.edits.ganspace import RULES, GANSpaceEdit, find_ganspace, presets
from sdic_plugin.edits.loader import check_generator, find_edit_files
from sdic_plugin.edits.scores import (
    Encode,
    ScoredLatents,
    find_measure,
    scores_of_folders,
    scores_of_measures,
    scores_of_table,
)
from sdic_plugin.edits.sefa import find_sefa
from sdic_plugin.edits.sheets import contact_sheet
from sdic_plugin.errors import EditError, cut_middle, listed, printable, shorten
from sdic_plugin.images.sheets import save_picture
from sdic_plugin.models import StyleGAN2Generator
from sdic_plugin.models.sampling import check_truncation
from sdic_plugin.pipeline.loading import load_pipeline
from sdic_plugin.pipeline.sdic import SDICPipeline
from sdic_plugin.utils.files import check_output_file

LONGEST_CELL = 200
Value = TypeVar("Value")
FILE_FAMILIES = ("interfacegan", "ganspace", "sefa", "styleclip", "offset", "latents")
FIND_METHODS = ("ganspace", "sefa", "interfacegan")


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Describe `sdic edits`."""
    parser = commands.add_parser("edits", help="bring edits in, find new ones, look at them")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    _add_import(actions)
    _add_find(actions)
    show = actions.add_parser("show", help="list a set of edits, and draw a contact sheet")
    show.add_argument("edits", metavar="EDITS", help="file, folder, bundled name or Hub id")
    show.add_argument("--model", help="model to render with; default: the bundled one they belong to, if any")
    show.add_argument("--out", type=Path, metavar="PNG", help="where to write the contact sheet")
    show.add_argument("--seeds", type=int, nargs="+", default=[0], help="random pictures to show them on")
    show.add_argument("--any-generator", action="store_true", help="also show edits made for another generator")


def _add_import(actions: argparse._SubParsersAction) -> None:
    parser = actions.add_parser("import", help="turn files of other tools into a set of edits")
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--family", required=True, choices=FILE_FAMILIES, help="what the files hold")
    parser.add_argument("--out", required=True, type=Path, metavar="SET", help="the set, *.safetensors")
    parser.add_argument("--add", action="store_true", help="keep the edits that are in the set already")
    parser.add_argument("--model", help="model they are for: checks that they fit, and notes its generator's id")
    parser.add_argument("--name", help="name of the edit; default: the file's")
    parser.add_argument("--layers", metavar="FIRST:LAST", help="styles the edit acts on; default: all")
    parser.add_argument("--strength", type=float, help="default strength")
    parser.add_argument("--range", nargs=2, type=float, metavar=("LOW", "HIGH"), help="sensible strengths")
    parser.add_argument("--description", default="", help="one sentence for people")
    parser.add_argument("--ends", nargs=2, metavar=("LOW", "HIGH"), help="words for both ends, such as grey ginger")
    parser.add_argument("--source", help="where the file comes from")
    parser.add_argument("--license", help="its licence")
    parser.add_argument("--preset", choices=sorted(presets()), help="ganspace: the published choices of components")
    parser.add_argument(
        "--component", action="append", default=[], metavar="NAME=INDEX", help="ganspace, sefa: one component"
    )
    parser.add_argument("--rule", choices=RULES, default="target", help="ganspace: what a strength means")
    parser.add_argument("--index", type=int, default=0, help="latents: which of those in the file")
    parser.add_argument("--minus", metavar="avg|INDEX", help="latents: what to start from; needed for saved latents")
    parser.add_argument("--text", help="styleclip: what the edit should lead to, such as 'a smiling face'")
    parser.add_argument("--neutral", help="styleclip: what it starts from, such as 'a face'")
    parser.add_argument("--clip", default=styleclip.CLIP_MODEL, help="styleclip: folder or Hub id of CLIP")
    parser.add_argument("--threshold", type=float, default=0.15, help="styleclip: relevance from which channels move")


def _add_find(actions: argparse._SubParsersAction) -> None:
    parser = actions.add_parser("find", help="find candidates, and draw them for you to name and keep")
    parser.add_argument("--method", required=True, choices=FIND_METHODS)
    parser.add_argument("--model", default="cats64", help="bundled name, folder (a generator is enough) or Hub id")
    parser.add_argument("--out", required=True, type=Path, metavar="SET", help="the set, *.safetensors; sheet beside")
    parser.add_argument("--count", type=int, default=10, help="ganspace, sefa: number of candidates")
    parser.add_argument("--layers", metavar="FIRST:LAST", help="styles the edits act on; default: all")
    parser.add_argument("--samples", type=int, help="random pictures (interfacegan) or latents (ganspace) to draw")
    parser.add_argument("--seed", type=int, default=0, help="of the samples")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="pictures of the contact sheet")
    parser.add_argument("--scores", type=Path, metavar="CSV", help="a column seed or image, and one per attribute")
    parser.add_argument("--latents", type=Path, help="latents.safetensors of `sdic sample`, for a column seed")
    parser.add_argument("--truncation", type=float, default=0.7, help="that the seeds' pictures were drawn with")
    parser.add_argument(
        "--folders", action="append", default=[], metavar="NAME=WITH,WITHOUT", help="folders of labelled pictures"
    )
    parser.add_argument(
        "--measure", action="append", default=[], metavar="NAME|MODULE:FUNCTION", help="function of images"
    )
    parser.add_argument("--fit", choices=METHODS, default="regression", help="interfacegan: how to fit")
    parser.add_argument("--apart", action="store_true", help="interfacegan: every attribute leaves the others alone")


def run(options: argparse.Namespace) -> int:
    """Run one of the commands."""
    return {"import": run_import, "find": run_find, "show": run_show}[options.action](options)


def run_import(options: argparse.Namespace) -> int:
    """Run `sdic edits import`."""
    check_set_path(options.out)
    generator = None if options.model is None else load_generator(options.model)
    values = importing.EditValues(
        layers=None if options.layers is None else parse_layers(options.layers),
        default_strength=options.strength,
        strength_range=None if options.range is None else tuple(options.range),
        description=options.description,
        source=options.source,
        license=options.license,
        ends=None if options.ends is None else tuple(options.ends),
    )
    edits = _import(options, values, generator)
    if generator is not None:
        for edit in edits:
            edit.check_fits(generator)
    own_id = None if generator is None else generator.config.generator_id
    if options.add and options.out.is_file():
        kept, about = read_edits(options.out)
        check_generator(options.out.name, about.get("generator_id"), own_id)
        own_id = own_id or about.get("generator_id")
        edits = [edit for edit in kept if edit.name not in {new.name for new in edits}] + edits
    write_edits(edits, options.out, own_id, options.source, options.license)
    print("\n".join(describe(edits)))
    moving = [edit.name for edit in edits if isinstance(edit, GANSpaceEdit) and not (edit.is_offset or edit.settles)]
    if moving:
        print(
            f"Note: {', '.join(moving)} read their coordinate from style 0, which they leave as it is, so the same "
            "target twice moves twice; --rule layer_target reads it from the styles that move."
        )
    print(f"{len(edits)} edits written to {options.out}")
    return 0


def _import(
    options: argparse.Namespace, values: importing.EditValues, generator: StyleGAN2Generator | None
) -> list[Edit]:
    if options.family == "styleclip":
        return [_import_styleclip(options, values, generator)]
    if len(options.files) > 1 and (options.name or options.preset or options.component):
        raise EditError(f"{len(options.files)} files were given, but names belong to one: import them one by one.")
    components = _by_name([parse_component(text) for text in options.component], "--component")
    edits: list[Edit] = []
    for path in options.files:
        if options.family == "ganspace":
            edits += importing.import_ganspace(path, options.preset, components, options.rule, values)
        elif options.family == "sefa" and components:
            edits += importing.import_sefa(path, components, values)
        elif options.family == "latents":
            minus = _base_latents(options.minus, generator)
            edits.append(importing.import_latents(path, options.name, options.index, minus, values))
        else:
            edits.append(importing.import_direction(path, options.name, options.family, values))
    return edits


def _base_latents(text: str | None, generator: StyleGAN2Generator | None) -> torch.Tensor | int | None:
    if text is None or (text.isdecimal() and len(text) < 100):
        return None if text is None else int(text)
    if text != "avg" or generator is None:
        raise EditError(f"--minus is {shorten(text)}: give avg together with --model, or the number of other latents.")
    return generator.w_avg


def _import_styleclip(
    options: argparse.Namespace, values: importing.EditValues, generator: StyleGAN2Generator | None
) -> Edit:
    if len(options.files) != 2 or generator is None or not (options.text and options.neutral):
        raise EditError(
            "StyleCLIP's directions take two files (the relevance matrix fs3.npy and S_mean_std), --model, --text and "
            "--neutral: give all of these."
        )
    relevance, stds = styleclip.read_styleclip_files(*options.files)
    direction = styleclip.text_direction(*styleclip.load_clip(options.clip), options.text, options.neutral)
    given = {"description": f"{options.neutral} -> {options.text} (StyleCLIP)", **values.given()}
    name = options.name or options.text.replace(" ", "_")
    return styleclip.find_styleclip(generator, name, direction, relevance, stds, options.threshold, **given)


def run_find(options: argparse.Namespace) -> int:
    """Run `sdic edits find`."""
    check_set_path(options.out)
    check_truncation(options.truncation)
    generator = load_generator(options.model)
    layers = None if options.layers is None else parse_layers(options.layers)
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
    print("\n".join(describe(edits)))
    for report in reports:
        print(describe_fit(report))
    print(f"{len(edits)} edits written to {options.out}, their sheet to {picture}")
    return 0


def find_scores(options: argparse.Namespace, generator: StyleGAN2Generator) -> ScoredLatents:
    """Find the scores that `sdic edits find --method interfacegan` was given.

    Raises:
        EditError: If there are none, or of several kinds.
    """
    if sum(map(bool, (options.scores, options.folders, options.measure))) != 1:
        raise EditError("--method interfacegan takes scores of one kind: give --scores, --folders or --measure.")
    if options.measure:
        named = [(text.rpartition(":")[2], find_measure(text)) for text in options.measure]
        samples = 2000 if options.samples is None else options.samples
        return scores_of_measures(generator, _by_name(named, "--measure"), samples, options.seed)
    if options.folders:
        pairs = [text.partition("=")[::2] for text in options.folders]
        folders = _by_name([(name, paths.split(",")) for name, paths in pairs], "--folders")
        pipe = load_pipeline(options.model)
        return scores_of_folders(_encoding(pipe), pipe.encoder.config.image_size, folders)
    first_line = options.scores.open(encoding="utf-8-sig").readline() if options.scores.is_file() else ""
    lists_images = "image" in first_line.strip().split(",")
    encode = _encoding(load_pipeline(options.model)) if lists_images else None
    return scores_of_table(options.scores, generator, options.latents, options.truncation, encode)


def _encoding(pipe: SDICPipeline) -> Encode:
    """What finds the latents of photos with a pipeline's encoder."""
    return lambda image: pipe.encode(pipe.prepare_image(image)).float().cpu()


def run_show(options: argparse.Namespace) -> int:
    """Run `sdic edits show`."""
    if options.out is not None:
        check_output_file(options.out)
    files = find_edit_files(options.edits)
    sets = [(path, *read_edits(path)) for path in files]
    generator = None if options.model is None else load_generator(options.model)
    if generator is None and options.out is not None:
        generator = load_generator("cats64")
    for path, edits, about in sets:
        if generator is not None and not options.any_generator:
            check_generator(path.name, about.get("generator_id"), generator.config.generator_id)
        print(f"{_cell(path.name)}: made for the generator {_cell(about.get('generator_id', '(unknown)'))}")
        for source, license in dict.fromkeys((edit.source, edit.license) for edit in edits):
            print(f"source: {_cell(source or 'unknown')}; licence: {_cell(license or 'unknown')}")
        print("\n".join(describe(edits)))
    if options.out is not None and generator is not None:
        everything = [edit for _, edits, _ in sets for edit in edits]
        print(f"sheet written to {save_picture(contact_sheet(generator, everything, options.seeds), options.out)}")
    return 0


def describe(edits: Sequence[Edit]) -> list[str]:
    """Describe edits as lines of a table."""
    lines = [("name", "family", "space", "layers", "default", "range", "description")]
    for edit in edits:
        low, high = edit.strength_range
        layers = "all" if edit.layers is None else f"{edit.layers[0]}:{edit.layers[1]}"
        lines.append(
            (_cell(edit.name), _cell(edit.family), edit.space, layers, f"{edit.default_strength:g}",
             f"{low:g} to {high:g}", _cell(edit.description))
        )  # fmt: skip
    widths = [max(len(line[column]) for line in lines) for column in range(6)]
    return ["  ".join([*(cell.ljust(width) for cell, width in zip(line, widths, strict=False)), line[6]]).rstrip()
            for line in lines]  # fmt: skip


def _cell(text: str) -> str:
    """What a file says, fit for a line of a table."""
    return cut_middle(printable(text), LONGEST_CELL)


def _by_name(pairs: Sequence[tuple[str, Value]], option: str) -> dict[str, Value]:
    """Return what was given by name; EditError if a name was given twice."""
    named = dict(pairs)
    if len(named) != len(pairs):
        raise EditError(f"{option} was given twice for one name, of [{listed(named)}]: give each name once.")
    return named


def check_set_path(path: Path) -> None:
    """Raise EditError or SDICError unless a set of edits can be written there; called before the work."""
    check_name(path)
    check_output_file(path)


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


def parse_component(text: str) -> tuple[str, int]:
    """Read "smile=12".

    Raises:
        EditError: If the text is something else.
    """
    name, _, index = text.partition("=")
    if not name.strip() or not index.strip().isdecimal() or len(index) > 100:
        raise EditError(f"The component {shorten(text)} cannot be read: write NAME=INDEX, such as smile=12.")
    return name.strip(), int(index)


def load_generator(model: str) -> StyleGAN2Generator:
    """Load the generator of a model, or of a folder that holds only that."""
    return load_component(StyleGAN2Generator, find_model(model), "generator").eval()
