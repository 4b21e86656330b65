"""`sdic edits show`: list a set of edits, and draw a contact sheet."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer

from sdic_plugin.checkpoints.folder import DEFAULT_MODEL, bundled_models, read_json
from sdic_plugin.commands.common import check_generator_model, describe_edits, fit_cell, load_generator
from sdic_plugin.commands.framework import Arguments, Commands, SeveralValues
from sdic_plugin.commands.options import bundled_names
from sdic_plugin.utils.files import check_output_file
from sdic_plugin.utils.ranges import check_seeds


@dataclass(kw_only=True)
class ShowArguments(Arguments):
    """Options of `sdic edits show`."""

    edits: Annotated[
        str,
        typer.Argument(metavar="EDITS", help="file, folder, bundled name or Hub id", autocompletion=bundled_names),
    ]
    model: Annotated[
        str | None,
        typer.Option(
            help=f"model to render with; default: the bundled one they belong to, else {DEFAULT_MODEL}",
            autocompletion=bundled_names,
        ),
    ] = None
    out: Annotated[Path | None, typer.Option(metavar="PNG", help="where to write the contact sheet")] = None
    seeds: Annotated[
        list[int], typer.Option(metavar="SEED...", help="random pictures to show them on"), SeveralValues()
    ] = field(default_factory=lambda: [0])
    any_generator: Annotated[
        bool, typer.Option("--any-generator", help="also show edits made for another generator")
    ] = False


def register(actions: Commands) -> None:
    """Add `sdic edits show`."""
    actions.command(
        "show",
        "list a set of edits, and draw a contact sheet",
        ["sdic edits show cats64", "sdic edits show ffhq.safetensors --model ffhq --out ffhq.png"],
    )(show)


def show(options: ShowArguments) -> int:
    """Run `sdic edits show`."""
    if options.out is not None:
        check_output_file(options.out)
    check_seeds(options.seeds)
    if options.model is not None:
        check_generator_model(options.model)
    options.prepare_process()

    from sdic_plugin.edits.files import read_edits
    from sdic_plugin.edits.loader import check_generator, find_edit_files
    from sdic_plugin.edits.sheets import contact_sheet
    from sdic_plugin.images.sheets import save_picture

    files = find_edit_files(options.edits)
    sets = [(path, *read_edits(path)) for path in files]
    generator = None if options.model is None else load_generator(options.model)
    if generator is None and options.out is not None:
        generator = load_generator(model_of(files, {about.get("generator_id") for _, _, about in sets}))
    for path, edits, about in sets:
        if generator is not None and not options.any_generator:
            check_generator(path.name, about.get("generator_id"), generator.config.generator_id)
        print(f"{fit_cell(path.name)}: made for the generator {fit_cell(about.get('generator_id', '(unknown)'))}")
        for source, license in dict.fromkeys((edit.source, edit.license) for edit in edits):
            print(f"source: {fit_cell(source or 'unknown')}; licence: {fit_cell(license or 'unknown')}")
        print("\n".join(describe_edits(edits)))
    if options.out is not None and generator is not None:
        everything = [edit for _, edits, _ in sets for edit in edits]
        print(f"sheet written to {save_picture(contact_sheet(generator, everything, options.seeds), options.out)}")
    return 0


def model_of(files: Sequence[Path], made_for: Collection[str | None]) -> str:
    """Find the model to draw edits with where none is named.

    Args:
        files: The sets of edits.
        made_for: The generators' ids that they give; None of a set that gives none.

    Returns:
        The folder of the bundled model whose own they are or whose generator they were made for, else the default
        model's name.
    """
    for folder in bundled_models().values():
        own = read_json(folder / "generator" / "config.json").get("generator_id")
        if (own is not None and own in made_for) or any(folder in path.parents for path in files):
            return str(folder)
    return DEFAULT_MODEL
