"""The losses of the method, each a small function (SDIC, section 3.4; e4e, section 4)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from sdic_plugin.models import StyleGAN2Discriminator
from sdic_plugin.models.efficientnet_lite import EfficientNetLite
from sdic_plugin.models.layers import full_precision

PERCEPTUAL_SIDE = 128
"""Least side in pixels at which EfficientNet-Lite compares images; `benchmarks.perceptual_losses` says why."""


def total_of(terms: Iterable[torch.Tensor]) -> torch.Tensor:
    """Add up scalars, of which there must be at least one, in their order."""
    first, *others = terms
    return sum(others, start=first)


class FeatureDistance(nn.Module):
    """Distance between a network's features of two images: a perceptual loss.

    As in LPIPS, features are scaled to unit length over the channels before they are compared; all layers count alike.
    """

    def features(self, image: torch.Tensor) -> list[torch.Tensor]:
        """Compute the feature maps [B, C, h, w] that are compared, of images [B, 3, R, R] in [-1, 1]."""
        raise NotImplementedError

    def forward(self, image: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Mean distance of images [B, 3, R, R] in [-1, 1], a scalar from 0 on."""
        with torch.no_grad():
            targets = [F.normalize(x.float(), dim=1) for x in self.features(target)]
        distances = [
            (F.normalize(x.float(), dim=1) - y).square().sum(dim=1).mean()
            for x, y in zip(self.features(image), targets, strict=True)
        ]
        return total_of(distances) / len(distances)


class PerceptualLoss(FeatureDistance):
    """Of the discriminator's features, which need no download.

    The two coarsest blocks are left out: they judge the whole image, not its content.
    """

    def __init__(self, discriminator: StyleGAN2Discriminator) -> None:
        super().__init__()
        self.discriminator = discriminator.requires_grad_(False).eval()

    def features(self, image: torch.Tensor) -> list[torch.Tensor]:
        """See `FeatureDistance`."""
        features = self.discriminator.features(image)
        return features[: max(len(features) - 1, 1)]


class EfficientNetLoss(FeatureDistance):
    """Of the features of EfficientNet-Lite, which is nobody's opponent and knows natural pictures.

    Args:
        network: With ImageNet's weights.
        side: Smaller images are enlarged to this shorter side in pixels.
    """

    def __init__(self, network: EfficientNetLite, side: int = PERCEPTUAL_SIDE) -> None:
        super().__init__()
        self.network, self.side = network, side

    def features(self, image: torch.Tensor) -> list[torch.Tensor]:
        """See `FeatureDistance`."""
        if min(image.shape[2:]) < self.side:
            factor = self.side / min(image.shape[2:])
            image = F.interpolate(image, scale_factor=factor, mode="bilinear", align_corners=False)
        return self.network.features(image)


def offset_norm(latents: torch.Tensor) -> torch.Tensor:
    """e4e's delta regularisation: mean norm of the offsets of W+ [B, num_styles, D] to their first style."""
    return (latents[:, 1:] - latents[:, :1]).norm(dim=2).mean()


class LatentDiscriminator(nn.Module):
    """e4e's latent discriminator: tells the encoder's styles from mapped z, one style [B, D] at a time."""

    def __init__(self, style_width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(3):
            layers += [nn.Linear(style_width, style_width), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Linear(style_width, 1))

    def forward(self, w: torch.Tensor) -> torch.Tensor:
        """Score styles [B, D]: logits [B, 1], high for mapped z."""
        return self.layers(w)


def generator_loss(scores: torch.Tensor) -> torch.Tensor:
    """Non-saturating loss of whoever made the images with these scores (logits, high for real), a scalar."""
    return F.softplus(-scores.float()).mean()


def discriminator_loss(real_scores: torch.Tensor, fake_scores: torch.Tensor) -> torch.Tensor:
    """Non-saturating loss of a discriminator with these scores (logits, high for real), without its penalty."""
    return F.softplus(-real_scores.float()).mean() + F.softplus(fake_scores.float()).mean()


def hinge_generator_loss(scores: torch.Tensor) -> torch.Tensor:
    """Loss of whoever made the images with these scores, against a discriminator of the hinge loss, a scalar."""
    return -scores.float().mean()


def hinge_discriminator_loss(real_scores: torch.Tensor, fake_scores: torch.Tensor) -> torch.Tensor:
    """Hinge loss of a discriminator with these scores (logits, high for real), a scalar."""
    return F.relu(1 - real_scores.float()).mean() + F.relu(1 + fake_scores.float()).mean()


@contextmanager
def in_full_precision(network: nn.Module, x: torch.Tensor) -> Iterator[None]:
    """A context in which a network computes x in float32, also one that accelerate has wrapped.

    `Accelerator.prepare` puts a network's forward into an autocast of its own, which no context around it turns off.
    """
    inner = network.module if isinstance(network, DistributedDataParallel) else network
    wrapped = vars(inner).get("forward") if "_original_forward" in vars(inner) else None
    try:
        if wrapped is not None:
            inner.forward = inner._original_forward
        with full_precision(x):
            yield
    finally:
        if wrapped is not None:
            inner.forward = wrapped


def r1_penalty(discriminator: nn.Module, real: torch.Tensor) -> torch.Tensor:
    """Mean squared norm of the score's gradient at real samples [B, ...] (Mescheder et al., 2018).

    Computed in autocast's precision, except for float16, in which gradients of single samples underflow.
    """
    half = torch.get_autocast_dtype(real.device.type) == torch.float16
    with in_full_precision(discriminator, real) if half else nullcontext():
        real = real.detach().float().requires_grad_()
        (gradient,) = torch.autograd.grad(discriminator(real).float().sum(), real, create_graph=True)
    return gradient.float().flatten(1).square().sum(dim=1).mean()


def penalized_discriminator_loss(
    discriminator: nn.Module, real: torch.Tensor, fake: torch.Tensor, r1_weight: float
) -> torch.Tensor:
    """Loss of a discriminator with its R1 penalty in every step; `fake` is taken as a constant."""
    loss = discriminator_loss(discriminator(real.detach()), discriminator(fake.detach()))
    with in_full_precision(discriminator, real):  # latents lose too much in half precision
        return loss + 0.5 * r1_weight * r1_penalty(discriminator, real)
