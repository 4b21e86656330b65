"""Stage 2: an e4e encoder on a frozen generator (Tov et al., 2021)."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F

from sdic_plugin.evaluation.metrics import psnr
from sdic_plugin.models import E4EEncoder, StyleGAN2Discriminator, StyleGAN2Generator
from sdic_plugin.training.components import find_model, freeze, has_component, load_component
from sdic_plugin.training.config import TrainingConfig
from sdic_plugin.training.data import load_images, to_range
from sdic_plugin.training.losses import LatentDiscriminator, PerceptualLoss, discriminator_loss, offset_norm
from sdic_plugin.training.samples import save_sheet
from sdic_plugin.training.trainer import Trainer


@dataclass
class EncoderTrainingConfig(TrainingConfig):
    """e4e on a frozen generator (Tov et al., 2021).

    `model` must have a `generator` and, for the perceptual loss, a `discriminator`; the widths of an `encoder` that it
    has are kept.

    Attributes:
        stage_channels: See `E4EEncoder`.
        stage_units: See `E4EEncoder`.
        head_channels: See `E4EEncoder`.
        pixel_weight: Weight of the mean squared error in [-1, 1].
        perceptual_weight: Weight of the perceptual loss.
        offset_weight: Weight of the offsets' squared norm (e4e's delta regularisation).
        adversarial_weight: Weight of the latent discriminator's loss; 0 leaves it out.
        r1_weight: Weight of the latent discriminator's gradient penalty.
        progressive_from: Fraction of the run after which the first offset joins.
        progressive_until: Fraction of the run after which all offsets have joined.
    """

    stage_channels: list[int] = field(default_factory=lambda: [64, 128, 256, 512])
    stage_units: list[int] = field(default_factory=lambda: [3, 4, 14, 3])
    head_channels: int = 512
    pixel_weight: float = 1.0
    perceptual_weight: float = 0.8
    offset_weight: float = 2e-4
    adversarial_weight: float = 0.0
    r1_weight: float = 10.0
    progressive_from: float = 0.05
    progressive_until: float = 0.25


def build_encoder(config: EncoderTrainingConfig, generator: StyleGAN2Generator) -> E4EEncoder:
    """Build the encoder for a generator; it starts at the generator's mean latent."""
    torch.manual_seed(config.seed)
    encoder = E4EEncoder(
        image_size=generator.config.feature_resolution * 4,
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


def train_encoder(config: EncoderTrainingConfig) -> E4EEncoder:
    """Train an encoder and save it to `output/encoder`.

    Returns:
        The moving average of the encoder's weights, in evaluation mode.
    """
    model = find_model(config.model)
    generator = load_component(StyleGAN2Generator, model, "generator")
    perceptual = PerceptualLoss(load_component(StyleGAN2Discriminator, model, "discriminator"))
    if has_component(model, "encoder") and not config.from_scratch:
        encoder = load_component(E4EEncoder, model, "encoder").train()
    else:
        encoder = build_encoder(config, generator)
    size = encoder.config.image_size
    models = {"encoder": encoder}
    if config.adversarial_weight > 0:
        models["latent_discriminator"] = LatentDiscriminator(generator.config.style_width)
    trainer = Trainer(config, models, ["encoder"], load_images(config.data, size))
    device = trainer.accelerator.device
    freeze(generator, perceptual, device=device)

    def step(images: torch.Tensor) -> dict[str, float]:
        offsets = active_offsets(trainer.step / config.steps, config, generator.num_styles)
        with trainer.accelerator.autocast():
            latents = trainer.models["encoder"](images, active_offsets=offsets)
            rendered = resize(generator(latents).image, size)
            losses = {
                "pixel": config.pixel_weight * F.mse_loss(rendered, images),
                "perceptual": config.perceptual_weight * perceptual(rendered, images),
                "offsets": config.offset_weight * offset_norm(latents),
            }
            if config.adversarial_weight > 0:
                rows = latents[:, : offsets + 1].flatten(0, 1)
                scores = trainer.models["latent_discriminator"](rows)
                losses["adversarial"] = config.adversarial_weight * F.softplus(-scores.float()).mean()
        loss = sum(losses.values())
        trainer.optimize(loss, "encoder")
        if config.adversarial_weight > 0:
            losses["latent_discriminator"] = _train_latent_discriminator(trainer, generator, rows.detach())
        return {"loss": loss.item(), "offsets_active": offsets, **{k: v.item() for k, v in losses.items()}}

    validation = load_images(config.validation or config.data, size, limit=config.validation_images)

    def report() -> dict[str, float]:
        images = to_range(validation).to(device)
        rendered = reconstruct(trainer.averages["encoder"], generator, images, size)
        save_sheet([images[:8], rendered[:8]], trainer.output / "samples" / f"step_{trainer.step:08d}.png")
        return {"validation_psnr": psnr(rendered.clamp(-1, 1), images, data_range=2.0).mean().item()}

    trainer.train(step, report)
    trainer.averages["encoder"].save_pretrained(trainer.output / "encoder")
    return trainer.averages["encoder"]


def _train_latent_discriminator(trainer: Trainer, generator: StyleGAN2Generator, fake: torch.Tensor) -> torch.Tensor:
    rng = trainer.rng(stream=2)
    z = torch.randn(len(fake), generator.config.style_width, generator=rng).to(fake.device)
    discriminator = trainer.models["latent_discriminator"]
    loss = discriminator_loss(discriminator, generator.mapping(z), fake.float(), trainer.config.r1_weight)
    trainer.optimize(loss, "latent_discriminator")
    return loss


def resize(images: torch.Tensor, size: int) -> torch.Tensor:
    """Resize rendered images to the encoder's size, as the losses compare them there."""
    if images.shape[-1] == size:
        return images
    return F.interpolate(images, size=(size, size), mode="bilinear", align_corners=False)


@torch.no_grad()
def reconstruct(encoder: E4EEncoder, generator: StyleGAN2Generator, images: torch.Tensor, size: int) -> torch.Tensor:
    """Render the initial reconstruction of images [B, 3, size, size] at that size."""
    return resize(generator(encoder(images)).image, size)
