"""Narrow checkpoints in the published layouts, and helpers for the tests of conversion."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import pytest
import torch
from testing import parity_weights

WIDTH, STYLES = 32, 14
"""Style width and number of styles of the narrow SDIC checkpoint, which has a 256-pixel generator."""
SMALL_CHANNELS = {4: 20, 8: 16, 16: 12, 32: 8}
SMALL_WIDTH = 24
"""Channel table and style width of the small rosinality networks, of 32 pixels and 3 mapping layers."""


@functools.cache
def sdic_state() -> dict[str, torch.Tensor]:
    """The state dict of an SDIC file; not to be changed."""
    return parity_weights.state_dict(parity_weights.narrow(parity_weights.published_shapes()))


@functools.cache
def small_generator() -> dict[str, torch.Tensor]:
    shapes = parity_weights.generator_shapes(32, SMALL_CHANNELS, width=SMALL_WIDTH, mapping=3)
    return parity_weights.generator_state(shapes)


@functools.cache
def small_discriminator() -> dict[str, torch.Tensor]:
    state = parity_weights.state_dict(parity_weights.discriminator_shapes(32, SMALL_CHANNELS))
    return {key: value / 4 if key.endswith("kernel") else value for key, value in state.items()}


def only(state: dict[str, torch.Tensor], *prefixes: str) -> dict[str, torch.Tensor]:
    return {key: tensor for key, tensor in state.items() if key.startswith(prefixes)}


def published(state: dict, **entries: object) -> dict:
    """The content of an SDIC or e4e file around a state dict."""
    return {"state_dict": state, "latent_avg": parity_weights.latent_avg(STYLES, WIDTH), **entries}


def save(content: object, path: Path, **options: object) -> Path:
    torch.save(content, path, **options)
    return path


def folder_files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def sentence(error: pytest.ExceptionInfo, *wanted: str) -> None:
    """Check that an error's message is one sentence, and holds some words."""
    message = str(error.value)
    assert message.endswith("."), message
    assert not re.search(r"\. [A-Z]|\n", message), message
    for word in wanted:
        assert word in message, message
