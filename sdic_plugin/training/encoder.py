"""Stage 2: an e4e encoder on a frozen generator (Tov et al., 2021)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field
from torch import nn

from sdic_plugin.checkpoints.components import find_model, has_component, load_component
from sdic_plugin.errors import SDICError
from sdic_plugin.images.metrics import psnr
from sdic_plugin.images.sheets import save_sheet
from sdic_plugin.models import E4EEncoder, StyleGAN2Generator
from sdic_plugin.pipeline.checks import check_fit
from sdic_plugin.training.capture import Outputs
from sdic_plugin.training.compensated import resize
from sdic_plugin.training.data import to_range, training_and_validation
from sdic_plugin.training.frozen import load_generator
from sdic_plugin.training.losses import (
    LatentDiscriminator,
    generator_loss,
    offset_norm,
    penalized_discriminator_loss,
    total_of,
)
from sdic_plugin.training.model_folder import write_model
from sdic_plugin.training.places import check_places
from sdic_plugin.training.reconstruction import ReconstructionConfig, ReconstructionLoss
from sdic_plugin.training.settings import Channels, Share, Weight
from sdic_plugin.training.trainer import Trainer, freeze

Units = Annotated[int, Field(ge=1, le=200)]
"""Bottlenecks of a stage."""


@dataclass
class EncoderTrainingConfig(ReconstructionConfig):
    """e4e on a frozen generator (Tov et al., 2021).

    `model` must have a `generator` and, for the perceptual loss, a `discriminator`; the widths of an `encoder` that it
    has are kept.

    Attributes:
        stage_channels: See `E4EEncoder`.
        stage_units: See `E4EEncoder`.
        head_channels: See `E4EEncoder`.
        offset_weight: Weight of the offsets' mean norm (e4e's delta regularisation).
        adversarial_weight: Weight of the latent discriminator's loss; 0 leaves it out.
        r1_weight: Weight of the latent discriminator's gradient penalty.
        progressive_from: Fraction of the run after which the first offset joins.
        progressive_until: Fraction of the run after which all offsets have joined.
    """

    stage_channels: Annotated[list[Channels], Field(min_length=4, max_length=4)] = field(
        default_factory=lambda: [64, 128, 256, 512]
    )
    stage_units: Annotated[list[Units], Field(min_length=4, max_length=4)] = field(
        default_factory=lambda: [3, 4, 14, 3]
    )
    head_channels: Channels = 512
    offset_weight: Weight = 2e-4
    adversarial_weight: Weight = 0.0
    r1_weight: Weight = 10.0
    progressive_from: Share = 0.05
    progressive_until: Share = 0.25

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            SDICError: Naming the first value out of range.
        """
        super().__post_init__()
        if self.progressive_until < self.progressive_from:
            raise SDICError(
                f"progressive_until is {self.progressive_until}, but must not be less than progressive_from, which is "
                f"{self.progressive_from}: set both."
            )


def build_encoder(config: EncoderTrainingConfig, generator: StyleGAN2Generator) -> E4EEncoder:
    """Build the encoder for a generator; it starts at the generator's mean latent."""
    torch.manual_seed(config.seed)
    encoder = E4EEncoder(
        image_size=min(generator.config.feature_resolution * 4, generator.config.resolution),
        num_styles=generator.num_styles,
        style_width=generator.config.style_width,
        stage_channels=config.stage_channels,
        stage_units=config.stage_units,
        head_channels=config.head_channels,
    )
    encoder.latent_avg.copy_(generator.w_avg.expand_as(encoder.latent_avg))
    for head in encoder.heads:
        torch.nn.init.zeros_(head.linear.weight)
    return encoder


def active_offsets(progress: float, config: EncoderTrainingConfig, num_styles: int) -> int:
    """Number of offsets that are trained at a point of the run (e4e's progressive training), progress in [0, 1]."""
    if progress < config.progressive_from:
        return 0
    span = max(config.progressive_until - config.progressive_from, 1e-9)
    return min(num_styles - 1, 1 + int((progress - config.progressive_from) / span * (num_styles - 1)))


def train_encoder(config: EncoderTrainingConfig) -> Path:
    """Train an encoder.

    Returns:
        The folder `output/model`: the model built on, with the moving average of the encoder's weights.
    """
    check_places(config)
    model = find_model(config.model)
    generator = load_generator(model)
    loss = ReconstructionLoss(config, model)
    if has_component(model, "encoder") and not config.from_scratch:
        encoder = load_component(E4EEncoder, model, "encoder").train()
    else:
        encoder = build_encoder(config, generator)
    check_fit({"encoder": encoder, "generator": generator})
    size = encoder.config.image_size
    models: dict[str, nn.Module] = {"encoder": encoder}
    if config.adversarial_weight > 0:
        models["latent_discriminator"] = LatentDiscriminator(generator.config.style_width)
    images, validation = training_and_validation(config, size)
    trainer = Trainer(config, models, ["encoder"], images)
    device = trainer.accelerator.device
    freeze(generator, loss, device=device)

    def loss_of(images: torch.Tensor, offsets: int) -> tuple[torch.Tensor, Outputs]:
        latents = trainer.network("encoder", E4EEncoder)(images, active_offsets=offsets)
        rendered = resize(generator(latents, return_dict=False)[0], size)
        losses = loss(rendered, images)
        losses["offsets"] = config.offset_weight * offset_norm(latents)
        if config.adversarial_weight == 0:
            return total_of(losses.values()), losses
        rows = latents[:, : offsets + 1].flatten(0, 1)
        judge = trainer.network("latent_discriminator", LatentDiscriminator)
        losses["adversarial"] = config.adversarial_weight * generator_loss(judge(rows))
        return total_of(losses.values()), {**losses, "rows": rows}

    objective = trainer.objective(loss_of, "encoder", frozen=(generator, loss))

    def step(images: torch.Tensor) -> dict[str, float]:
        offsets = active_offsets(trainer.step / config.steps, config, generator.num_styles)
        # Every number of offsets would be a graph of its own, for a short time.
        result = objective(images, offsets=offsets, capture=offsets == generator.num_styles - 1)
        if config.adversarial_weight > 0:
            result["latent_discriminator"] = _train_latent_discriminator(
                trainer, generator, result.pop("rows"), config.r1_weight
            )
        return {"loss": result["loss"].item(), "offsets_active": offsets, **{k: v.item() for k, v in result.items()}}

    def report() -> dict[str, float]:
        photos = to_range(validation).to(device)
        average = trainer.average("encoder", E4EEncoder)
        rendered = torch.cat([reconstruct(average, generator, x, size) for x in photos.split(config.batch_size)])
        save_sheet([photos[:8], rendered[:8]], trainer.sample_sheet)
        return {"validation_psnr": psnr(rendered.clamp(-1, 1), photos, data_range=2.0).mean().item()}

    trainer.train(step, report)
    return write_model(trainer, model, {"encoder": trainer.average("encoder", E4EEncoder)}, validation)


def _train_latent_discriminator(
    trainer: Trainer, generator: StyleGAN2Generator, fake: torch.Tensor, r1_weight: float
) -> torch.Tensor:
    rng = trainer.rng(stream=2)
    z = torch.randn(len(fake), generator.config.style_width, generator=rng).to(fake.device)
    discriminator = trainer.models["latent_discriminator"]
    loss = penalized_discriminator_loss(discriminator, generator.mapping(z), fake.float(), r1_weight)
    trainer.optimize(loss, "latent_discriminator")
    return loss.detach()


@torch.no_grad()
def reconstruct(encoder: E4EEncoder, generator: StyleGAN2Generator, images: torch.Tensor, size: int) -> torch.Tensor:
    """Render the initial reconstruction of images [B, 3, size, size] at that size."""
    return resize(generator(encoder(images)).image, size)
