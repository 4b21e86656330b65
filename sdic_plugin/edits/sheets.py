"""Contact sheets of edits: a row per edit and picture, a column per strength, for people to look at and name."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image

from sdic_plugin.edits.base import STYLE_SPACE, Edit
from sdic_plugin.errors import EditError
from sdic_plugin.images.processor import SDICImageProcessor
from sdic_plugin.images.sheets import SheetCell, SheetRow, comparison_sheet
from sdic_plugin.models import StyleGAN2Generator
from sdic_plugin.models.sampling import check_seeds, latents_of_seed

MULTIPLES = (-1.0, -0.5, 0.0, 0.5, 1.0)
"""Strengths shown, in multiples of each edit's default."""


@torch.no_grad()
def render_edit(
    generator: StyleGAN2Generator, edit: Edit, latents: torch.Tensor, strengths: Sequence[float]
) -> torch.Tensor:
    """Render latents at several strengths of one edit.

    Args:
        generator: The one that the edit fits; its noise stays fixed.
        edit: An edit in any space.
        latents: W+, [1, num_styles, D].
        strengths: One per picture.

    Returns:
        [len(strengths), 3, R, R], about [-1, 1].
    """
    strength = torch.tensor(strengths, dtype=torch.float32)
    repeated = latents.to(generator.device).expand(len(strengths), -1, -1)
    if edit.space == STYLE_SPACE:
        return generator(styles=edit.apply_styles(generator.styles(repeated), strength)).image
    return generator(edit.apply(repeated, strength)).image


def contact_sheet(
    generator: StyleGAN2Generator,
    edits: Sequence[Edit],
    seeds: Sequence[int] = (0,),
    multiples: Sequence[float] = MULTIPLES,
    truncation: float = 0.7,
    cell_size: int = 160,
) -> Image.Image:
    """Show edits on random pictures of a generator.

    Args:
        generator: The one that the edits fit.
        edits: Every edit is a row for each picture.
        seeds: Seeds of the pictures, as in `sdic sample`.
        multiples: Strengths, in multiples of each edit's default.
        truncation: Truncation of the pictures, as in `sdic sample`.
        cell_size: Longer side of a cell, in pixels.

    Raises:
        EditError: If there is no edit, or one does not fit.
        SDICError: If a seed is out of range.
    """
    if not edits:
        raise EditError("There are no edits to show: find, import or load some first.")
    seeds = check_seeds(seeds)
    first, last = generator.config.content_rows or (0, generator.config.resolution)
    processor = SDICImageProcessor(last - first, generator.config.resolution)
    rows = []
    for edit in edits:
        edit.check_fits(generator)
        for seed in seeds:
            strengths = [multiple * edit.default_strength + 0.0 for multiple in multiples]  # no -0
            images = render_edit(generator, edit, latents_of_seed(generator, seed, truncation), strengths)
            pictures = processor.postprocess(images[:, :, first:last].float().cpu(), "pil")
            cells = {
                f"{multiple:+g} x default": SheetCell(picture, f"{strength:+.3g}")
                for multiple, strength, picture in zip(multiples, strengths, pictures, strict=True)
            }
            rows.append(SheetRow(cells, title=sheet_title(edit)))
    return comparison_sheet(rows, cell_size)


def sheet_title(edit: Edit) -> str:
    """Title of an edit's rows."""
    layers = "all layers" if edit.layers is None else f"layers {edit.layers[0]} to {edit.layers[1] - 1}"
    return f"{edit.name} ({edit.family}, {edit.space}, {layers}): {edit.description}".removesuffix(": ")
