"""`sdic edits import`: files of other tools become a set of edits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from sdic_plugin.commands.common import check_generator_model, check_set_path, describe_edits, load_generator
from sdic_plugin.commands.framework import Arguments, Commands, given_options
from sdic_plugin.commands.options import RECORDS, Layers, bundled_names
from sdic_plugin.commands.parsing import by_name, parse_component, parse_layers
from sdic_plugin.errors import EditError, shorten

if TYPE_CHECKING:
    import torch

    from sdic_plugin.edits.base import Edit
    from sdic_plugin.edits.importing import EditValues
    from sdic_plugin.models import StyleGAN2Generator

Family = Literal["interfacegan", "ganspace", "sefa", "styleclip", "offset", "latents"]
Preset = Literal["cars", "ffhq"]
Rule = Literal["target", "layer_target", "offset"]

CLIP_MODEL = "openai/clip-vit-base-patch32"

DESCRIPTION = "What the files do not say"
COMPONENTS, LATENTS, STYLECLIP = "Components (ganspace, sefa)", "Latents", "StyleCLIP"

FAMILIES_OF: dict[str, tuple[Family, ...]] = {
    "preset": ("ganspace",),
    "component": ("ganspace", "sefa"),
    "rule": ("ganspace",),
    "index": ("latents",),
    "minus": ("latents",),
    "text": ("styleclip",),
    "neutral": ("styleclip",),
    "clip": ("styleclip",),
    "threshold": ("styleclip",),
}
"""Options that only some families have a use for."""


@dataclass(kw_only=True)
class ImportArguments(Arguments):
    """Options of `sdic edits import`."""

    files: Annotated[list[Path], typer.Argument(metavar="FILE", help="files of one family")]
    family: Annotated[Family, typer.Option(help="what the files hold")]
    out: Annotated[Path, typer.Option(metavar="SET", help="the set, *.safetensors")]
    add: Annotated[bool, typer.Option("--add", help="keep the edits that are in the set already")] = False
    model: Annotated[
        str | None,
        typer.Option(
            help="model they are for: checks that they fit, and notes its generator's id",
            autocompletion=bundled_names,
        ),
    ] = None
    name: Annotated[
        str | None, typer.Option(help="name of the edit; default: the file's", rich_help_panel=DESCRIPTION)
    ] = None
    layers: Layers = None
    strength: Annotated[float | None, typer.Option(help="default strength", rich_help_panel=DESCRIPTION)] = None
    range: Annotated[
        tuple[float, float] | None,
        typer.Option(metavar="LOW HIGH", help="sensible strengths", rich_help_panel=DESCRIPTION),
    ] = None
    description: Annotated[str, typer.Option(help="one sentence for people", rich_help_panel=DESCRIPTION)] = ""
    ends: Annotated[
        tuple[str, str] | None,
        typer.Option(metavar="LOW HIGH", help="words for both ends, such as grey ginger", rich_help_panel=DESCRIPTION),
    ] = None
    source: Annotated[str | None, typer.Option(help="where the file comes from", rich_help_panel=RECORDS)] = None
    license: Annotated[str | None, typer.Option(help="its licence", rich_help_panel=RECORDS)] = None
    preset: Annotated[
        Preset | None,
        typer.Option(help="ganspace: the published choices of components", rich_help_panel=COMPONENTS),
    ] = None
    component: Annotated[
        list[str],
        typer.Option(metavar="NAME=INDEX", help="ganspace, sefa: one component", rich_help_panel=COMPONENTS),
    ] = field(default_factory=list)
    rule: Annotated[Rule, typer.Option(help="ganspace: what a strength means", rich_help_panel=COMPONENTS)] = "target"
    index: Annotated[int, typer.Option(help="latents: which of those in the file", rich_help_panel=LATENTS)] = 0
    minus: Annotated[
        str | None,
        typer.Option(
            metavar="avg|INDEX",
            help="latents: what to start from; needed for saved latents",
            rich_help_panel=LATENTS,
        ),
    ] = None
    text: Annotated[
        str | None,
        typer.Option(
            help="styleclip: what the edit should lead to, such as 'a smiling face'", rich_help_panel=STYLECLIP
        ),
    ] = None
    neutral: Annotated[
        str | None,
        typer.Option(help="styleclip: what it starts from, such as 'a face'", rich_help_panel=STYLECLIP),
    ] = None
    clip: Annotated[str, typer.Option(help="styleclip: folder or Hub id of CLIP", rich_help_panel=STYLECLIP)] = (
        CLIP_MODEL
    )
    threshold: Annotated[
        float,
        typer.Option(help="styleclip: relevance from which channels move", rich_help_panel=STYLECLIP),
    ] = 0.15


def register(actions: Commands) -> None:
    """Add `sdic edits import`."""
    actions.command(
        "import",
        "turn files of other tools into a set of edits",
        [
            "sdic edits import smile.pt pose.pt --family interfacegan --model ffhq --out ffhq.safetensors",
            "sdic edits import ffhq_pca.pt --family ganspace --preset ffhq --model ffhq --out ffhq.safetensors --add",
        ],
    )(import_edits)


def import_edits(options: ImportArguments) -> int:
    """Run `sdic edits import`."""
    check_set_path(options.out)
    layers = None if options.layers is None else parse_layers(options.layers)
    components = by_name([parse_component(text) for text in options.component], "--component")
    check_family(options)
    check_files(options)
    if options.model is not None:
        check_generator_model(options.model)
    options.prepare_process()

    from sdic_plugin.edits.files import read_edits, write_edits
    from sdic_plugin.edits.ganspace import GANSpaceEdit
    from sdic_plugin.edits.importing import EditValues
    from sdic_plugin.edits.loader import check_generator

    generator = None if options.model is None else load_generator(options.model)
    values = EditValues(
        layers=layers,
        default_strength=options.strength,
        strength_range=options.range,
        description=options.description,
        source=options.source,
        license=options.license,
        ends=options.ends,
    )
    edits = read_files(options, values, components, generator)
    if generator is not None:
        for edit in edits:
            edit.check_fits(generator)
    own_id = None if generator is None else generator.config.generator_id
    source, license = options.source, options.license
    if options.add and options.out.is_file():
        source = license = None  # the new edits say their own; the set's would be the older ones', too
        kept, about = read_edits(options.out)
        check_generator(options.out.name, about.get("generator_id"), own_id)
        own_id = own_id or about.get("generator_id")
        edits = [edit for edit in kept if edit.name not in {new.name for new in edits}] + edits
    write_edits(edits, options.out, own_id, source, license)
    print("\n".join(describe_edits(edits)))
    moving = [edit.name for edit in edits if isinstance(edit, GANSpaceEdit) and not (edit.is_offset or edit.settles)]
    if moving:
        print(
            f"Note: {', '.join(moving)} read their coordinate from style 0, which they leave as it is, so the same "
            "target twice moves twice; --rule layer_target reads it from the styles that move."
        )
    print(f"{len(edits)} edits written to {options.out}")
    return 0


def check_family(options: ImportArguments) -> None:
    """Raise EditError for options that do nothing with this family, or with the others that were given."""
    for name, families in FAMILIES_OF.items():
        if options.family not in families:
            for option in given_options(options, [name]):
                raise EditError(
                    f"{option} is for the family {' or '.join(families)}, and {options.family} was given: leave it "
                    "out."
                )
    if options.name is not None and (options.family == "ganspace" or options.component):
        raise EditError("--name does nothing where --component or --preset names the edits: leave it out.")
    if options.preset is not None and not options.component:
        for option in given_options(options, ("layers", "strength", "range", "description", "ends")):
            raise EditError(
                f"{option} does nothing with --preset, whose edits have their own: leave it out, or choose edits with "
                "--component."
            )


def check_files(options: ImportArguments) -> None:
    """Raise EditError for options that make no sense together with the number of files."""
    if options.family == "styleclip":
        if len(options.files) != 2 or options.model is None or not (options.text and options.neutral):
            raise EditError(
                "StyleCLIP's directions take two files (the relevance matrix fs3.npy and S_mean_std), --model, --text "
                "and --neutral: give all of these."
            )
    elif len(options.files) > 1 and (options.name or options.preset or options.component):
        raise EditError(f"{len(options.files)} files were given, but names belong to one: import them one by one.")
    if options.family == "latents" and options.minus is not None and not _is_index(options.minus):
        if options.minus != "avg" or options.model is None:
            raise EditError(
                f"--minus is {shorten(options.minus)}: give avg together with --model, or the number of other latents."
            )


def read_files(
    options: ImportArguments,
    values: EditValues,
    components: Mapping[str, int],
    generator: StyleGAN2Generator | None,
) -> list[Edit]:
    """Read the edits that the files hold."""
    from sdic_plugin.edits import importing

    if options.family == "styleclip" and generator is not None:
        return [read_styleclip(options, values, generator)]
    edits: list[Edit] = []
    for path in options.files:
        if options.family == "ganspace":
            edits += importing.import_ganspace(path, options.preset, dict(components), options.rule, values)
        elif options.family == "sefa" and components:
            edits += importing.import_sefa(path, dict(components), values)
        elif options.family == "latents":
            minus = _base_latents(options.minus, generator)
            edits.append(importing.import_latents(path, options.name, options.index, minus, values))
        else:
            edits.append(importing.import_direction(path, options.name, options.family, values))
    return edits


def _base_latents(text: str | None, generator: StyleGAN2Generator | None) -> torch.Tensor | int | None:
    if text is None:
        return None
    return int(text) if _is_index(text) or generator is None else generator.w_avg


def _is_index(text: str) -> bool:
    return text.isdecimal() and len(text) < 100


def read_styleclip(options: ImportArguments, values: EditValues, generator: StyleGAN2Generator) -> Edit:
    """Make an edit of StyleCLIP's two files and two texts."""
    from sdic_plugin.edits import styleclip

    text, neutral = options.text or "", options.neutral or ""
    relevance, stds = styleclip.read_styleclip_files(*options.files)
    direction = styleclip.text_direction(*styleclip.load_clip(options.clip), text, neutral)
    given = {"description": f"{neutral} -> {text} (StyleCLIP)", **values.given()}
    name = options.name or text.replace(" ", "_")
    return styleclip.find_styleclip(generator, name, direction, relevance, stds, options.threshold, **given)
