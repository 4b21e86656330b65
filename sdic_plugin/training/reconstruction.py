"""The loss between a photo and its rendering, which the encoder's and the compensation's training share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from sdic_plugin.checkpoints.components import has_component, load_component
from sdic_plugin.errors import SDICError
from sdic_plugin.evaluation.networks import find_networks
from sdic_plugin.images.metrics import ssim
from sdic_plugin.models import StyleGAN2Discriminator
from sdic_plugin.models.efficientnet_lite import load_efficientnet_lite
from sdic_plugin.training.config import TrainingConfig
from sdic_plugin.training.losses import EfficientNetLoss, PerceptualLoss
from sdic_plugin.training.settings import Place, Weight

SMALLEST_ERROR = 1e-5
"""Mean squared error in [-1, 1], 56 dB, below which `psnr_loss` asks for little more."""

Perceptual = Literal["auto", "lpips", "efficientnet", "discriminator"]


@dataclass
class ReconstructionConfig(TrainingConfig):
    """Settings of the loss between photo and rendering, both at the encoder's image size (method: SDIC, 3.4).

    Attributes:
        pixel_weight: Weight of the mean squared error in [-1, 1].
        psnr_weight: Weight of `psnr_loss`, by which photos count alike that are well and badly rendered; the mean
            squared error is mostly that of the worst.
        perceptual_weight: Weight of the perceptual loss.
        perceptual: Its network: "lpips"; "discriminator", that of `model`; "efficientnet", EfficientNet-Lite with
            ImageNet's weights (extra `[perceptual]`); or "auto", LPIPS where its weights are given, else the
            discriminator, which needs no download.
        identity_weight: Weight of 1 − cosine of the identity network's embeddings, where that is given.
        ssim_weight: Weight of 1 − SSIM.
        lpips: File or folder with LPIPS-AlexNet, see `load_lpips`; None takes what `model` has in losses/.
        identity: File or folder with ArcFace IR-SE-50, see `load_identity`; None takes what `model` has in losses/.
        efficientnet: File, folder or Hub repository with EfficientNet-Lite's weights, see `load_efficientnet_lite`;
            None takes the installed package's.
    """

    pixel_weight: Weight = 1.0
    psnr_weight: Weight = 0.0
    perceptual_weight: Weight = 0.8
    perceptual: Perceptual = "auto"
    identity_weight: Weight = 0.1
    ssim_weight: Weight = 0.0
    lpips: Place | None = None
    identity: Place | None = None
    efficientnet: Place | None = None


class ReconstructionLoss(nn.Module):
    """Weighted terms of the reconstruction loss; the networks in it are frozen.

    Args:
        config: The weights, and where the networks are.
        model: Folder of the model the stage builds on.

    Raises:
        SDICError: If the perceptual loss has a weight, but there is no network for it.
    """

    def __init__(self, config: ReconstructionConfig, model: Path) -> None:
        super().__init__()
        self.config = config
        found = find_networks(model, lpips=config.lpips, identity=config.identity)
        self.identity = found.identity
        self.perceptual = find_perceptual(config, model, found.lpips)
        if self.perceptual is None and config.perceptual_weight > 0:
            raise SDICError(
                f"The perceptual loss has the weight {config.perceptual_weight}, but {model} has neither a "
                "'discriminator' nor losses/lpips.safetensors: name a file with lpips=FILE, or set "
                "perceptual=efficientnet or perceptual_weight=0."
            )

    def forward(self, rendered: torch.Tensor, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Compare renderings with photos, both [B, 3, S, S] in [-1, 1]: weighted scalars by name, zero weights out."""
        config = self.config
        terms: dict[str, tuple[float, Callable[[], torch.Tensor]]] = {
            "pixel": (config.pixel_weight, lambda: F.mse_loss(rendered.float(), images)),
            "psnr": (config.psnr_weight, lambda: psnr_loss(rendered, images).mean()),
        }
        if self.perceptual is not None:
            perceptual = self.perceptual
            terms["perceptual"] = (config.perceptual_weight, lambda: perceptual(rendered, images).mean())
        # In [0, 1], as it is measured: SSIM depends on where black lies.
        terms["ssim"] = (config.ssim_weight, lambda: 1 - ssim(rendered / 2 + 0.5, images / 2 + 0.5).mean())
        if self.identity is not None:
            identity = self.identity
            terms["identity"] = (config.identity_weight, lambda: 1 - identity.similarity(rendered, images).mean())
        return {name: weight * term() for name, (weight, term) in terms.items() if weight > 0}


def psnr_loss(rendered: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """How far each image [B, 3, S, S] in [-1, 1] is below a PSNR of 56 dB, in units of 4.34 dB (ln 10 per 10 dB), [B].

    Beyond that it levels off, at 0 for the image itself.
    """
    error = (rendered.float() - images.float()).square().flatten(1).mean(dim=1)
    return torch.log1p(error / SMALLEST_ERROR)


def find_perceptual(config: ReconstructionConfig, model: Path, lpips: nn.Module | None) -> nn.Module | None:
    """Load the network of the perceptual loss; None if "auto" finds none, or the loss has no weight.

    Args:
        config: Says which.
        model: Folder of the model the stage builds on.
        lpips: LPIPS, where its weights were found.

    Raises:
        SDICError: If the network that was asked for is not there, or cannot be read.
    """
    wanted = config.perceptual
    if config.perceptual_weight == 0:
        return None
    if wanted == "auto":  # not by what happens to be installed: the weight is worth another amount with each
        wanted = "lpips" if lpips is not None or not has_component(model, "discriminator") else "discriminator"
    elif wanted == "lpips" and lpips is None:
        raise SDICError(
            f"perceptual is 'lpips', but {model} has no losses/lpips.safetensors: name a file with lpips=FILE."
        )
    if wanted == "lpips":
        return lpips
    if wanted == "discriminator":
        return PerceptualLoss(load_component(StyleGAN2Discriminator, model, "discriminator"))
    return EfficientNetLoss(load_efficientnet_lite(config.efficientnet))
