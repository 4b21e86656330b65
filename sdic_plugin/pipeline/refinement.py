"""A short optimisation on top of the feed-forward inversion, for those who can wait."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch

from sdic_plugin.models import StyleGAN2Generator
from sdic_plugin.pipeline.output import SDICInversion

LATENT_RATE, FEATURE_RATE = 0.005, 0.05
"""Adam's learning rates: of the latents, and of the features as a share of their own deviation."""
WARM_UP = 10
"""Steps in which the rates grow to that."""


@torch.inference_mode(False)
def refine(
    generator: StyleGAN2Generator,
    inversion: SDICInversion,
    to_photo: Callable[[torch.Tensor], torch.Tensor],
    steps: int,
) -> SDICInversion:
    """Optimise compensated latents and features of each photo on its mean squared pixel error.

    The more steps, the more of the photo moves into the features, where edits cannot reach it.

    Args:
        generator: Its weights stay as they are.
        inversion: Where to start.
        to_photo: Brings renderings [B, 3, R, R] to the photos' size and rows.
        steps: Steps of Adam, each one pass of the generator and back.

    Returns:
        The inversion with new compensated latents and features; of the steps, each photo keeps its best.
    """
    # Copies: tensors made under inference_mode take no part in gradients.
    latents = inversion.compensated_latents.float().clone().requires_grad_()
    features, target = inversion.compensated_features.float().clone(), inversion.image.float().clone()
    # In units of each photo's own deviation, so that one rate fits every generator and photo.
    unit = features.flatten(1).std(dim=1)[:, None, None, None]
    change = torch.zeros_like(features, requires_grad=True)
    optimizer = torch.optim.Adam([{"params": [latents]}, {"params": [change]}], betas=(0.9, 0.99))
    dtype = inversion.compensated_features.dtype
    best = [latents.detach().clone(), torch.zeros_like(features)]
    smallest = torch.full((len(inversion),), torch.inf, device=latents.device)
    for step in range(steps + 1):
        with torch.enable_grad():
            rendered = to_photo(generator(latents, features=(features + unit * change).to(dtype)).image.float())
            error = (rendered - target).square().flatten(1).mean(dim=1)
        better = error.detach() < smallest
        smallest = torch.where(better, error.detach(), smallest)
        for kept, new in zip(best, (latents, change), strict=True):
            kept[better] = new.detach()[better]
        if step < steps:
            # Adam's first steps move everything by its whole rate, which from a good inversion leads away.
            for group, rate in zip(optimizer.param_groups, (LATENT_RATE, FEATURE_RATE), strict=True):
                group["lr"] = rate * min(1.0, (step + 1) / WARM_UP)
            # A sum: no photo's step depends on the others in its batch.
            latents.grad, change.grad = torch.autograd.grad(error.sum(), [latents, change])
            optimizer.step()
    found = (features + unit * best[1]).to(dtype)
    return dataclasses.replace(inversion, compensated_latents=best[0], compensated_features=found)
