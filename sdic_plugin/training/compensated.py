"""The method with gradients, step by step: encode, compensate, edit (SDIC, section 3; the pipeline's rules)."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Self

import torch
import torch.nn.functional as F

from sdic_plugin.models import DICN, DIPN, E4EEncoder, FeatureTransport, StyleGAN2Generator


@dataclass
class _Batch:
    """Tensors of the same photos."""

    def __getitem__(self, photos: slice) -> Self:
        return type(self)(*(getattr(self, field.name)[photos] for field in fields(self)))


@dataclass
class Encoded(_Batch):
    """What is known before compensation; the names are the pipeline's.

    Attributes:
        latents: W+, [B, num_styles, D].
        initial: Initial reconstruction at the photos' size, [B, 3, S, S], clamped to [-1, 1].
        features: The generator's features at the hook, [B, C, r, r].
    """

    latents: torch.Tensor
    initial: torch.Tensor
    features: torch.Tensor


@dataclass
class Compensated(_Batch):
    """An inversion.

    Attributes:
        discrepancy: What DIPN saw, [B, 3, S, S], float32.
        compensated_latents: w⁺, [B, num_styles, D].
        compensated_features: F⁺, [B, C, r, r].
        inversion: The rendering at the photos' size, [B, 3, S, S], about [-1, 1].
    """

    discrepancy: torch.Tensor
    compensated_latents: torch.Tensor
    compensated_features: torch.Tensor
    inversion: torch.Tensor


def resize(images: torch.Tensor, size: int) -> torch.Tensor:
    """Resize rendered images to the encoder's size, as the losses compare them there."""
    if images.shape[-1] == size:
        return images
    return F.interpolate(images, size=(size, size), mode="bilinear", align_corners=False)


@torch.no_grad()
def encode(images: torch.Tensor, encoder: E4EEncoder, generator: StyleGAN2Generator) -> Encoded:
    """Find latents of photos [B, 3, S, S] in [-1, 1] and render them."""
    return render(encoder(images), generator, images.shape[-1])


@torch.no_grad()
def render(latents: torch.Tensor, generator: StyleGAN2Generator, size: int) -> Encoded:
    """Render W+ latents [B, num_styles, D] at a size."""
    image, features, _ = generator(latents, return_dict=False)
    return Encoded(latents, resize(image.clamp(-1, 1), size), features)


def compensate(
    images: torch.Tensor,
    encoded: Encoded,
    generator: StyleGAN2Generator,
    dipn: DIPN,
    dicn: DICN,
    seen: torch.Tensor | None = None,
) -> Compensated:
    """Put back what the initial reconstruction lost; gradients flow through DIPN, DICN and the generator's pass.

    Args:
        images: Photos, [B, 3, S, S] in [-1, 1].
        encoded: Their latents, initial reconstruction and features.
        generator: Frozen.
        dipn: Predicts the discrepancy.
        dicn: Compensates.
        seen: What DIPN sees instead of the photos, such as misaligned ones.
    """
    discrepancy = dipn(images if seen is None else seen, encoded.initial)
    features, latents = dicn(discrepancy, encoded.features, encoded.latents, return_dict=False)
    _, *begun = generator(latents, stop_at_features=True, return_dict=False)

    def rendering() -> torch.Tensor:
        image, *_ = generator(latents, features=features, start_at_features=begun, return_dict=False)
        return image

    for look in range(len(dicn.looks)):
        known = resize(rendering().clamp(-1, 1), images.shape[-1])
        features = dicn.look_again(images, discrepancy, known, features, look=look)
    return Compensated(discrepancy.float(), latents, features, resize(rendering(), images.shape[-1]))


def render_edited(
    compensated: Compensated,
    offset: torch.Tensor,
    generator: StyleGAN2Generator,
    transport: FeatureTransport | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Edit an inversion by the continuous rule: latents w⁺ + offset, features F⁺ + what the edit changes there.

    Args:
        compensated: The photos' inversions, as `compensate` gives them.
        offset: Change of the latents, [B, num_styles, D].
        generator: Frozen.
        transport: Corrects the edited features; None for the plain rule.

    Returns:
        The edited rendering at the inversion's size, and the edited features [B, C, r, r].
    """
    latents, features = compensated.compensated_latents, compensated.compensated_features
    _, reference, _ = generator(latents, stop_at_features=True, return_dict=False)
    _, computed, skip_image = generator(latents + offset, stop_at_features=True, return_dict=False)
    followed = features + (computed - reference)
    if transport is not None:
        followed = followed + transport.correct(features, reference, computed - reference)
    begun = (computed, skip_image)
    edited, *_ = generator(latents + offset, features=followed, start_at_features=begun, return_dict=False)
    return resize(edited, compensated.inversion.shape[-1]), followed
