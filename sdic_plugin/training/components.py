"""Finding and freezing the networks a stage builds on."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from sdic_plugin.errors import CheckpointError
from sdic_plugin.training.trainer import to_channels_last

Model = TypeVar("Model")


def load_component(cls: type[Model], folder: str | Path, name: str) -> Model:
    """Load one network from a model folder, in float32.

    Args:
        cls: The network's class.
        folder: Folder of a pipeline or of converted components.
        name: The component's subfolder.

    Raises:
        CheckpointError: If the folder lacks the component.
    """
    path = Path(folder) / name
    if not (path / "config.json").is_file():
        raise CheckpointError(
            f"The folder {folder} has no {name!r} component: give a folder that `sdic convert` wrote."
        )
    return cls.from_pretrained(path, use_safetensors=True, dtype=torch.float32, low_cpu_mem_usage=False)


def freeze(*models: nn.Module, device: torch.device) -> None:
    """Put networks in evaluation mode, without gradients, channels last, on a device."""
    for model in models:
        to_channels_last(model.requires_grad_(False).eval().to(device))
