"""Samples of a generator that stand for photos: their own latents are known, and so is what an edit must make of them.

The finer styles are another sample's, so that an encoder finds such latents no better than a photo's.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from sdic_plugin.models.stylegan2 import StyleGAN2Generator


class SampleDraws(NamedTuple):
    """What is random in samples.

    Attributes:
        z: Of the coarser and of the finer styles, [2, B, style_width].
        crossover: First style that comes from the second, [B].
    """

    z: torch.Tensor
    crossover: torch.Tensor


def draw_z(generator: StyleGAN2Generator, count: int, rng: torch.Generator) -> torch.Tensor:
    """Draw z of samples, [count, style_width], on the generator's device."""
    return torch.randn(count, generator.config.style_width, generator=rng).to(generator.device)


@torch.no_grad()
def random_latents(generator: StyleGAN2Generator, z: torch.Tensor) -> torch.Tensor:
    """Return the generator's own latents of z [B, style_width]: W+ [B, num_styles, D]."""
    return generator.broadcast(generator.mapping(z))


def draw_samples(generator: StyleGAN2Generator, count: int, rng: torch.Generator) -> SampleDraws:
    """Draw samples; the finer styles, from somewhere in the second half on, are another sample's."""
    z = torch.stack([draw_z(generator, count, rng), draw_z(generator, count, rng)])
    half = generator.num_styles // 2
    crossover = half + (torch.rand(count, generator=rng) * (generator.num_styles + 1 - half)).long()
    return SampleDraws(z, crossover.to(z.device))


@torch.no_grad()
def sample_latents(generator: StyleGAN2Generator, draws: SampleDraws) -> torch.Tensor:
    """Return the latents of samples that were drawn, W+ [B, num_styles, D]."""
    coarse, fine = (random_latents(generator, z) for z in draws.z)
    rows = torch.arange(generator.num_styles, device=coarse.device)[None, :, None]
    return torch.where(rows < draws.crossover[:, None, None], coarse, fine)
