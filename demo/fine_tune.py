# /// script
# requires-python = ">=3.11"
# dependencies = ["sdic-plugin[train,align]"]
# ///
r"""Fine-tune a model on pictures of your own and push it to the Hub: here, or as a job on the Hub's machines.

    uv run demo/fine_tune.py --model cats64 --data my_cats --steps 2000 --output run
    hf jobs uv run --flavor t4-small --secrets HF_TOKEN --timeout 4h demo/fine_tune.py \
        --model cats64 --data user/my_cats --steps 2000 --push-to user/my_model --license apache-2.0

All that could stop the push is asked before anything is trained. Without --push-to, nothing leaves the machine.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

from huggingface_hub import HfApi

from sdic_plugin import SDICPipeline
from sdic_plugin.checkpoints.components import find_model, has_component
from sdic_plugin.checkpoints.folder import DEFAULT_MODEL
from sdic_plugin.checkpoints.hub import HUB_ERRORS, hub_reason
from sdic_plugin.commands.cli import main as sdic
from sdic_plugin.edits.sheets import contact_sheet
from sdic_plugin.errors import SDICError, sentence_of
from sdic_plugin.hub import check_license
from sdic_plugin.models import PIPELINE_COMPONENTS
from sdic_plugin.training.places import check_places
from sdic_plugin.training.stages import STAGES

TRAINED = {
    "generator": {"generator"},
    "encoder": {"encoder"},
    "compensation": {"dipn", "dicn"},
    "transport": {"transport"},
}
"""The stages, and the networks that each trains."""

HUB_ID = re.compile(r"(?P<name>[A-Za-z0-9][\w.-]*/[\w.-]+)(@[^:\s]+)?(:\S+)?")
SHEET = "edits_of_samples.png"


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", required=True, help="folder, zip, or id of a data set: user/name[@revision][:split]")
    parser.add_argument("--model", default=DEFAULT_MODEL, help="to start from: bundled name, folder or Hub id")
    parser.add_argument(
        "--stage", choices=TRAINED, default="compensation", help="what is trained; default: %(default)s"
    )
    parser.add_argument("--steps", type=int, default=2000, help="optimiser steps; default: %(default)s")
    parser.add_argument("--config", help="TOML settings, or a recipe, as for sdic train")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="one more setting; repeatable")
    parser.add_argument("--output", type=Path, default=Path("run"), help="folder of the run; default: %(default)s")
    parser.add_argument("--push-to", metavar="USER/NAME", help="repository for the model; made if there is none")
    parser.add_argument("--license", help="under which you may publish the weights; needed with --push-to")
    parser.add_argument("--private", action="store_true", help="make the repository private")
    return parser.parse_args(arguments)


def source_of(data: str) -> str:
    """What `sdic train` takes for the data: what is no folder or file here may be a data set of the Hub."""
    return data if Path(data).exists() or not HUB_ID.fullmatch(data) else f"dataset:{data}"


def settings_of(options: argparse.Namespace) -> list[str]:
    """The settings of the run, KEY=VALUE."""
    return [f"data={source_of(options.data)}", f"output={options.output}", f"steps={options.steps}", *options.set]


def check_push(options: argparse.Namespace) -> None:
    """Raise SDICError for what would stop the training, or the push in the end; makes the repository."""
    settings = STAGES[options.stage].load(
        options.config, [f"model={json.dumps(options.model)}", *settings_of(options)]
    )
    check_places(settings)
    folder = find_model(options.model)
    missing = {name for name in PIPELINE_COMPONENTS if not has_component(folder, name)} - TRAINED[options.stage]
    if missing:
        raise SDICError(
            f"The model {options.model} has no {' and no '.join(sorted(missing))}, so that the {options.stage} would "
            "not make it whole: train that first, or leave --push-to out."
        )
    config = json.loads((folder / "generator" / "config.json").read_text(encoding="utf-8"))
    resolution = getattr(settings, "resolution", None)
    if resolution not in (None, config.get("resolution")):
        raise SDICError(
            f"With a resolution of {resolution}, the model's other networks no longer fit its generator: there is "
            "nothing whole to push, so leave --push-to out, and train the other stages on it."
        )
    check_license(options.license, config.get("license"), config.get("source"))
    try:
        HfApi().create_repo(options.push_to, private=options.private or None, exist_ok=True)
    except HUB_ERRORS as error:
        raise SDICError(
            f"The repository {options.push_to!r} cannot be made ({hub_reason(error)}): check the name, and that the "
            "secret HF_TOKEN is a token that may write there."
        ) from error


def draw_sheet(model: Path, path: Path) -> bool:
    """Draw the edits on pictures that the generator makes up, so that no photo is shown; False without edits."""
    pipe = SDICPipeline.from_pretrained(model)
    edits = list(pipe.get_list_edits().values())
    if edits:
        contact_sheet(pipe.generator, edits).save(path)
    return bool(edits)


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    if options.push_to is not None:
        check_push(options)
    words = ["train", options.stage, "--from", options.model]
    words += [] if options.config is None else ["--config", options.config]
    for setting in settings_of(options):
        words += ["--set", setting]
    code = sdic(words)
    if code != 0:
        return code
    model = options.output / "model"
    print(f"The model is in {model}.")
    if options.push_to is None:
        return 0
    words = ["push", str(model), options.push_to, "--license", options.license]
    if draw_sheet(model, options.output / SHEET):
        words += ["--example", str(options.output / SHEET)]
    for option, name in (("--dataset", options.data), ("--base-model", options.model)):
        if not Path(name).exists() and (of_the_hub := HUB_ID.fullmatch(name)):  # no path of this machine is told
            words += [option, of_the_hub["name"]]
    return sdic(words + ["--private"] * options.private)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (SDICError, OSError) as error:
        sys.exit(f"fine_tune: {sentence_of(error)}")
