"""Random pictures of a generator: a seed gives the same picture, whatever else is drawn with it.

Seeds are drawn and rendered one at a time, so that neither latents nor rounding depend on the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from sdic_plugin.errors import SDICError, shorten
from sdic_plugin.models import StyleGAN2Generator
from sdic_plugin.utils.seeds import seeded_rng

LARGEST_SEED = 2**63 - 1
LARGEST_TRUNCATION = 100
MOST_SAMPLES = 100_000
"""All pictures of one call are held in memory together."""


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


def check_truncation(truncation: float) -> None:
    """Raise SDICError unless a truncation is a finite number of at most `LARGEST_TRUNCATION`."""
    if not abs(truncation) <= LARGEST_TRUNCATION:
        raise SDICError(
            f"truncation is {truncation}, but must be a finite number of at most {LARGEST_TRUNCATION}, such as 0.7."
        )


def check_seeds(seeds: Sequence[int]) -> list[int]:
    """Return the seeds, each once, in their order.

    Raises:
        SDICError: If there is none, one is out of range, or they are more than `MOST_SAMPLES`.
    """
    if not seeds:
        raise SDICError("No picture was asked for: give a count of at least 1, or at least one seed.")
    # A range may be longer than `len` can say.
    if seeds[0] + MOST_SAMPLES <= seeds[-1] if isinstance(seeds, range) else len(seeds) > MOST_SAMPLES:
        raise SDICError(f"More than {MOST_SAMPLES} pictures were asked for: draw them in several folders.")
    for seed in seeds:
        if not 0 <= seed <= LARGEST_SEED:
            raise SDICError(f"The seed {shorten(seed)} is out of range: give a whole number from 0 to 2^63 - 1.")
    return list(dict.fromkeys(seeds))


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
