"""Tunes the end of a trained DICN: its feature path from the second block on, everything before it computed once.

Run: python -m hub_cards.cats64.dicn_tuning --model DIR --data cats64_train.zip --out DIR

The last layers of a network trained on squared errors shrink what they add, which costs contrast, hence SSIM; and the
balance between detail and edits is theirs to choose. Encoder, DIPN, the latent path and the start of the feature path
stay as they are, so that their answers are kept in memory (about 1 MB per photo of cats64) and a step costs little
more than the generator. BatchNorm uses its stored statistics throughout.
"""

from __future__ import annotations

import argparse
import copy
import json
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from sdic_plugin.checkpoints.components import find_model
from sdic_plugin.errors import SDICError, shorten
from sdic_plugin.images.cache import load_images
from sdic_plugin.images.metrics import psnr, ssim
from sdic_plugin.models import DICN, StyleGAN2Generator
from sdic_plugin.models.dicn import FeatureCompensation, gated_addition
from sdic_plugin.pipeline.sdic import SDICPipeline
from sdic_plugin.training.compensated import Compensated, Encoded, encode, resize
from sdic_plugin.training.compensation import EDIT_TRANSFER
from sdic_plugin.training.config import load_config
from sdic_plugin.training.data import step_rng, to_range
from sdic_plugin.training.edit_survival import draw_edits, edit_transfer_loss, random_edits
from sdic_plugin.training.losses import total_of
from sdic_plugin.training.settings import BatchSize, Count, LearningRate, Seed, Settings, Share, Weight
from sdic_plugin.training.trainer import average_decay, freeze
from sdic_plugin.utils.files import replacing_folder, why_not_writable


@dataclass
class TuningConfig(Settings):
    """Settings.

    Attributes:
        steps: Optimiser steps.
        batch_size: Photos per step.
        learning_rate: Of Adam; falls linearly to 0.
        pixel_weight: Weight of the mean squared error in [-1, 1].
        ssim_weight: Weight of 1 − SSIM.
        edit_transfer_weight: Weight of `edit_transfer_loss`, taken on half the photos.
        ema_decay: Decay per step of the moving average that is kept.
        seed: Of the order of photos and of the edits.
    """

    steps: Count = 400
    batch_size: BatchSize = 16
    learning_rate: LearningRate = 1e-3
    pixel_weight: Weight = 1.0
    ssim_weight: Weight = 1.0
    edit_transfer_weight: Weight = 0.1
    ema_decay: Share = 0.98
    seed: Seed = 0


class FeaturePathEnd(nn.Module):
    """The layers that are tuned; shared with the DICN they come from."""

    def __init__(self, features: FeatureCompensation) -> None:
        super().__init__()
        self.semantic, self.attention = features.semantic[2:], features.attention

    def forward(self, begun: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """Map what the first block gives [B, C', r, r] and the features F [B, C, r, r] to F⁺ [B, C, r, r]."""
        return gated_addition(self.attention, self.semantic(begun), features)


@dataclass
class Prepared:
    """Photos with what the untuned layers say about them; one row each.

    Attributes:
        images: uint8, [N, 3, S, S].
        encoded: Latents, initial reconstructions and features (float16).
        latents: w⁺, [N, num_styles, D].
        begun: What the feature path's first block gives, float16 [N, C', r, r].
    """

    images: torch.Tensor
    encoded: Encoded
    latents: torch.Tensor
    begun: torch.Tensor


@torch.no_grad()
def prepare(pipe: SDICPipeline, images: torch.Tensor, batch_size: int = 32) -> Prepared:
    """Run the untuned layers on photos, uint8 [N, 3, S, S]."""
    parts = []
    for part in images.split(batch_size):
        photos = to_range(part)
        encoded = encode(photos, pipe.encoder, pipe.generator)
        discrepancy = pipe.dipn(photos, encoded.initial)
        path = pipe.dicn.features
        begun = path.semantic[1](path.semantic[0](path.stem(discrepancy)))
        latents = pipe.dicn.latents(discrepancy, encoded.latents)
        parts.append((encoded.latents, encoded.initial, encoded.features.half(), latents, begun.half()))
        print(f"\r{sum(len(x[0]) for x in parts)} of {len(images)} photos prepared", end="", flush=True)
    print()
    w, initial, features, latents, begun = (torch.cat(column) for column in zip(*parts, strict=True))
    return Prepared(images, Encoded(w, initial, features), latents, begun)


def tune(dicn: DICN, generator: StyleGAN2Generator, prepared: Prepared, config: TuningConfig) -> None:
    """Tune a DICN in place; the generator is frozen."""
    freeze(generator, dicn, device=dicn.device)
    end = FeaturePathEnd(dicn.features).requires_grad_(True)
    average = copy.deepcopy(end)
    optimizer = torch.optim.Adam(end.parameters(), config.learning_rate, betas=(0.9, 0.99))
    started, totals = time.time(), []
    for step in range(config.steps):
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * (1 - step / config.steps)
        losses = _losses(end, generator, prepared, config, step)
        optimizer.zero_grad(set_to_none=True)
        total_of(losses.values()).backward()
        optimizer.step()
        decay = average_decay(step, config.ema_decay)
        with torch.no_grad():
            for kept, new in zip(average.parameters(), end.parameters(), strict=True):
                kept.lerp_(new, 1 - decay)
        totals.append({name: value.item() for name, value in losses.items()})
        if (step + 1) % 20 == 0:
            means = {name: sum(each[name] for each in totals[-20:]) / 20 for name in losses}
            shown = ", ".join(f"{name} {value:.4f}" for name, value in means.items())
            print(f"step {step + 1}: {shown} ({(time.time() - started) / (step + 1):.2f} s a step)", flush=True)
    end.load_state_dict(average.state_dict())


def _losses(
    end: FeaturePathEnd, generator: StyleGAN2Generator, prepared: Prepared, config: TuningConfig, step: int
) -> dict[str, torch.Tensor]:
    rows = torch.randperm(len(prepared.images), generator=step_rng(config.seed, step))[: config.batch_size]
    images, whole = to_range(prepared.images[rows]), prepared.encoded
    encoded = Encoded(whole.latents[rows], whole.initial[rows], whole.features[rows].float())
    features = end(prepared.begun[rows].float(), encoded.features)
    rendered, *_ = generator(prepared.latents[rows], features=features, return_dict=False)
    compensated = Compensated(images, prepared.latents[rows], features, resize(rendered, images.shape[-1]))
    losses = {
        "pixel": config.pixel_weight * F.mse_loss(compensated.inversion, images),
        "ssim": config.ssim_weight * (1 - ssim(compensated.inversion / 2 + 0.5, images / 2 + 0.5).mean()),
    }
    if config.edit_transfer_weight > 0:
        draws = draw_edits(generator, len(images[::2]), step_rng(config.seed, step, EDIT_TRANSFER))
        offset = random_edits(encoded[::2].latents, generator, draws)
        transfer = edit_transfer_loss(encoded[::2], compensated[::2], generator, offset)
        losses["edit_transfer"] = config.edit_transfer_weight * transfer
    return losses


@torch.no_grad()
def judge(pipe: SDICPipeline, images: torch.Tensor) -> str:
    """PSNR and SSIM of the inversions of photos, uint8 [N, 3, S, S]."""
    found = []
    for part in images.split(32):
        photos = part.float() / 255
        inverted = resize(pipe.edit(pipe.invert(photos), output_type="pt").images, photos.shape[-1])
        found.append(torch.stack([psnr(inverted, photos), ssim(inverted, photos)]))
    return "PSNR {:.3f} dB, SSIM {:.4f}".format(*torch.cat(found, dim=1).mean(dim=1).tolist())


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line, tune, and write the model with its new DICN."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="folder of a whole model, or of the run that made it")
    parser.add_argument("--data", required=True, help="training photos")
    parser.add_argument("--validation", help="held-out photos to report on")
    parser.add_argument("--images", type=int, default=1500, help="number of training photos to keep in memory")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    for name, value in vars(TuningConfig()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", default=str(value), help=f"default: {value}")
    options = parser.parse_args(argv)
    config = load_config(TuningConfig, None, [f"{name}={getattr(options, name)}" for name in vars(TuningConfig())])
    reason = why_not_writable(options.out)
    if options.images < 1 or reason is not None:
        wrong = f"--out {shorten(str(options.out))} cannot be written ({reason})" if reason else "--images is below 1"
        raise SDICError(f"{wrong}: give a folder to write and a number of photos from 1 on.")
    model = find_model(options.model)
    pipe = SDICPipeline.from_pretrained(model)
    pipe.set_progress_bar_config(disable=True)
    size = pipe.encoder.config.image_size
    held_out = None if options.validation is None else load_images(options.validation, size, limit=64)
    if held_out is not None:
        print("before:", judge(pipe, held_out), flush=True)
    prepared = prepare(pipe, load_images(options.data, size, limit=options.images))
    tune(pipe.dicn, pipe.generator, prepared, config)
    if held_out is not None:
        print("after:", judge(pipe, held_out))
    with replacing_folder(options.out) as temporary:
        pipe.save_pretrained(temporary)
        for name in ("discriminator", "losses"):  # beside a pipeline, for training
            if (model / name).is_dir():
                shutil.copytree(model / name, temporary / name)
        (temporary / "dicn_tuning.json").write_text(json.dumps(vars(config) | {"images": options.images}, indent=2))


if __name__ == "__main__":
    try:
        main()
    except SDICError as error:
        sys.exit(f"dicn_tuning: {error}")
