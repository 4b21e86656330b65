"""Directions that move shapes: learnt so that a step in latent space does what a smooth warp does to the picture.

The method is "steerability" (Jahanian et al., 2020): find d such that G(w + strength · d) looks like the picture G(w)
after a known transform. Here the transform is a warp of the face, so no labels are needed, only where the parts of an
aligned face lie. The generator answers with the nearest cat it knows rather than with a distorted picture.

Convention: positions are (x, y) as fractions of width and height, (0, 0) the picture's upper left corner and pixel
centres at (i + 0.5) / size. "Right" is the right side of the picture.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from sdic_plugin.errors import EditError
from sdic_plugin.models import StyleGAN2Generator
from sdic_plugin.utils.seeds import seeded_rng

Position = tuple[float, float]

Warp = Callable[[torch.Tensor], torch.Tensor]
"""Maps positions [H, W, 2] to how far the content there moves at strength 1, [H, W, 2], in the same units."""


def bump(positions: torch.Tensor, centre: Position, radius: Position) -> torch.Tensor:
    """Gaussian weight, 1 at the centre: [H, W]; `radius` is its standard deviation in x and y."""
    offset = (positions - positions.new_tensor(centre)) / positions.new_tensor(radius)
    return torch.exp(-offset.square().sum(dim=-1) / 2)


def magnify(centres: Sequence[Position], radius: float, amount: float) -> Warp:
    """Enlarge what lies around each centre; at the centre itself by the factor 1 / (1 − amount)."""

    def warp(positions: torch.Tensor) -> torch.Tensor:
        moves = [
            (positions - positions.new_tensor(centre)) * bump(positions, centre, (radius, radius))[..., None]
            for centre in centres
        ]
        return amount * torch.stack(moves).sum(dim=0)

    return warp


def shift(centre: Position, radius: Position, by: Position) -> Warp:
    """Move what lies around a centre by (x, y), fading out with the distance."""
    return lambda positions: bump(positions, centre, radius)[..., None] * positions.new_tensor(by)


def stretch(origin: Position, amount: Position) -> Warp:
    """Stretch the picture away from an origin, by a share of the distance in x and in y; above it only in x."""

    def warp(positions: torch.Tensor) -> torch.Tensor:
        offset = positions - positions.new_tensor(origin)
        below = torch.stack([offset[..., 0], offset[..., 1].clamp(min=0)], dim=-1)
        return below * positions.new_tensor(amount)

    return warp


def pixel_positions(height: int, width: int) -> torch.Tensor:
    """Positions of the pixel centres, [H, W, 2]."""
    y, x = torch.meshgrid((torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width, indexing="ij")
    return torch.stack([x, y], dim=-1)


def warp_images(images: torch.Tensor, warp: Warp, strengths: torch.Tensor) -> torch.Tensor:
    """Warp pictures; what comes from outside repeats the border.

    Args:
        images: [B, C, H, W].
        warp: The warp at strength 1.
        strengths: One per image, [B]; negative for the opposite move.

    Returns:
        [B, C, H, W].
    """
    positions = pixel_positions(*images.shape[2:]).to(images)
    sources = positions - strengths.to(images)[:, None, None, None] * warp(positions)
    return F.grid_sample(images, 2 * sources - 1, padding_mode="border", align_corners=False)


@dataclass(frozen=True)
class SteeringConfig:
    """How directions are learnt.

    Attributes:
        layers: First and one-past-last style the directions may change, each with a row of its own.
        steps: Optimiser steps.
        batch_size: Samples per step and warp.
        learning_rate: Adam's, in standard deviations of w; warmed up over 5 steps, and decayed to zero.
        length_penalty: Weight of a row's mean squared length, in standard deviations of w, against the relative error
            of the pictures (1 where a direction does nothing). Keeps edited latents among those the generator knows.
        truncation: Of the samples, towards the mean w: pictures like the encoder's, which lie near the mean.
        smallest_strength: Strengths are drawn from this to 1, of both signs.
        pooling: Side in pixels of the means that pictures are compared by, so that fine texture does not count.
        seed: Seed of the samples and strengths.
    """

    layers: tuple[int, int] = (0, 5)
    steps: int = 120
    batch_size: int = 8
    learning_rate: float = 0.07
    length_penalty: float = 0.001
    truncation: float = 0.8
    smallest_strength: float = 0.4
    pooling: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise EditError for values that make no sense."""
        if not 0 <= self.layers[0] < self.layers[1]:
            raise EditError(f"Steering was given the layers {self.layers}: give first and one-past-last style.")
        if self.steps < 1 or self.batch_size < 2:
            raise EditError(
                f"Steering was given {self.steps} steps of {self.batch_size} samples, but needs at least 1 step of 2 "
                "samples: one for either sign."
            )


def steer(
    generator: StyleGAN2Generator, warps: Mapping[str, Warp], w: torch.Tensor, config: SteeringConfig | None = None
) -> dict[str, torch.Tensor]:
    """Learn one direction per warp, such that latents + strength · direction render the warped picture.

    Args:
        generator: Renders the pictures; its noise stays fixed, its parameters are not trained.
        warps: Warps by name, each as strong at 1 as a person would want.
        w: Samples of w, [N, D], N larger than D: start points, and the distribution to stay within.
        config: Settings; None for the defaults.

    Returns:
        By name, [num_styles, D], zero outside the layers; strength 1 stands for the warp at strength 1.

    Raises:
        EditError: If the layers do not fit the generator, or there are too few samples.
    """
    config = config or SteeringConfig()
    first, last = config.layers
    if last > generator.num_styles:
        raise EditError(f"Steering was given the layers {config.layers}, but there are {generator.num_styles} styles.")
    if len(w) <= w.shape[1]:
        raise EditError(f"Steering was given {len(w)} samples of w, but needs more than their width {w.shape[1]}.")
    mean, axes = principal_axes(w)
    weights = torch.zeros(len(warps), last - first, w.shape[1], device=w.device, requires_grad=True)
    # A long memory: pictures differ, and coordinates that pictures hardly depend on give mostly noise.
    optimizer = torch.optim.Adam([weights], lr=config.learning_rate, betas=(0.9, 0.99))
    rng = seeded_rng(config.seed)
    for step in range(config.steps):
        optimizer.param_groups[0]["lr"] = config.learning_rate * learning_rate_share(step, config.steps)
        chosen = torch.randint(len(w), (config.batch_size,), generator=rng).to(w.device)
        latents = generator.broadcast(torch.lerp(mean, w[chosen], config.truncation))
        error = steering_error(generator, warps, latents, weights @ axes, draw_strengths(config, rng), config)
        loss = error + config.length_penalty * weights.square().sum(dim=2).mean(dim=1).sum()
        (weights.grad,) = torch.autograd.grad(loss, [weights])
        optimizer.step()
    padding = (0, 0, first, generator.num_styles - last)
    directions = F.pad(weights.detach() @ axes, padding)
    return dict(zip(warps, directions.unbind(), strict=True))


def principal_axes(w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean of w [N, D], and its principal axes [D, D] as rows, each one standard deviation long."""
    mean = w.mean(dim=0)
    _, values, vectors = torch.linalg.svd(w - mean, full_matrices=False)
    return mean, vectors * (values[:, None] / len(w) ** 0.5)


def learning_rate_share(step: int, steps: int) -> float:
    """Warm-up over 5 steps, a plateau, and a linear decay from three eighths of the way on."""
    return min(1.0, (step + 1) / 5, 1.6 * (1 - step / steps))


def draw_strengths(config: SteeringConfig, rng: torch.Generator) -> torch.Tensor:
    """Random strengths [batch_size], positive and negative in turn."""
    sizes = torch.empty(config.batch_size).uniform_(config.smallest_strength, 1, generator=rng)
    return sizes * (1 - 2 * (torch.arange(config.batch_size) % 2))


def steering_error(
    generator: StyleGAN2Generator,
    warps: Mapping[str, Warp],
    latents: torch.Tensor,
    directions: torch.Tensor,
    strengths: torch.Tensor,
    config: SteeringConfig,
) -> torch.Tensor:
    """Sum over the warps of the relative squared error: 1 each for a direction that does nothing, 0 for a perfect one.

    Args:
        generator: Renders the pictures; gradients flow through it to the directions.
        warps: Warps by name.
        latents: Start points, [B, num_styles, D].
        directions: One per warp, [len(warps), rows, D], for the config's layers.
        strengths: [B].
        config: Only the layers and the pooling count here.
    """
    strengths = strengths.to(latents)
    with torch.no_grad():
        before = generator(latents).image
    first, last = config.layers
    total = latents.new_zeros(())
    for warp, direction in zip(warps.values(), directions, strict=True):
        moved = latents[:, first:last] + strengths[:, None, None] * direction
        edited = torch.cat([latents[:, :first], moved, latents[:, last:]], dim=1)
        wanted = warp_images(before, warp, strengths)
        start, after, target = (
            F.avg_pool2d(images, config.pooling) for images in (before, generator(edited).image, wanted)
        )
        total = total + (after - target).square().mean() / (start - target).square().mean()
    return total
