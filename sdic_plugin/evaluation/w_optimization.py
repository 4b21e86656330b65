"""Baseline of an honest encoder: the best w (or W+) that plain optimisation of the pixels finds."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from sdic_plugin.errors import SDICError
from sdic_plugin.images.metrics import psnr
from sdic_plugin.models import StyleGAN2Generator
from sdic_plugin.utils.ranges import OPTIMIZATION_SPACES

RAMP_UP, RAMP_DOWN = 0.05, 0.25
"""Shares of the steps in which the learning rate rises and falls."""


@dataclass
class OptimizationResult:
    """What the optimisation found for N images.

    Attributes:
        latents: W+, [N, num_styles, D]; in the space "w" all rows of an image are equal.
        images: Their renderings, [N, 3, H, W] in [-1, 1], clamped, at the size of the targets.
        psnr: [N], in dB.
    """

    latents: torch.Tensor
    images: torch.Tensor
    psnr: torch.Tensor


def optimize_w(
    generator: StyleGAN2Generator,
    images: torch.Tensor,
    steps: int = 100,
    learning_rate: float = 0.3,
    space: str = "w",
    batch_size: int = 8,
    progress: Callable[[int], object] | None = None,
) -> OptimizationResult:
    """Find latents of images by Adam on the mean squared pixel error, from the mean w, every image on its own.

    Args:
        generator: Its weights stay as they are; its noise is fixed.
        images: Prepared images, [N, 3, H, W] in [-1, 1]; the picture's rows of wide ones (`content_rows`).
        steps: Steps of Adam.
        learning_rate: Peak of the learning rate, which rises and falls over the steps; 0.1 is better for "w+".
        space: "w" (one w per image) or "w+" (one per style).
        batch_size: Images at a time.
        progress: Called with the number of finished images after every batch.

    Raises:
        SDICError: If an argument makes no sense.
    """
    if space not in OPTIMIZATION_SPACES or steps < 1 or batch_size < 1 or images.ndim != 4 or not len(images):
        raise SDICError(
            f"The optimisation was given images of shape {list(images.shape)}, {steps} steps, the space {space!r} and "
            f"batches of {batch_size}: give images [N, 3, H, W], steps and batches of at least 1, and a space of "
            f"{OPTIMIZATION_SPACES}."
        )
    found, done = [], 0
    for targets in images.to(generator.device, torch.float32).split(batch_size):
        latents = _optimize_batch(generator, targets, steps, learning_rate, space)
        with torch.no_grad():
            found.append((latents, render_at(generator, latents, targets.shape[2:]).clamp(-1, 1)))
        done += len(targets)
        if progress is not None:
            progress(done)
    latents, renderings = (torch.cat(parts) for parts in zip(*found, strict=True))
    return OptimizationResult(latents, renderings, psnr(renderings, images.to(renderings), data_range=2.0))


def _optimize_batch(
    generator: StyleGAN2Generator, targets: torch.Tensor, steps: int, learning_rate: float, space: str
) -> torch.Tensor:
    """Optimise one batch; returns W+ [B, num_styles, D]."""
    with torch.no_grad():
        # The public way to the mean w: a module's buffers are not read from outside (they may be offloaded).
        mean = generator.mapping(torch.zeros(1, generator.config.style_width, device=targets.device), truncation=0.0)
    rows = 1 if space == "w" else generator.num_styles
    variable = mean[:, None].repeat(len(targets), rows, 1).requires_grad_()
    optimizer = torch.optim.Adam([variable], lr=learning_rate, betas=(0.9, 0.99))
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = learning_rate * _schedule(step / steps)
        with torch.enable_grad():
            latents = variable.expand(-1, generator.num_styles, -1)
            error = (render_at(generator, latents, targets.shape[2:]) - targets).square().flatten(1).mean(dim=1)
            # Only the latents' gradient is computed, not the weights'.
            (variable.grad,) = torch.autograd.grad(error.sum(), [variable])
        optimizer.step()
    return variable.detach().expand(-1, generator.num_styles, -1)


def _schedule(share: float) -> float:
    """Factor of the learning rate after that share of the steps: a linear rise, then a cosine fall at the end."""
    rise = min(1.0, share / RAMP_UP + 0.2)
    fall = min(1.0, (1 - share) / RAMP_DOWN)
    return rise * (0.5 - 0.5 * math.cos(math.pi * fall))


def render_at(generator: StyleGAN2Generator, latents: torch.Tensor, size: torch.Size) -> torch.Tensor:
    """Render W+ latents [B, num_styles, D] at the size of the photos: [B, 3, H, W], about [-1, 1], unclamped."""
    image = generator(latents).image
    rows = slice(*(generator.config.content_rows or (0, generator.config.resolution)))
    return match_size(image[:, :, rows], size)


def match_size(images: torch.Tensor, size: torch.Size | tuple[int, int]) -> torch.Tensor:
    """Bring images [B, 3, h, w] to [B, 3, *size] by averaging areas, as published comparisons do."""
    return images if tuple(images.shape[2:]) == tuple(size) else F.interpolate(images, tuple(size), mode="area")
