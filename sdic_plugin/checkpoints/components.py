"""Finding and loading the networks that a training stage or a command builds on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeVar

import torch
from diffusers.models.modeling_utils import ModelMixin

from sdic_plugin.checkpoints.folder import check_component, lone_variant, resolve_model
from sdic_plugin.checkpoints.hub import download_model
from sdic_plugin.errors import CheckpointError, SDICError, short_reason, shorten

Model = TypeVar("Model", bound=ModelMixin)


def find_model(model: str | Path | None) -> Path:
    """Return the folder of the model a stage builds on: of components, of an earlier run, a bundled name or a Hub id.

    Raises:
        SDICError: If none was given.
        CheckpointError: If it is not found.
    """
    if not model:
        raise SDICError(
            "This stage builds on an earlier one, but no model was given: name a folder, a bundled model or a Hub id "
            "with --from (or `model` in the settings)."
        )
    path = Path(model)
    if os.path.isdir(path):  # components without a model_index.json are enough here
        return path / "model" if (path / "model").is_dir() else path
    try:
        return resolve_model(model) or download_model(str(model))
    except OSError as error:  # a name that no file can have
        raise CheckpointError(
            f"The model {shorten(str(model))} cannot be looked for ({short_reason(error)}): name a folder, a bundled "
            "model or a Hub id."
        ) from error


def has_component(folder: Path, name: str) -> bool:
    """Whether a model folder holds the network of that name."""
    return (folder / name / "config.json").is_file()


def load_component(cls: type[Model], folder: str | Path, name: str) -> Model:
    """Load one network from a model folder, in float32.

    Args:
        cls: The network's class.
        folder: Folder of a pipeline or of converted components.
        name: The component's subfolder.

    Raises:
        CheckpointError: If the folder lacks the component, or its weights do not fit its configuration.
    """
    path = Path(folder) / name
    if not has_component(Path(folder), name):
        raise CheckpointError(
            f"The folder {folder} has no {name!r} component: give a folder that an earlier stage or `sdic convert` "
            "wrote."
        )
    return load_network(cls, path)


def load_network(cls: type[Model], folder: Path) -> Model:
    """Load a network from its own folder, in float32; where there are no plain weights, those of their only variant.

    Raises:
        CheckpointError: If its weights do not fit its configuration.
    """
    variant = lone_variant(folder)
    check_component(folder, cls, variant)
    return cls.from_pretrained(
        folder, variant=variant, use_safetensors=True, dtype=torch.float32, low_cpu_mem_usage=False
    )
