"""Sheets of edits at five strengths that the bundled models' cards show."""

from __future__ import annotations

import torch

from sdic_plugin.models.sampling import sample
from sdic_plugin.pipeline.output import SDICInversion
from sdic_plugin.pipeline.sdic import SDICPipeline

MULTIPLES = (-2, -1, 0, 1, 2)
"""Of the default strengths, in the sheets' columns."""


@torch.no_grad()
def edits_of_samples(pipe: SDICPipeline, count: int = 3, seed: int = 100) -> list[torch.Tensor]:
    """Render each edit on random pictures: a row [count · 5, 3, R, R] in [-1, 1] for each edit."""
    latents = sample(pipe.generator, count, seed=seed, truncation=0.7).latents
    rows = []
    for name, edit in pipe.get_list_edits().items():
        strengths = [multiple * edit.default_strength for multiple in MULTIPLES]
        pictures = [pipe.generator(pipe.apply_edits(latents, {name: strength})).image for strength in strengths]
        rows.append(torch.stack(pictures, dim=1).flatten(0, 1))
    return rows


def edits_of_photo(pipe: SDICPipeline, inversion: SDICInversion) -> list[torch.Tensor]:
    """Render each edit of a photo: a row [5, 3, R, R] in [-1, 1] for each edit."""
    return [edit_at_strengths(pipe, inversion, name) for name in pipe.get_list_edits()]


def edit_at_strengths(pipe: SDICPipeline, inversion: SDICInversion, name: str) -> torch.Tensor:
    """Render one edit of photos, each at every strength: [photos · 5, 3, R, R] in [-1, 1]."""
    default = pipe.get_list_edits()[name].default_strength
    pictures = [
        pipe.edit(inversion, edits={name: multiple * default}, output_type="pt").images for multiple in MULTIPLES
    ]
    return torch.stack(pictures, dim=1).flatten(0, 1) * 2 - 1
