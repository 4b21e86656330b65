"""Stage 3: DIPN and DICN with generator and encoder frozen (SDIC, section 3.4)."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F

from sdic_plugin.evaluation.metrics import psnr
from sdic_plugin.models import DICN, DIPN, E4EEncoder, StyleGAN2Discriminator, StyleGAN2Generator
from sdic_plugin.training.components import find_model, freeze, has_component, load_component
from sdic_plugin.training.config import TrainingConfig
from sdic_plugin.training.data import load_images, to_range
from sdic_plugin.training.encoder import resize
from sdic_plugin.training.losses import PerceptualLoss, change_of_compensation
from sdic_plugin.training.samples import save_sheet
from sdic_plugin.training.trainer import Trainer


@dataclass
class CompensationTrainingConfig(TrainingConfig):
    """DIPN and DICN with generator and encoder frozen (SDIC, section 3.4; weights as published).

    `model` must have a `generator`, an `encoder` and, for the perceptual loss, a `discriminator`; the widths of a
    `dipn` and `dicn` that it has are kept.

    Attributes:
        branch_channels: See `DIPN`.
        matching_channels: See `DIPN`.
        volume_channels: See `DIPN`.
        head_channels: See `DIPN`.
        condition_channels: See `DICN`.
        condition_size: See `DICN`.
        stem_channels: See `DICN`.
        pixel_weight: Weight of the mean squared error in [-1, 1].
        perceptual_weight: Weight of the perceptual loss.
        change_weight: Weight of the squared change of features and latents, which keeps the compensation small.
        feature_share: Share of the features in that change; the latents have the rest.
        discrepancy_weight: λ_D, weight of L1(D, image − initial).
    """

    branch_channels: list[int] = field(default_factory=lambda: [16, 24, 32, 96, 160])
    matching_channels: int = 24
    volume_channels: list[int] = field(default_factory=lambda: [8, 16, 32, 48])
    head_channels: int = 16
    condition_channels: int = 18
    condition_size: int = 64
    stem_channels: list[int] = field(default_factory=lambda: [32, 64])
    pixel_weight: float = 1.0
    perceptual_weight: float = 0.8
    change_weight: float = 0.5
    feature_share: float = 0.8
    discrepancy_weight: float = 0.0


@dataclass
class Compensated:
    """One pass of the method over a batch of training images; the names are the pipeline's."""

    latents: torch.Tensor
    initial: torch.Tensor
    features: torch.Tensor
    discrepancy: torch.Tensor
    compensated_latents: torch.Tensor
    compensated_features: torch.Tensor
    inversion: torch.Tensor


def compensate(
    images: torch.Tensor, encoder: E4EEncoder, generator: StyleGAN2Generator, dipn: DIPN, dicn: DICN
) -> Compensated:
    """Invert images [B, 3, S, S] in [-1, 1]; gradients flow through DIPN, DICN and the last generator pass."""
    size = images.shape[-1]
    with torch.no_grad():
        latents = encoder(images)
        first = generator(latents)
        initial = resize(first.image.clamp(-1, 1), size)
    discrepancy = dipn(images, initial)
    # A tuple: under mixed precision accelerate rebuilds what a network returns, which output classes do not survive.
    compensated_features, compensated_latents = dicn(discrepancy, first.features, latents, return_dict=False)
    inversion = generator(compensated_latents, features=compensated_features).image
    return Compensated(
        latents=latents,
        initial=initial,
        features=first.features,
        discrepancy=discrepancy,
        compensated_latents=compensated_latents,
        compensated_features=compensated_features,
        inversion=resize(inversion, size),
    )


def build_networks(
    config: CompensationTrainingConfig, generator: StyleGAN2Generator, num_styles: int
) -> tuple[DIPN, DICN]:
    """Build DIPN and DICN for a generator; DICN starts as the identity."""
    torch.manual_seed(config.seed)
    dipn = DIPN(config.branch_channels, config.matching_channels, config.volume_channels, config.head_channels)
    dicn = DICN(
        feature_channels=generator.feature_channels,
        num_styles=num_styles,
        style_width=generator.config.style_width,
        condition_channels=config.condition_channels,
        condition_size=config.condition_size,
        stem_channels=config.stem_channels,
    )
    dicn.reset_to_identity()
    return dipn, dicn


def train_compensation(config: CompensationTrainingConfig) -> tuple[DIPN, DICN]:
    """Train DIPN and DICN and save them to `output/dipn` and `output/dicn`.

    Returns:
        The moving averages of both, in evaluation mode.
    """
    model = find_model(config.model)
    generator = load_component(StyleGAN2Generator, model, "generator")
    encoder = load_component(E4EEncoder, model, "encoder")
    perceptual = PerceptualLoss(load_component(StyleGAN2Discriminator, model, "discriminator"))
    size = encoder.config.image_size
    if has_component(model, "dipn") and has_component(model, "dicn") and not config.from_scratch:
        dipn, dicn = load_component(DIPN, model, "dipn").train(), load_component(DICN, model, "dicn").train()
    else:
        dipn, dicn = build_networks(config, generator, generator.num_styles)
    trainer = Trainer(config, {"dipn": dipn, "dicn": dicn}, ["dipn", "dicn"], load_images(config.data, size))
    device = trainer.accelerator.device
    freeze(generator, encoder, perceptual, device=device)

    def step(images: torch.Tensor) -> dict[str, float]:
        with trainer.accelerator.autocast():
            result = compensate(images, encoder, generator, trainer.models["dipn"], trainer.models["dicn"])
            change = change_of_compensation(
                result.compensated_features,
                result.features,
                result.compensated_latents,
                result.latents,
                config.feature_share,
            )
            losses = {
                "pixel": config.pixel_weight * F.mse_loss(result.inversion, images),
                "perceptual": config.perceptual_weight * perceptual(result.inversion, images),
                "change": config.change_weight * change,
                "discrepancy": config.discrepancy_weight
                * F.l1_loss(result.discrepancy.float(), images - result.initial),
            }
        loss = sum(losses.values())
        trainer.optimize(loss, "dipn", "dicn")
        return {"loss": loss.item(), **{name: value.item() for name, value in losses.items()}}

    validation = load_images(config.validation or config.data, size, limit=config.validation_images)

    @torch.no_grad()
    def report() -> dict[str, float]:
        images = to_range(validation).to(device)
        result = compensate(images, encoder, generator, trainer.averages["dipn"], trainer.averages["dicn"])
        rows = [images, result.initial, result.discrepancy.float(), result.inversion]
        save_sheet([row[:8] for row in rows], trainer.output / "samples" / f"step_{trainer.step:08d}.png")
        return {
            "validation_psnr_initial": psnr(result.initial, images, data_range=2.0).mean().item(),
            "validation_psnr": psnr(result.inversion.clamp(-1, 1), images, data_range=2.0).mean().item(),
        }

    trainer.train(step, report)
    for name in ("dipn", "dicn"):
        trainer.averages[name].save_pretrained(trainer.output / name)
    return trainer.averages["dipn"], trainer.averages["dicn"]
