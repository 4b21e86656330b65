"""Random pictures of a generator: a seed gives the same picture, whatever else is drawn with it.

Seeds are drawn and rendered one at a time, so that neither latents nor rounding depend on the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from sdic_plugin.errors import SDICError
from sdic_plugin.models import StyleGAN2Generator
from sdic_plugin.utils.ranges import check_seeds, check_truncation
from sdic_plugin.utils.seeds import seeded_rng


@dataclass(frozen=True)
class Samples:
    """Random pictures.

    Attributes:
        seeds: The seed of each.
        images: [N, 3, R, R], float32, about [-1, 1], on the CPU.
        latents: W+, [N, num_styles, D], float32, on the CPU.
    """

    seeds: list[int]
    images: torch.Tensor
    latents: torch.Tensor


def sample(
    generator: StyleGAN2Generator,
    count: int = 16,
    seed: int = 0,
    truncation: float = 0.7,
    seeds: Sequence[int] | None = None,
) -> Samples:
    """Draw random pictures.

    Args:
        generator: On any device; its fixed noise is used.
        count: Number of pictures; their seeds follow on `seed`.
        seed: First seed, from 0 on.
        truncation: How far w may lie from its mean: 1 as trained, 0 gives the mean picture.
        seeds: The seeds themselves, instead of `count` and `seed`; one given twice counts once.

    Returns:
        The pictures with their W+ latents; the same for a seed whatever else is drawn.

    Raises:
        SDICError: If there is no seed, a seed is out of range, or the truncation is no finite number.
    """
    check_truncation(truncation)
    seeds = check_seeds(range(seed, seed + count) if seeds is None else seeds)
    latents = torch.cat([latents_of_seed(generator, each, truncation) for each in seeds])
    return Samples(seeds, render(generator, latents), latents)


@torch.no_grad()
def latents_of_seed(generator: StyleGAN2Generator, seed: int, truncation: float = 1.0) -> torch.Tensor:
    """Draw the W+ latents of one seed, [1, num_styles, D], float32, on the CPU."""
    z = torch.randn(1, generator.config.style_width, generator=seeded_rng(seed))
    return generator.broadcast(generator.mapping(z.to(generator.device), truncation)).float().cpu()


@torch.no_grad()
def render(generator: StyleGAN2Generator, latents: torch.Tensor) -> torch.Tensor:
    """Render W+ latents [N, num_styles, D] with the generator's fixed noise, one by one: [N, 3, R, R] on the CPU."""
    return torch.cat([generator(each[None].to(generator.device)).image.float().cpu() for each in latents])


def mix_styles(base: torch.Tensor, other: torch.Tensor, layers: tuple[int, int]) -> torch.Tensor:
    """Give every base latent the styles of every other one in some layers (StyleGAN's style mixing).

    Args:
        base: W+ of the rows, [A, num_styles, D].
        other: W+ of the columns, [B, num_styles, D].
        layers: First and one-past-last layer that come from `other`.

    Returns:
        W+, [A, B, num_styles, D].

    Raises:
        SDICError: If the layers are not within the generator's.
    """
    first, last = layers
    if not 0 <= first < last <= base.shape[1]:
        raise SDICError(
            f"The layers {first}:{last} cannot be mixed, as this generator has {base.shape[1]}: give FIRST:LAST with "
            f"0 <= FIRST < LAST <= {base.shape[1]}."
        )
    mixed = base[:, None].repeat(1, len(other), 1, 1)
    mixed[:, :, first:last] = other[None, :, first:last]
    return mixed
