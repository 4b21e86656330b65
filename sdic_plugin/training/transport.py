"""Stage 4, optional: the transport, which lets a photo's detail follow edits; DICN may learn along.

It learns from pairs that are exact. A sample of the generator stands for a photo (`models.synthetic_photos`), of which
the encoder loses as much as of one, so that the compensation has something to put back. An edit of the sample's
own latents, rendered, is what the same edit of its inversion must give. (Pairs of this kind: StyleFeatureEditor, CVPR
2024, which edits the encoder's reconstruction instead, so that there is little to put back.) Without an edit the
transport does nothing by its form, so that photos as they are need no loss, unless DICN learns too; on photos that are
edited, where nobody knows the truth, an edit may be asked to do what it does to the initial reconstruction.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from sdic_plugin.checkpoints.components import find_model, has_component, load_component
from sdic_plugin.edits import read_edits
from sdic_plugin.edits.base import Edit
from sdic_plugin.edits.loader import EDITS_FOLDER, check_generator
from sdic_plugin.errors import SDICError, listed
from sdic_plugin.images.metrics import psnr
from sdic_plugin.images.sheets import save_sheet
from sdic_plugin.models import DICN, DIPN, E4EEncoder, FeatureTransport, StyleGAN2Generator
from sdic_plugin.models.synthetic_photos import draw_samples, sample_latents
from sdic_plugin.training.batch_norm import keep_statistics
from sdic_plugin.training.capture import Outputs
from sdic_plugin.training.compensated import Compensated, Encoded, compensate, encode, render_edited, resize
from sdic_plugin.training.data import step_rng, to_range, training_and_validation
from sdic_plugin.training.edit_survival import draw_edits, edit_transfer_loss, random_edits
from sdic_plugin.training.frozen import load_generator
from sdic_plugin.training.initialization import DICNPart, choose_part
from sdic_plugin.training.losses import total_of
from sdic_plugin.training.model_folder import write_model
from sdic_plugin.training.places import check_places
from sdic_plugin.training.reconstruction import ReconstructionConfig, ReconstructionLoss
from sdic_plugin.training.settings import Channels, Number, Share, Text, Weight
from sdic_plugin.training.trainer import Trainer, freeze

# Streams of random numbers: of every step, of the report, and of the start.
SAMPLES, EDITS, NAMED, TRANSFER = 11, 12, 13, 14
REPORT, INITIAL_WEIGHTS, TRANSFER_NAMED = 15, 16, 17


@dataclass
class TransportTrainingConfig(ReconstructionConfig):
    """The transport, with all other networks but perhaps DICN frozen.

    `model` must be a whole pipeline; the sizes of a `transport` that it has are kept. `data` are photos as for the
    compensation; they are only looked at where `edit_transfer_weight` is above 0, or DICN learns.

    Attributes:
        blocks: See `FeatureTransport`.
        channels: See `FeatureTransport`.
        train_dicn: Whether DICN, whose own stage comes first, learns too: by the same losses, and by how photos are
            inverted.
        dicn_part: Which part of it; only its second looks take less time than all of it.
        edited_share: Share of the photos of a step that are edited.
        named_share: Share of the pairs, and of the photos, whose edit is one of the model's own; the others go
            towards other samples.
        named_edits: Names of those; None for all that add to latents. A name that stands twice is drawn twice as
            often. Leave out some to see how it does on edits that it has not met.
        largest_strength: Named edits are drawn up to this multiple of their default strength, both ways.
        truth_weight: Weight of all losses of the pairs; 0 leaves them out.
        feature_weight: Weight of the mean squared error at the hook, over the variance of the features there.
        edit_transfer_weight: Weight of `edit_transfer_loss` on the photos that are edited.
    """

    blocks: Annotated[int, Field(ge=1, le=64)] = 4
    channels: Channels | None = None
    train_dicn: bool = False
    dicn_part: DICNPart = "all"
    edited_share: Annotated[Number, Field(gt=0, le=1)] = 0.5
    named_share: Share = 0.5
    named_edits: list[Text] | None = None
    largest_strength: Annotated[Number, Field(gt=0, le=10)] = 3.0
    truth_weight: Weight = 1.0
    feature_weight: Weight = 0.1
    edit_transfer_weight: Weight = 0.0

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            SDICError: Naming the first value out of range, or if no loss has the transport learn.
        """
        super().__post_init__()
        if self.truth_weight == self.edit_transfer_weight == 0:
            raise SDICError(
                "truth_weight and edit_transfer_weight are both 0, so that the transport would learn nothing: give "
                "one of them a weight."
            )


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
    generator = load_generator(model)
    encoder = load_component(E4EEncoder, model, "encoder")
    dipn, dicn = load_component(DIPN, model, "dipn"), load_component(DICN, model, "dicn")
    transport = _start(config, model, generator)
    named = usable_edits(_edits_of(model, generator), config.named_edits) if config.named_share > 0 else []
    loss = ReconstructionLoss(config, model)
    images, validation = training_and_validation(config, encoder.config.image_size)
    learning: dict[str, nn.Module] = {"transport": transport}
    if config.train_dicn:
        learning["dicn"] = choose_part(dicn, config.dicn_part)
    trainer = Trainer(config, learning, list(learning), images)
    frozen = (generator, encoder, dipn, loss, *(() if config.train_dicn else (dicn,)))
    freeze(*frozen, device=trainer.accelerator.device)
    run = _Run(config, trainer, _Networks(generator, encoder, dipn, dicn), loss, named)
    trainer.train(run.step, lambda: run.report(validation))
    return write_model(trainer, model, run.averages(), validation)


def _edits_of(model: Path, generator: StyleGAN2Generator) -> list[Edit]:
    """Read the edits in a model's folder.

    Raises:
        EditError: If they were made for another generator.
    """
    found: list[Edit] = []
    for path in sorted((model / EDITS_FOLDER).glob("*.safetensors")):
        edits, about = read_edits(path)
        check_generator(path.name, about.get("generator_id"), generator.config.generator_id)
        found += edits
    return found


def _start(config: TransportTrainingConfig, model: Path, generator: StyleGAN2Generator) -> FeatureTransport:
    if has_component(model, "transport") and not config.from_scratch:
        return load_component(FeatureTransport, model, "transport").train()
    torch.manual_seed(step_rng(config.seed, 0, INITIAL_WEIGHTS).initial_seed())
    return FeatureTransport(generator.feature_channels, config.blocks, config.channels)


class _Networks(NamedTuple):
    """The networks beside the transport, frozen but for DICN where it learns."""

    generator: StyleGAN2Generator
    encoder: E4EEncoder
    dipn: DIPN
    dicn: DICN


Photos = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]
"""Photos, their latents, initial reconstructions and features, and the edits [E, num_styles, D] of the first E."""


class _Run:
    """One step of the stage, and its report."""

    def __init__(
        self,
        config: TransportTrainingConfig,
        trainer: Trainer,
        networks: _Networks,
        loss: ReconstructionLoss,
        named: Sequence[Edit],
    ) -> None:
        self.config, self.trainer, self.networks, self.loss, self.named = config, trainer, networks, loss, named
        self.size = networks.encoder.config.image_size
        self.objective = trainer.objective(self._loss, *trainer.averages, frozen=(*networks, loss))

    def step(self, images: torch.Tensor) -> dict[str, float]:
        """Learn from as many pairs as there are photos [B, 3, S, S] in [-1, 1]."""
        generator, rng, config = self.networks.generator, self.trainer.rng, self.config
        pairs = photos = None
        if config.truth_weight > 0:
            latents = sample_latents(generator, draw_samples(generator, len(images), rng(SAMPLES)))
            pairs = (latents, self._draw_offsets(latents, rng(EDITS), rng(NAMED)))
        if config.edit_transfer_weight > 0 or config.train_dicn:
            count = math.ceil(config.edited_share * len(images))
            images = images if config.train_dicn else images[:count]
            with self.trainer.accelerator.autocast():
                encoded = encode(images, self.networks.encoder, generator)
            offset = self._draw_offsets(encoded.latents[:count], rng(TRANSFER), rng(TRANSFER_NAMED))
            photos = (images, encoded.latents, encoded.initial, encoded.features, offset)
        result = self.objective(pairs, photos)
        return {name: value.item() for name, value in result.items()}

    def _draw_offsets(self, latents: torch.Tensor, edits: torch.Generator, named: torch.Generator) -> torch.Tensor:
        """Draw an edit for each of latents [B, num_styles, D], of the same shape."""
        generator, config = self.networks.generator, self.config
        offset = random_edits(latents, generator, draw_edits(generator, len(latents), edits))
        for i in range(len(latents)):
            share, which, strength = torch.rand(3, generator=named).tolist()
            if self.named and share < config.named_share:
                edit = self.named[int(which * len(self.named))]
                strength = (2 * strength - 1) * config.largest_strength * edit.default_strength
                offset[i] = offset_of(edit, latents[i : i + 1], strength)[0]
        return offset

    def _loss(
        self, pairs: tuple[torch.Tensor, torch.Tensor] | None, photos: Photos | None
    ) -> tuple[torch.Tensor, Outputs]:
        """Loss of what learns on samples of given latents under given edits, and on photos."""
        losses = {} if pairs is None else self._truth_losses(*pairs)
        if photos is not None:
            losses |= self._photo_losses(*photos)
        return total_of(losses.values()), losses

    def _truth_losses(self, latents: torch.Tensor, offset: torch.Tensor) -> dict[str, torch.Tensor]:
        config, generator = self.config, self.networks.generator
        transport = self.trainer.network("transport", FeatureTransport)
        pairs = make_pairs(generator, latents, offset, self.size)
        with keep_statistics(self._dicn()):  # they are photos'
            compensated = self._invert(pairs.photo, encode(pairs.photo, self.networks.encoder, generator))
        edited, features = render_edited(compensated, offset, generator, transport)
        losses = self.loss(edited, pairs.edited)
        wanted = pairs.edited_features.float()
        losses["features"] = config.feature_weight * F.mse_loss(features.float(), wanted) / wanted.var()
        return {name: config.truth_weight * value for name, value in losses.items()}

    def _photo_losses(
        self,
        images: torch.Tensor,
        latents: torch.Tensor,
        initial: torch.Tensor,
        features: torch.Tensor,
        offset: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        config, generator, losses = self.config, self.networks.generator, {}
        encoded = Encoded(latents, initial, features)
        compensated = self._invert(images, encoded)
        if config.train_dicn:
            terms = self.loss(compensated.inversion, images)
            losses = {f"photo_{name}": value for name, value in terms.items()}
            edited = slice(len(offset))
            encoded, compensated = encoded[edited], compensated[edited]
        if config.edit_transfer_weight > 0:
            transport = self.trainer.network("transport", FeatureTransport)
            error = edit_transfer_loss(encoded, compensated, generator, offset, transport)
            losses["edit_transfer"] = config.edit_transfer_weight * error
        return losses

    def _dicn(self) -> DICN:
        return self.trainer.network("dicn", DICN) if self.config.train_dicn else self.networks.dicn

    def _invert(self, photos: torch.Tensor, encoded: Encoded) -> Compensated:
        """Invert photos [B, 3, S, S], with gradients only where DICN learns."""
        with nullcontext() if self.config.train_dicn else torch.no_grad():
            return compensate(photos, encoded, self.networks.generator, self.networks.dipn, self._dicn())

    def averages(self) -> dict[str, FeatureTransport | DICN]:
        """Return the moving averages of the networks that this run trains, by name."""
        dicn = {"dicn": self.trainer.average("dicn", DICN)} if self.config.train_dicn else {}
        return {"transport": self.trainer.average("transport", FeatureTransport), **dicn}

    @torch.no_grad()
    def report(self, validation: torch.Tensor) -> dict[str, float]:
        """Edit samples that no step has seen, with the moving average and by the plain rule; write a sheet.

        Where DICN learns, held-out photos, uint8 [N, 3, S, S], are inverted as well.
        """
        generator, encoder, dipn, _ = self.networks
        transport = self.trainer.average("transport", FeatureTransport)
        dicn = self.trainer.average("dicn", DICN) if self.config.train_dicn else self.networks.dicn

        def invert(photos: torch.Tensor) -> Compensated:
            return compensate(photos, encode(photos, encoder, generator), generator, dipn, dicn)

        errors: list[torch.Tensor] = []
        for part in range(4):
            rngs = [step_rng(self.config.seed, part, REPORT, part=i) for i in range(3)]
            latents = sample_latents(generator, draw_samples(generator, self.config.batch_size, rngs[0]))
            pairs = make_pairs(generator, latents, self._draw_offsets(latents, *rngs[1:]), self.size)
            compensated = invert(pairs.photo)
            plain, moved = (
                render_edited(compensated, pairs.offset, generator, rule)[0].clamp(-1, 1) for rule in (None, transport)
            )
            if not errors:
                rows = [pairs.photo, compensated.inversion, plain, moved, pairs.edited]
                save_sheet([row[:8] for row in rows], self.trainer.sample_sheet)
            errors.append(torch.stack([psnr(image, pairs.edited, data_range=2.0) for image in (plain, moved)]))
        before, after = torch.cat(errors, dim=1).mean(dim=1).tolist()
        figures = {"validation_psnr_plain": before, "validation_psnr": after}
        if self.config.train_dicn:
            inverted = []
            for part in validation.split(self.config.batch_size):
                images = to_range(part).to(self.trainer.accelerator.device)
                inverted.append(psnr(invert(images).inversion.clamp(-1, 1), images, data_range=2.0))
            figures["validation_psnr_inversion"] = torch.cat(inverted).mean().item()
        return figures


def offset_of(edit: Edit, latents: torch.Tensor, strength: float) -> torch.Tensor:
    """What an edit adds to latents [B, num_styles, D] at a strength."""
    strengths = torch.full((len(latents),), strength, device=latents.device)
    return edit.apply(latents, strengths) - latents
