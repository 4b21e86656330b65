"""What several commands do."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sdic_plugin.checkpoints.folder import resolve_model
from sdic_plugin.errors import cut_middle, printable
from sdic_plugin.utils.files import check_edits_name, check_output_file

if TYPE_CHECKING:
    from sdic_plugin.edits.base import Edit
    from sdic_plugin.models import StyleGAN2Generator
    from sdic_plugin.photos.photo import PhotoSummary

LONGEST_CELL = 200


def check_set_path(path: Path) -> None:
    """Raise EditError or SDICError unless a set of edits can be written there; called before the work."""
    check_edits_name(path)
    check_output_file(path)


def check_generator_model(model: str) -> None:
    """Raise CheckpointError for a name that no model, nor a folder with a generator, can have."""
    if not os.path.isdir(model):
        resolve_model(model)


def load_generator(model: str) -> StyleGAN2Generator:
    """Load the generator of a model, or of a folder that holds only that."""
    from sdic_plugin.checkpoints.components import find_model, load_component
    from sdic_plugin.models import StyleGAN2Generator

    return load_component(StyleGAN2Generator, find_model(model), "generator").eval()


def report_failures(summary: PhotoSummary) -> None:
    """Print which photos failed, and why."""
    for name, reason in summary.failed.items():
        print(f"failed: {printable(name)}: {printable(reason)}", file=sys.stderr)


def describe_edits(edits: Sequence[Edit]) -> list[str]:
    """Describe edits as lines of a table."""
    lines = [("name", "family", "space", "layers", "default", "range", "description")]
    for edit in edits:
        low, high = edit.strength_range
        layers = "all" if edit.layers is None else f"{edit.layers[0]}:{edit.layers[1]}"
        lines.append(
            (fit_cell(edit.name), fit_cell(edit.family), edit.space, layers, f"{edit.default_strength:g}",
             f"{low:g} to {high:g}", fit_cell(edit.description))
        )  # fmt: skip
    widths = [max(len(line[column]) for line in lines) for column in range(6)]
    return ["  ".join([*(cell.ljust(width) for cell, width in zip(line, widths, strict=False)), line[6]]).rstrip()
            for line in lines]  # fmt: skip


def fit_cell(text: str) -> str:
    """What a file says, fit for a line of a table."""
    return cut_middle(printable(text), LONGEST_CELL)
