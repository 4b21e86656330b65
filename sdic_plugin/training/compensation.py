"""Stage 3: DIPN and DICN with generator and encoder frozen (SDIC, section 3.4)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from sdic_plugin.checkpoints.components import find_model, has_component, load_component
from sdic_plugin.errors import SDICError
from sdic_plugin.images.metrics import psnr
from sdic_plugin.images.sheets import save_sheet
from sdic_plugin.models import (
    DICN,
    DIPN,
    E4EEncoder,
    FeatureTransport,
    StyleGAN2Discriminator,
    StyleGAN2Generator,
)
from sdic_plugin.pipeline.checks import check_fit
from sdic_plugin.training.capture import Outputs
from sdic_plugin.training.compensated import Compensated, Encoded, compensate, encode
from sdic_plugin.training.data import to_range, training_and_validation
from sdic_plugin.training.edit_survival import (
    EditDraws,
    cycle_loss,
    draw_edits,
    draw_misalignment,
    draw_z,
    edit_transfer_loss,
    misalign,
    random_edits,
    synthetic_edit_loss,
)
from sdic_plugin.training.frozen import load_generator
from sdic_plugin.training.initialization import DICNPart, choose_part, deepen_dicn, start_compensation, widen_dicn
from sdic_plugin.training.losses import generator_loss, penalized_discriminator_loss, total_of
from sdic_plugin.training.model_folder import write_model
from sdic_plugin.training.places import check_places
from sdic_plugin.training.reconstruction import ReconstructionConfig, ReconstructionLoss
from sdic_plugin.training.settings import Channels, Number, Place, Share, Weight
from sdic_plugin.training.trainer import Trainer, freeze

# Streams of the step's random numbers.
MISALIGNMENT, SYNTHETIC_EDITS, CYCLE, EDIT_TRANSFER = 11, 12, 13, 14


BranchChannels = Annotated[int, Field(ge=2, le=4096)]
"""Channels of a level whose context is fused through half as many."""
Stride = Annotated[int, Field(ge=1, le=2)]
Blocks = Annotated[int, Field(ge=0, le=64)]


@dataclass
class CompensationTrainingConfig(ReconstructionConfig):
    """DIPN and DICN with generator and encoder frozen (SDIC, section 3.4; weights as published).

    `model` must have a `generator`, an `encoder` and, for the perceptual loss, a `discriminator`; the widths of a
    `dipn` and `dicn` that it has are kept. If it has a `transport`, edits in the losses go through it, as they will.

    Attributes:
        dipn: Another model whose DIPN is taken, which fits any generator and size: a folder, a bundled name or a Hub
            id. None for `model`'s, or a new one.
        branch_channels: See `DIPN`.
        matching_channels: See `DIPN`.
        volume_channels: See `DIPN`.
        head_channels: See `DIPN`.
        condition_channels: See `DICN`.
        condition_size: See `DICN`.
        stem_channels: See `DICN`.
        strides: See `DICN`; their product must be the encoder's image size over the generator's feature resolution.
            None takes [2, 2] or, for a nearer hook, [2, 1].
        residual_blocks: See `DICN`; a `dicn` of `model` that has none gets them, see `deepen_dicn`. 0 keeps its own.
        residual_channels: See `DICN`.
        second_look_blocks: See `DICN`; likewise.
        second_look_channels: See `DICN`.
        second_looks: See `DICN`.
        widen_stem: Channels of the feature path's stem that a `dicn` of `model` grows to before it is trained on, see
            `widen_dicn`; None keeps its own.
        dicn_part: Which part of DICN learns; only its second looks take less time than all of it.
        train_dipn: Whether DIPN learns too; without it steps take about half the time, once its discrepancy is good.
        change_weight: Weight of the squared change of features and latents, which keeps the compensation small.
        feature_share: Share of the features in that change; the latents have the rest.
        discrepancy_weight: λ_D, weight of L1(D, image − initial).
        edit_transfer_weight: Weight of `edit_transfer_loss`, taken on half the photos.
        synthetic_edit_weight: Weight of `synthetic_edit_loss`, taken on half the photos.
        cycle_weight: Weight of `cycle_loss`.
        misalignment: How far the photos that DIPN sees are moved at random, as a share of their side.
        adversarial_weight: Weight of the non-saturating loss of a discriminator that is trained along, from the
            model's own.
        r1_weight: Weight of its gradient penalty.
    """

    dipn: Place | None = None
    branch_channels: Annotated[list[BranchChannels], Field(min_length=5, max_length=5)] = field(
        default_factory=lambda: [16, 24, 32, 96, 160]
    )
    matching_channels: Annotated[int, Field(ge=4, le=1024, multiple_of=4)] = 24
    volume_channels: Annotated[list[Channels], Field(min_length=4, max_length=4)] = field(
        default_factory=lambda: [8, 16, 32, 48]
    )
    head_channels: Channels = 16
    condition_channels: Annotated[int, Field(ge=1, le=1024)] = 18
    condition_size: Annotated[int, Field(ge=1, le=1024)] = 64
    stem_channels: Annotated[list[Channels], Field(min_length=2, max_length=2)] = field(
        default_factory=lambda: [32, 64]
    )
    strides: Annotated[list[Stride], Field(min_length=2, max_length=2)] | None = None
    residual_blocks: Blocks = 0
    residual_channels: Channels | None = None
    second_look_blocks: Blocks = 0
    second_look_channels: Channels | None = None
    second_looks: Annotated[int, Field(ge=1, le=16)] = 1
    widen_stem: Annotated[list[Channels], Field(min_length=2, max_length=2)] | None = None
    dicn_part: DICNPart = "all"
    train_dipn: bool = True
    change_weight: Weight = 0.5
    feature_share: Share = 0.8
    discrepancy_weight: Weight = 0.0
    edit_transfer_weight: Weight = 0.0
    synthetic_edit_weight: Weight = 0.0
    cycle_weight: Weight = 0.0
    misalignment: Annotated[Number, Field(ge=0, le=0.5)] = 0.0
    adversarial_weight: Weight = 0.0
    r1_weight: Weight = 1.0

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            SDICError: Naming the first value out of range, or one that says nothing without blocks.
        """
        super().__post_init__()
        for name, default in (("residual_channels", None), ("second_look_channels", None), ("second_looks", 1)):
            blocks = "residual_blocks" if name.startswith("residual") else "second_look_blocks"
            if getattr(self, blocks) == 0 and getattr(self, name) != default:
                raise SDICError(
                    f"{name} is {getattr(self, name)}, but there are no blocks that it could be about: set {blocks}."
                )


def build_networks(
    config: CompensationTrainingConfig, generator: StyleGAN2Generator, encoder: E4EEncoder
) -> tuple[DIPN, DICN]:
    """Build DIPN and DICN for a generator, where training starts (see `sdic_plugin.training.initialization`)."""
    torch.manual_seed(config.seed)
    near = encoder.config.image_size == 2 * generator.config.feature_resolution
    dipn = DIPN(config.branch_channels, config.matching_channels, config.volume_channels, config.head_channels)
    dicn = DICN(
        feature_channels=generator.feature_channels,
        num_styles=generator.num_styles,
        style_width=generator.config.style_width,
        condition_channels=config.condition_channels,
        condition_size=config.condition_size,
        stem_channels=config.stem_channels,
        strides=config.strides or ([2, 1] if near else [2, 2]),
        **_depth(config),
    )
    start_compensation(dipn, dicn)
    return dipn, dicn


def _depth(config: CompensationTrainingConfig) -> dict[str, Any]:
    names = ("residual_blocks", "residual_channels", "second_look_blocks", "second_look_channels", "second_looks")
    return {name: getattr(config, name) for name in names}


def train_compensation(config: CompensationTrainingConfig) -> Path:
    """Train DIPN and DICN.

    Returns:
        The folder `output/model`: the model built on, with the moving averages of both networks.
    """
    check_places(config)
    model = find_model(config.model)
    generator = load_generator(model)
    encoder = load_component(E4EEncoder, model, "encoder")
    loss = ReconstructionLoss(config, model)
    dipn, dicn = _start(config, model, generator, encoder)
    models = [] if config.dipn is None else [find_model(config.dipn)]
    check_fit({"encoder": encoder, "generator": generator, "dicn": dicn})
    learning: dict[str, nn.Module] = {"dipn": dipn, "dicn": dicn} if config.train_dipn else {"dicn": dicn}
    adversary = {} if config.adversarial_weight == 0 else {"discriminator": _adversary(model, encoder)}
    images, validation = training_and_validation(config, encoder.config.image_size)
    trainer = Trainer(config, {**learning, **adversary}, list(learning), images)
    transport = load_component(FeatureTransport, model, "transport") if has_component(model, "transport") else None
    others = [network for network in (None if config.train_dipn else dipn, transport) if network is not None]
    freeze(generator, encoder, loss, *others, device=trainer.accelerator.device)
    run = _Run(config, trainer, generator, encoder, loss, dipn, transport)
    trainer.train(run.step, lambda: run.report(validation))
    taken = {} if config.train_dipn or config.dipn is None else {"dipn": dipn}
    return write_model(trainer, model, run.averages(), validation, taken, models)


def _start(
    config: CompensationTrainingConfig, model: Path, generator: StyleGAN2Generator, encoder: E4EEncoder
) -> tuple[DIPN, DICN]:
    if config.from_scratch or not (has_component(model, "dipn") and has_component(model, "dicn")):
        _check_new(config)
        dipn, dicn = build_networks(config, generator, encoder)
    else:
        dipn, dicn = load_component(DIPN, model, "dipn").train(), load_component(DICN, model, "dicn")
        if config.widen_stem is not None:
            torch.manual_seed(config.seed)
            dicn = widen_dicn(dicn, config.widen_stem)
        torch.manual_seed(config.seed)
        dicn = choose_part(deepen_dicn(dicn, **_depth(config)), config.dicn_part)
    if config.dipn is not None:
        dipn = load_component(DIPN, find_model(config.dipn), "dipn").train()
    return dipn, dicn


def _check_new(config: CompensationTrainingConfig) -> None:
    if not config.train_dipn and config.dipn is None:
        raise SDICError(
            "train_dipn is false, but there is no trained DIPN to go on with: train it first, and name the run with "
            "--from, or take another model's with dipn=MODEL."
        )
    if config.dicn_part != "all":
        raise SDICError(
            f'dicn_part is "{config.dicn_part}", but there is no trained DICN whose other part could stay as it is: '
            "train all of it first, and name the run with --from."
        )


def _adversary(model: Path, encoder: E4EEncoder) -> StyleGAN2Discriminator:
    discriminator = load_component(StyleGAN2Discriminator, model, "discriminator").train()
    if discriminator.config.resolution != encoder.config.image_size:
        raise SDICError(
            f"The adversarial loss compares images of {encoder.config.image_size} pixels, but the discriminator of "
            f"{model} takes {discriminator.config.resolution}: set adversarial_weight=0."
        )
    return discriminator


class _Run:
    """One step of the stage, and its report."""

    def __init__(
        self,
        config: CompensationTrainingConfig,
        trainer: Trainer,
        generator: StyleGAN2Generator,
        encoder: E4EEncoder,
        loss: ReconstructionLoss,
        dipn: DIPN,
        transport: FeatureTransport | None,
    ) -> None:
        self.config, self.trainer, self.loss, self.frozen_dipn = config, trainer, loss, dipn
        self.generator, self.encoder, self.transport = generator, encoder, transport
        frozen = (generator, encoder, loss, dipn, *(() if transport is None else (transport,)))
        self.objective = trainer.objective(self._loss, *trainer.averages, frozen=frozen)

    def step(self, images: torch.Tensor) -> dict[str, float]:
        """Learn from photos [B, 3, S, S] in [-1, 1]."""
        result = self.objective(images, *self._draws(len(images)))
        inversion = result.pop("inversion")
        if self.config.adversarial_weight > 0:
            result["discriminator"] = self._train_adversary(images, inversion)
        return {name: value.item() for name, value in result.items()}

    def _draws(self, count: int) -> tuple[Any, ...]:
        """What is random in a step: the misalignment, and draws of each loss of edits; None for what is left out."""
        config, rng, generator, half = self.config, self.trainer.rng, self.generator, (count + 1) // 2
        maps = transfer = z = synthetic = cycle = None
        if config.misalignment > 0:
            maps = draw_misalignment(count, config.misalignment, rng(MISALIGNMENT)).to(generator.device)
        if config.edit_transfer_weight > 0:
            transfer = draw_edits(generator, half, rng(EDIT_TRANSFER))
        if config.synthetic_edit_weight > 0:
            stream = rng(SYNTHETIC_EDITS)
            z, synthetic = draw_z(generator, half, stream), draw_edits(generator, half, stream)
        if config.cycle_weight > 0:
            cycle = draw_edits(generator, count, rng(CYCLE))
        return maps, transfer, z, synthetic, cycle

    def _loss(
        self,
        images: torch.Tensor,
        maps: torch.Tensor | None,
        transfer: EditDraws | None,
        z: torch.Tensor | None,
        synthetic: EditDraws | None,
        cycle: EditDraws | None,
    ) -> tuple[torch.Tensor, Outputs]:
        """Loss of DIPN and DICN on photos [B, 3, S, S], with what `_draws` gives."""
        config, generator, networks, transport = self.config, self.generator, self._networks(), self.transport
        encoded = encode(images, self.encoder, generator)
        seen = None if maps is None else misalign(images, maps)
        compensated = compensate(images, encoded, generator, *networks, seen=seen)
        losses = self._losses(images, encoded, compensated)
        if transfer is not None:
            offset = random_edits(encoded[::2].latents, generator, transfer)
            error = edit_transfer_loss(encoded[::2], compensated[::2], generator, offset, transport)
            losses["edit_transfer"] = config.edit_transfer_weight * error
        if z is not None and synthetic is not None:
            detail = (images - encoded.initial)[::2]
            error = synthetic_edit_loss(detail, generator, *networks, z, synthetic, transport)
            losses["synthetic_edit"] = config.synthetic_edit_weight * error
        if cycle is not None:
            error = cycle_loss(images, compensated, self.encoder, generator, *networks, cycle, transport)
            losses["cycle"] = config.cycle_weight * error
        if config.adversarial_weight > 0:
            adversary = self.trainer.network("discriminator", StyleGAN2Discriminator)
            losses["adversarial"] = config.adversarial_weight * generator_loss(adversary(compensated.inversion))
        return total_of(losses.values()), {**losses, "inversion": compensated.inversion}

    def _networks(self) -> tuple[DIPN, DICN]:
        dipn = self.trainer.network("dipn", DIPN) if self.config.train_dipn else self.frozen_dipn
        return dipn, self.trainer.network("dicn", DICN)

    def averages(self) -> dict[str, DIPN | DICN]:
        """Return the moving averages of the networks that this run trains, by name."""
        dipn = {"dipn": self.trainer.average("dipn", DIPN)} if self.config.train_dipn else {}
        return {**dipn, "dicn": self.trainer.average("dicn", DICN)}

    def _losses(self, images: torch.Tensor, encoded: Encoded, compensated: Compensated) -> dict[str, torch.Tensor]:
        config = self.config
        losses = self.loss(compensated.inversion, images)
        if config.change_weight > 0:
            change = change_of_compensation(encoded, compensated, config.feature_share)
            losses["change"] = config.change_weight * change
        if config.discrepancy_weight > 0 and config.train_dipn:
            lost = F.l1_loss(compensated.discrepancy, images - encoded.initial)
            losses["discrepancy"] = config.discrepancy_weight * lost
        return losses

    def _train_adversary(self, real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
        discriminator = self.trainer.models["discriminator"]
        loss = penalized_discriminator_loss(discriminator, real, fake.float(), self.config.r1_weight)
        self.trainer.optimize(loss, "discriminator")
        return loss.detach()

    @torch.no_grad()
    def report(self, validation: torch.Tensor) -> dict[str, float]:
        """Invert held-out photos, uint8 [N, 3, S, S], with the moving averages; write a sheet, return figures."""
        trainer, dicn = self.trainer, self.trainer.average("dicn", DICN)
        dipn = trainer.average("dipn", DIPN) if self.config.train_dipn else self.frozen_dipn
        errors: list[torch.Tensor] = []
        for part in validation.split(self.config.batch_size):
            images = to_range(part).to(trainer.accelerator.device)
            encoded = encode(images, self.encoder, self.generator)
            compensated = compensate(images, encoded, self.generator, dipn, dicn)
            if not errors:
                rows = [images, encoded.initial, compensated.discrepancy, compensated.inversion]
                save_sheet([row[:8] for row in rows], trainer.sample_sheet)
            pictures = (encoded.initial, compensated.inversion.clamp(-1, 1))
            errors.append(torch.stack([psnr(picture, images, data_range=2.0) for picture in pictures]))
        initial, inversion = torch.cat(errors, dim=1).mean(dim=1).tolist()
        return {"validation_psnr_initial": initial, "validation_psnr": inversion}


def change_of_compensation(encoded: Encoded, compensated: Compensated, feature_share: float) -> torch.Tensor:
    """How far compensation moves features and latents: share·MSE(F⁺, F) + (1 − share)·MSE(w⁺, w)."""
    features = F.mse_loss(compensated.compensated_features.float(), encoded.features.float())
    latents = F.mse_loss(compensated.compensated_latents, encoded.latents)
    return feature_share * features + (1 - feature_share) * latents
