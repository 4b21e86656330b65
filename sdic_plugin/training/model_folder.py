"""What a run leaves: a folder with every network known so far, for the next stage, or for a pipeline once it is whole.

`output/model` holds the components of the model built on, with those of this stage in their place, its edits if they
belong to the generator, its notice, and a card.
"""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.models.modeling_utils import ModelMixin

from sdic_plugin.checkpoints.components import has_component, load_component
from sdic_plugin.checkpoints.folder import (
    NOTICE_NAME,
    PARTS_SETTINGS,
    read_notices,
    read_parts_settings,
    strip_local_path,
    write_parts_settings,
)
from sdic_plugin.edits import read_edits
from sdic_plugin.edits.loader import EDITS_FOLDER
from sdic_plugin.errors import CheckpointError, SDICError
from sdic_plugin.evaluation import evaluate
from sdic_plugin.evaluation.markdown import card_tables
from sdic_plugin.models import ALL_COMPONENTS, PIPELINE_COMPONENTS, StyleGAN2Discriminator
from sdic_plugin.pipeline.checks import check_fit
from sdic_plugin.pipeline.sdic import SDICPipeline
from sdic_plugin.training.card import RunCard
from sdic_plugin.training.curves import draw_curves, read_curves
from sdic_plugin.training.tracking import LOG_NAME
from sdic_plugin.training.trainer import Trainer
from sdic_plugin.utils.files import replacing_folder

COMPONENTS: dict[str, type[ModelMixin]] = {**ALL_COMPONENTS, "discriminator": StyleGAN2Discriminator}


def write_model(
    trainer: Trainer,
    model: Path | None,
    trained: Mapping[str, ModelMixin],
    validation: torch.Tensor,
    taken: Mapping[str, ModelMixin] | None = None,
    others: Sequence[Path] = (),
) -> Path:
    """Write `output/model`, whole or not at all, on the main process.

    Args:
        trainer: Of the run that has ended.
        model: Folder of the model built on, whose other components are carried over where they fit; None for none.
        trained: The networks of this stage, by component name.
        validation: Held-out images, uint8 [N, 3, S, S]; a whole pipeline is evaluated on them for the card.
        taken: Networks that did not learn here, of other models, by component name; settings of the same names say
            which.
        others: Folders of other models whose networks went in, learning or not; their notices go along.

    Returns:
        The folder.
    """
    folder = trainer.output / "model"
    if not trainer.accelerator.is_main_process:
        return folder
    networks = {name: _plain_copy(network) for name, network in trained.items()}
    of_others = {name: _plain_copy(network) for name, network in (taken or {}).items()}
    of_model = {} if model is None else _carry_over(model, {**of_others, **networks})
    card = RunCard.of_run(trainer, networks, {"model": of_model, **{name: [name] for name in of_others}})
    carried = {**of_model, **of_others}
    notice = read_notices(*([] if model is None else [model]), *others)
    with replacing_folder(folder) as temporary:
        for name, network in {**carried, **networks}.items():
            network.save_pretrained(temporary / name)
        if model is not None and (model / "losses").is_dir():
            shutil.copytree(model / "losses", temporary / "losses")
        if PIPELINE_COMPONENTS.keys() <= carried.keys() | networks.keys():
            pipe = _assemble({**carried, **networks}, model)
            _learn_subject(pipe, validation)
            pipe.save_pretrained(temporary)
            card.evaluation = card_tables(evaluate(pipe, validation, model=trainer.output.name))
        elif model is not None:
            _copy_edits(model, temporary, {**carried, **networks}.get("generator"))
            write_parts_settings(temporary, _settings_of(model))
        if notice is not None:
            (temporary / NOTICE_NAME).write_text(notice, encoding="utf-8")
        card.curves = _draw_curves(trainer, temporary / "curves.png")
        for path in temporary.rglob("config.json"):
            strip_local_path(path)
        (temporary / "README.md").write_text(card.to_markdown(), encoding="utf-8")
    return folder


def _learn_subject(pipe: SDICPipeline, validation: torch.Tensor) -> None:
    """Note what the model's own kind of picture is like, where the held-out images show it."""
    # Pictures that are all alike, or too few, show nothing; then photos are not checked.
    with contextlib.suppress(SDICError):
        pipe.learn_subject(validation)


def _draw_curves(trainer: Trainer, path: Path) -> str | None:
    """Draw the run's learning curves, where matplotlib is installed and something was logged; returns its name."""
    if importlib.util.find_spec("matplotlib") is None or not (trainer.output / LOG_NAME).is_file():
        return None
    draw_curves(read_curves([trainer.output]), path)
    return path.name


def _plain_copy(network: ModelMixin) -> ModelMixin:
    """Copy a network onto the CPU, without the wrapping that accelerate's mixed precision left on its forward."""
    plain = copy.deepcopy(network)
    plain.to("cpu")  # type: ignore[arg-type]  # diffusers' decorator hides that `to` is a method
    for attribute in ("forward", "_original_forward"):  # of the instance; the class's own comes to light again
        plain.__dict__.pop(attribute, None)
    return plain.eval()


def _carry_over(model: Path, trained: Mapping[str, ModelMixin]) -> dict[str, ModelMixin]:
    """Load the other components of the model built on, as far as they fit what was trained."""
    kept: dict[str, ModelMixin] = {}
    for name, cls in COMPONENTS.items():
        if name in trained or not has_component(model, name):
            continue
        network = load_component(cls, model, name).eval()
        try:
            check_fit({**kept, **trained, name: network})
        except CheckpointError:
            continue
        kept[name] = network
    return kept


def _assemble(networks: Mapping[str, ModelMixin], model: Path | None) -> SDICPipeline:
    """Make a pipeline, with the alignment and, while they belong to its generator, the edits of the model built on."""
    options = {} if model is None else _settings_of(model)
    parts: dict[str, Any] = {
        name: networks[name] for name in ALL_COMPONENTS if name in networks
    }  # the pipeline checks their classes
    pipe = SDICPipeline(**parts, **options)
    pipe.set_progress_bar_config(disable=True)
    for path in [] if model is None else _fitting_edits(model, pipe.generator):
        for edit in read_edits(path)[0]:
            pipe.add_edit(edit)
    return pipe


def _copy_edits(model: Path, folder: Path, generator: ModelMixin | None) -> None:
    """Let a model that is not whole yet keep the edits of the one built on, for later stages."""
    for path in [] if generator is None else _fitting_edits(model, generator):
        (folder / EDITS_FOLDER).mkdir(exist_ok=True)
        shutil.copyfile(path, folder / EDITS_FOLDER / path.name)


def _fitting_edits(model: Path, generator: ModelMixin) -> list[Path]:
    """Files of a model's edits that belong to a generator, or do not say to which."""
    own = (None, generator.config.generator_id)
    paths = sorted((model / EDITS_FOLDER).glob("*.safetensors"))
    return [path for path in paths if read_edits(path)[1].get("generator_id") in own]


def _settings_of(model: Path) -> dict[str, Any]:
    """What a pipeline made of a model's parts is told: of the model's own, or kept beside its parts."""
    path = model / "model_index.json"
    index = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else read_parts_settings(model)
    return {key: index[key] for key in PARTS_SETTINGS if index.get(key) is not None}
