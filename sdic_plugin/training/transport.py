"""Stage 4, optional: the transport, which lets a photo's detail follow edits, with everything else frozen.

It learns from pairs that are exact. A sample of the generator stands for a photo (`models.synthetic_photos`), of which
the encoder loses as much as of one, so that the compensation has something to put back. An edit of the sample's
own latents, rendered, is what the same edit of its inversion must give. (Pairs of this kind: StyleFeatureEditor, CVPR
2024, which edits the encoder's reconstruction instead, so that there is little to put back.) Without an edit the
transport does nothing by its form, so that photos as they are need no loss; on photos that are edited, where nobody
knows the truth, an edit may be asked to do what it does to the initial reconstruction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field

from sdic_plugin.checkpoints.components import find_model, has_component, load_component
from sdic_plugin.edits import read_edits
from sdic_plugin.edits.base import Edit
from sdic_plugin.edits.loader import EDITS_FOLDER
from sdic_plugin.errors import SDICError, listed
from sdic_plugin.images.metrics import psnr
from sdic_plugin.images.sheets import save_sheet
from sdic_plugin.models import DICN, DIPN, E4EEncoder, FeatureTransport, StyleGAN2Generator
from sdic_plugin.models.synthetic_photos import draw_samples, sample_latents
from sdic_plugin.training.capture import Outputs
from sdic_plugin.training.compensated import Compensated, compensate, encode, render_edited, resize
from sdic_plugin.training.data import step_rng, training_and_validation
from sdic_plugin.training.edit_survival import EditDraws, draw_edits, edit_transfer_loss, random_edits
from sdic_plugin.training.losses import total_of
from sdic_plugin.training.model_folder import write_model
from sdic_plugin.training.places import check_places
from sdic_plugin.training.reconstruction import ReconstructionConfig, ReconstructionLoss
from sdic_plugin.training.settings import Channels, Number, Share, Text, Weight
from sdic_plugin.training.trainer import Trainer, freeze

# Streams of random numbers: of every step, of the report, and of the start.
SAMPLES, EDITS, NAMED, TRANSFER = 11, 12, 13, 14
REPORT, INITIAL_WEIGHTS = 15, 16


@dataclass
class TransportTrainingConfig(ReconstructionConfig):
    """The transport, with all other networks frozen.

    `model` must be a whole pipeline; the sizes of a `transport` that it has are kept. `data` are photos as for the
    compensation; they are only looked at where `edit_transfer_weight` is above 0.

    Attributes:
        blocks: See `FeatureTransport`.
        channels: See `FeatureTransport`.
        named_share: Share of the pairs whose edit is one of the model's own; the others go towards other samples.
        named_edits: Names of those; None for all that add to latents. Leave out some to see how it does on edits that
            it has not met.
        largest_strength: Named edits are drawn up to this multiple of their default strength, both ways.
        feature_weight: Weight of the mean squared error at the hook, over the variance of the features there.
        edit_transfer_weight: Weight of `edit_transfer_loss` on half the photos.
    """

    blocks: Annotated[int, Field(ge=1, le=64)] = 4
    channels: Channels | None = None
    named_share: Share = 0.5
    named_edits: list[Text] | None = None
    largest_strength: Annotated[Number, Field(gt=0, le=10)] = 3.0
    feature_weight: Weight = 0.1
    edit_transfer_weight: Weight = 0.0


class Pairs(NamedTuple):
    """Samples that stand for photos, and what an edit must make of them.

    Attributes:
        photo: [B, 3, S, S] in [-1, 1], at the encoder's size.
        edited: The truth, of the same shape.
        edited_features: The generator's features of the truth, [B, C, r, r].
        offset: The edit, [B, num_styles, D].
    """

    photo: torch.Tensor
    edited: torch.Tensor
    edited_features: torch.Tensor
    offset: torch.Tensor


@torch.no_grad()
def make_pairs(generator: StyleGAN2Generator, latents: torch.Tensor, offset: torch.Tensor, size: int) -> Pairs:
    """Render latents [B, num_styles, D] before and after an edit [B, num_styles, D], at the encoder's size."""
    before, *_ = generator(latents, return_dict=False)
    after, features, _ = generator(latents + offset, return_dict=False)
    photo, edited = (resize(image.clamp(-1, 1), size) for image in (before, after))
    return Pairs(photo, edited, features, offset)


def usable_edits(edits: Sequence[Edit], names: Sequence[str] | None) -> list[Edit]:
    """Choose the edits that add to latents, or those of these names.

    Raises:
        SDICError: If a name is unknown, or its edit does not add to latents.
    """
    usable = {edit.name: edit for edit in edits if edit.adds_to_latents}
    unknown = [name for name in names or () if name not in usable]
    if unknown:
        raise SDICError(
            f"named_edits holds {listed(unknown)}, but the model's edits that add to latents are "
            f"[{listed(list(usable))}]: choose from them."
        )
    return [usable[name] for name in names] if names is not None else list(usable.values())


def train_transport(config: TransportTrainingConfig) -> Path:
    """Train a transport.

    Returns:
        The folder `output/model`: the model built on, with the moving average of the transport.
    """
    check_places(config)
    model = find_model(config.model)
    generator = load_component(StyleGAN2Generator, model, "generator")
    encoder = load_component(E4EEncoder, model, "encoder")
    dipn, dicn = load_component(DIPN, model, "dipn"), load_component(DICN, model, "dicn")
    transport = _start(config, model, generator)
    edits = [edit for path in sorted((model / EDITS_FOLDER).glob("*.safetensors")) for edit in read_edits(path)[0]]
    named = usable_edits(edits, config.named_edits) if config.named_share > 0 else []
    loss = ReconstructionLoss(config, model)
    images, validation = training_and_validation(config, encoder.config.image_size)
    trainer = Trainer(config, {"transport": transport}, ["transport"], images)
    freeze(generator, encoder, dipn, dicn, loss, device=trainer.accelerator.device)
    run = _Run(config, trainer, _Frozen(generator, encoder, dipn, dicn), loss, named)
    trainer.train(run.step, run.report)
    return write_model(trainer, model, {"transport": trainer.average("transport", FeatureTransport)}, validation)


def _start(config: TransportTrainingConfig, model: Path, generator: StyleGAN2Generator) -> FeatureTransport:
    if has_component(model, "transport") and not config.from_scratch:
        return load_component(FeatureTransport, model, "transport").train()
    torch.manual_seed(step_rng(config.seed, 0, INITIAL_WEIGHTS).initial_seed())
    return FeatureTransport(generator.feature_channels, config.blocks, config.channels)


class _Frozen(NamedTuple):
    """The networks that do not learn."""

    generator: StyleGAN2Generator
    encoder: E4EEncoder
    dipn: DIPN
    dicn: DICN


class _Run:
    """One step of the stage, and its report."""

    def __init__(
        self,
        config: TransportTrainingConfig,
        trainer: Trainer,
        frozen: _Frozen,
        loss: ReconstructionLoss,
        named: Sequence[Edit],
    ) -> None:
        self.config, self.trainer, self.frozen, self.loss, self.named = config, trainer, frozen, loss, named
        self.size = frozen.encoder.config.image_size
        self.objective = trainer.objective(self._loss, "transport", frozen=(*frozen, loss))

    def step(self, images: torch.Tensor) -> dict[str, float]:
        """Learn from as many pairs as there are photos [B, 3, S, S] in [-1, 1]."""
        generator, rng = self.frozen.generator, self.trainer.rng
        count, transfer = len(images), None
        if self.config.edit_transfer_weight > 0:
            transfer = draw_edits(generator, (count + 1) // 2, rng(TRANSFER))
        latents = sample_latents(generator, draw_samples(generator, count, rng(SAMPLES)))
        offset = self._draw_offsets(latents, rng(EDITS), rng(NAMED))
        result = self.objective(images, latents, offset, transfer)
        return {name: value.item() for name, value in result.items()}

    def _draw_offsets(self, latents: torch.Tensor, edits: torch.Generator, named: torch.Generator) -> torch.Tensor:
        """Draw an edit for each of latents [B, num_styles, D], of the same shape."""
        generator, config = self.frozen.generator, self.config
        offset = random_edits(latents, generator, draw_edits(generator, len(latents), edits))
        for i in range(len(latents)):
            share, which, strength = torch.rand(3, generator=named).tolist()
            if self.named and share < config.named_share:
                edit = self.named[int(which * len(self.named))]
                strength = (2 * strength - 1) * config.largest_strength * edit.default_strength
                offset[i] = offset_of(edit, latents[i : i + 1], strength)[0]
        return offset

    def _loss(
        self, images: torch.Tensor, latents: torch.Tensor, offset: torch.Tensor, transfer: EditDraws | None
    ) -> tuple[torch.Tensor, Outputs]:
        """Loss of the transport on samples of these latents, under these edits; photos for the edit transfer."""
        generator, encoder, dipn, dicn = self.frozen
        transport = self.trainer.network("transport", FeatureTransport)
        pairs = make_pairs(generator, latents, offset, self.size)
        compensated = self.invert(pairs.photo)
        edited, features = render_edited(compensated, offset, generator, transport)
        losses = self.loss(edited, pairs.edited)
        wanted = pairs.edited_features.float()
        losses["features"] = self.config.feature_weight * F.mse_loss(features.float(), wanted) / wanted.var()
        if transfer is not None:
            encoded = encode(images, encoder, generator)
            with torch.no_grad():
                photos = compensate(images, encoded, generator, dipn, dicn)
            error = edit_transfer_loss(encoded[::2], photos[::2], generator, transfer, transport)
            losses["edit_transfer"] = self.config.edit_transfer_weight * error
        return total_of(losses.values()), losses

    @torch.no_grad()
    def invert(self, photos: torch.Tensor) -> Compensated:
        """Invert photos [B, 3, S, S] with the frozen networks."""
        generator, encoder, dipn, dicn = self.frozen
        return compensate(photos, encode(photos, encoder, generator), generator, dipn, dicn)

    @torch.no_grad()
    def report(self) -> dict[str, float]:
        """Edit samples that no step has seen, with the moving average and by the plain rule; write a sheet."""
        generator, transport = self.frozen.generator, self.trainer.average("transport", FeatureTransport)
        errors: list[torch.Tensor] = []
        for part in range(4):
            rngs = [step_rng(self.config.seed, part, REPORT, part=i) for i in range(3)]
            latents = sample_latents(generator, draw_samples(generator, self.config.batch_size, rngs[0]))
            pairs = make_pairs(generator, latents, self._draw_offsets(latents, *rngs[1:]), self.size)
            compensated = self.invert(pairs.photo)
            plain, moved = (
                render_edited(compensated, pairs.offset, generator, rule)[0].clamp(-1, 1) for rule in (None, transport)
            )
            if not errors:
                rows = [pairs.photo, compensated.inversion, plain, moved, pairs.edited]
                save_sheet([row[:8] for row in rows], self.trainer.sample_sheet)
            errors.append(torch.stack([psnr(image, pairs.edited, data_range=2.0) for image in (plain, moved)]))
        before, after = torch.cat(errors, dim=1).mean(dim=1).tolist()
        return {"validation_psnr_plain": before, "validation_psnr": after}


def offset_of(edit: Edit, latents: torch.Tensor, strength: float) -> torch.Tensor:
    """What an edit adds to latents [B, num_styles, D] at a strength."""
    strengths = torch.full((len(latents),), strength, device=latents.device)
    return edit.apply(latents, strengths) - latents
