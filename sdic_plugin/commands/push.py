"""`sdic push`: upload a model, or its edits, to the Hub."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import typer

from sdic_plugin.checkpoints.folder import resolve_model
from sdic_plugin.commands.framework import Arguments, Commands
from sdic_plugin.commands.options import MODELS, RECORDS, bundled_names
from sdic_plugin.errors import SDICError, shorten

REPOSITORY = "Repository"
DEFAULT_RELATION = "finetune"


@dataclass(kw_only=True)
class PushArguments(Arguments):
    """Options of `sdic push`."""

    model: Annotated[str, typer.Argument(metavar="MODEL", help="folder or bundled name", autocompletion=bundled_names)]
    repo_id: Annotated[str, typer.Argument(metavar="USER/NAME", help="repository on the Hub; made if there is none")]
    license: Annotated[str | None, typer.Option(help="licence you may publish the weights under; must be given")] = (
        None
    )
    edits_only: Annotated[bool, typer.Option("--edits-only", help="upload the model's edits alone")] = False
    card: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Markdown file to take instead of the rendered card; its front matter names the same licence",
            rich_help_panel=RECORDS,
        ),
    ] = None
    evaluation: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="evaluation.json of sdic evaluate, for the card", rich_help_panel=RECORDS),
    ] = None
    example: Annotated[
        list[str], typer.Option(metavar="FILE", help="picture to show on the card", rich_help_panel=RECORDS)
    ] = field(default_factory=list)
    base_model: Annotated[
        str | None,
        typer.Option(metavar="USER/NAME", help="model this one was made from", rich_help_panel=RECORDS),
    ] = None
    relation: Annotated[
        str,
        typer.Option(help="to the base model: finetune, adapter, quantized, merge", rich_help_panel=RECORDS),
    ] = DEFAULT_RELATION
    dataset: Annotated[
        list[str], typer.Option(metavar="NAME", help="data it was trained on", rich_help_panel=RECORDS)
    ] = field(default_factory=list)
    no_half: Annotated[
        bool, typer.Option("--no-half", help="leave the float16 variant out", rich_help_panel=REPOSITORY)
    ] = False
    private: Annotated[
        bool,
        typer.Option("--private", help="make the repository private; refuse a public one", rich_help_panel=REPOSITORY),
    ] = False
    revision: Annotated[str | None, typer.Option(help="branch to commit to", rich_help_panel=REPOSITORY)] = None


def register(commands: Commands) -> None:
    """Add `sdic push`."""
    commands.command(
        "push",
        "upload a model, or its edits, to the Hugging Face Hub",
        [
            "sdic push my_model user/name --license cc-by-4.0 --evaluation figures/evaluation.json",
            "sdic push my_model user/edits --license cc-by-4.0 --edits-only --base-model user/name",
        ],
        MODELS,
    )(push)


def check_useful(options: PushArguments) -> None:
    """Raise SDICError for an option that would do nothing beside the others."""
    rendered = {"--relation": options.relation != DEFAULT_RELATION, "--dataset": options.dataset}
    of_models = {"--card": options.card, "--evaluation": options.evaluation, "--no-half": options.no_half, **rendered}
    for name, given in of_models.items():
        if options.edits_only and given:
            raise SDICError(f"{name} says nothing about edits alone: leave it out, or --edits-only.")
    for name, given in {"--base-model": options.base_model, **rendered}.items():
        if options.card is not None and given:
            raise SDICError(
                f"{name} is said by the rendered card alone: leave it out, or --card, which can say it itself."
            )
    if options.relation != DEFAULT_RELATION and options.base_model is None:
        raise SDICError(
            f"--relation is {shorten(options.relation)}, but no model was named that it is a relation to: give "
            "--base-model USER/NAME, too."
        )


def push(options: PushArguments) -> int:
    """Run `sdic push`; the token is the one that `hf auth login` stored, or HF_TOKEN."""
    check_useful(options)
    folder = resolve_model(options.model)
    if folder is None:
        raise SDICError(f"The model {options.model!r} lies on the Hub already: give a folder or a bundled name.")
    options.prepare_process()

    from sdic_plugin.hub.cards import read_evaluation
    from sdic_plugin.pipeline.loading import load_pipeline

    evaluation = None if options.evaluation is None else read_evaluation(options.evaluation)
    private = options.private or None  # as it is, where nothing was said
    pipe = load_pipeline(str(folder))
    if options.edits_only:
        address = pipe.push_edits_to_hub(
            options.repo_id,
            options.license,
            examples=options.example,
            base_model=options.base_model,
            private=private,
            revision=options.revision,
        )
    else:
        address = pipe.push_to_hub(
            options.repo_id,
            options.license,
            model=folder,
            card=options.card,
            evaluation=evaluation,
            examples=options.example,
            base_model=options.base_model,
            relation=options.relation,
            datasets=options.dataset,
            half_precision=not options.no_half,
            private=private,
            revision=options.revision,
        )
    print(address)
    return 0
