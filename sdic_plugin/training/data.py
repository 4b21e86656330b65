"""Training images as the stages use them: opened or loaded, split, and drawn in an order that resumes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch

from sdic_plugin.errors import SDICError
from sdic_plugin.images.cache import ImageSet, load_images, open_images
from sdic_plugin.training.balance import SamplingWeights
from sdic_plugin.training.config import TrainingConfig
from sdic_plugin.utils.seeds import seeded_rng

# Streams of an epoch's random numbers; those of the steps have others.
ORDER, WEIGHTED = 1, 2

Images = torch.Tensor | ImageSet
"""uint8 [N, 3, size, size], in memory or on disk."""


def training_and_validation(config: TrainingConfig, size: int) -> tuple[ImageSet, torch.Tensor]:
    """Open the images a stage trains on, and load those it reports on.

    The latter are the first `validation_images` of `validation`; without it, of the share of `data` that
    `validation_share` holds out; without that, of `data` itself.

    Args:
        config: The stage's settings.
        size: Height and width in pixels.

    Returns:
        The training images, and the validation images as uint8 [N, 3, size, size].

    Raises:
        SDICError: If a source cannot be read, or the share leaves one of the two without images.
    """
    images = open_images(config.data, size, cache=config.cache)
    if config.validation is not None:
        return images, load_images(config.validation, size, limit=config.validation_images)
    held_out = images
    if config.validation_share > 0:
        images, held_out = split_by_name(images, config.validation_share)
    if not len(images) or not len(held_out):
        raise SDICError(
            f"validation_share {config.validation_share} leaves {len(images)} images of {config.data} to train on and "
            f"{len(held_out)} to validate with: choose another share, or name held-out images as `validation`."
        )
    return images, held_out.batch(range(min(len(held_out), config.validation_images)))


def split_by_name(images: ImageSet, share: float) -> tuple[ImageSet, ImageSet]:
    """Hold out about a share of the images, each chosen by a hash of its name alone.

    An image therefore stays on its side when others are added or removed.

    Returns:
        The rest, and what was held out.
    """
    held_out = np.array([_hash_to_unit(name) < share for name in images.names], dtype=bool)
    return images.subset(np.flatnonzero(~held_out).tolist()), images.subset(np.flatnonzero(held_out).tolist())


def _hash_to_unit(name: str) -> float:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64


def gather(images: Images, indices: torch.Tensor | Sequence[int]) -> torch.Tensor:
    """Return the images of these indices, uint8 [B, 3, size, size]."""
    if isinstance(images, torch.Tensor):
        return images[torch.as_tensor(indices)]
    return images.batch(indices)


def to_range(images: torch.Tensor) -> torch.Tensor:
    """Map uint8 [B, 3, H, W] to float32 in [-1, 1]."""
    return images.float() / 127.5 - 1


def step_rng(seed: int, step: int, stream: int = 0, part: int = 0) -> torch.Generator:
    """Return the random generator of one step; all randomness comes from these numbers, so a run resumes exactly.

    Args:
        seed: The run's seed.
        step: Optimiser step, from 0 on.
        stream: Keeps apart what is drawn for different purposes.
        part: Keeps apart the parts of one step that processes and micro-batches compute.
    """
    return seeded_rng(seed, step, stream, *([part] if part else []))


def batch_indices(
    count: int, batch_size: int, seed: int, step: int, weights: SamplingWeights | None = None
) -> torch.Tensor:
    """Return the images of a step: an endless sequence of shuffled epochs, cut into batches.

    Args:
        count: Number of images, and of those in an epoch.
        batch_size: Images of a step.
        seed: Seed of the run.
        step: From 0 on.
        weights: How often each image is drawn; None for once an epoch.
    """
    start = step * batch_size
    indices = []
    for epoch in range(start // count, (start + batch_size - 1) // count + 1):
        order = _epoch_order(count, seed, epoch, weights)
        first = max(start - epoch * count, 0)
        indices.append(order[first : start + batch_size - epoch * count])
    return torch.cat(indices)


@lru_cache(maxsize=4)
def _epoch_order(count: int, seed: int, epoch: int, weights: SamplingWeights | None) -> torch.Tensor:
    order = torch.randperm(count, generator=step_rng(seed, epoch, stream=ORDER))
    return order if weights is None else weights.epoch(step_rng(seed, epoch, stream=WEIGHTED))[order]


def draw_flips(count: int, rng: torch.Generator) -> torch.Tensor:
    """Draw which of `count` images to mirror, bool [count]."""
    return torch.rand(count, generator=rng) < 0.5


def flip(images: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
    """Mirror those images [B, 3, H, W] for which `which` [B] is true."""
    return torch.where(which[:, None, None, None], images.flip(3), images)
