"""`sdic push`: upload a model, or its edits, to the Hub."""

from __future__ import annotations

import argparse


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Describe `sdic push`."""
    parser = commands.add_parser("push", help="upload a model, or its edits, to the Hugging Face Hub")
    parser.add_argument("model", metavar="MODEL", help="folder or bundled name")
    parser.add_argument("repo_id", metavar="USER/NAME", help="repository on the Hub; made if there is none")
    parser.add_argument("--license", help="licence you may publish the weights under; must be given")
    parser.add_argument("--edits-only", action="store_true", help="upload the model's edits alone")
    parser.add_argument("--card", metavar="FILE", help="Markdown file to take instead of the rendered card")
    parser.add_argument("--evaluation", metavar="FILE", help="evaluation.json of sdic evaluate, for the card")
    parser.add_argument("--example", action="append", default=[], metavar="FILE", help="picture to show on the card")
    parser.add_argument("--base-model", metavar="USER/NAME", help="model this one was made from")
    parser.add_argument(
        "--relation", default="finetune", help="to the base model: finetune, adapter, quantized, merge"
    )
    parser.add_argument("--dataset", action="append", default=[], metavar="NAME", help="data it was trained on")
    parser.add_argument("--no-half", action="store_true", help="leave the float16 variant out")
    parser.add_argument("--private", action="store_true", default=None, help="make the repository private")
    parser.add_argument("--revision", help="branch to commit to")


def run(options: argparse.Namespace) -> int:
    """Run `sdic push`; the token is the one that `hf auth login` stored, or HF_TOKEN."""
    from sdic_plugin.checkpoints.folder import resolve_model
    from sdic_plugin.errors import SDICError
    from sdic_plugin.hub.cards import read_evaluation
    from sdic_plugin.pipeline.loading import load_pipeline

    folder = resolve_model(options.model)
    if folder is None:
        raise SDICError(f"The model {options.model!r} lies on the Hub already: give a folder or a bundled name.")
    evaluation = None if options.evaluation is None else read_evaluation(options.evaluation)
    pipe = load_pipeline(str(folder))
    shared = {
        "examples": options.example,
        "base_model": options.base_model,
        "private": options.private,
        "revision": options.revision,
    }
    if options.edits_only:
        address = pipe.push_edits_to_hub(options.repo_id, options.license, **shared)
    else:
        address = pipe.push_to_hub(
            options.repo_id,
            options.license,
            model=folder,
            card=options.card,
            evaluation=evaluation,
            relation=options.relation,
            datasets=options.dataset,
            half_precision=not options.no_half,
            **shared,
        )
    print(address)
    return 0
