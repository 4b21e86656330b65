"""What a generator learns from: discriminators that score its images and learn to tell them from real ones.

Each is behind one small interface, `Adversary`, so that a step is the same whichever there are: StyleGAN2's own with
R1, the projected one on frozen features, or both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from sdic_plugin.checkpoints.components import find_model, has_component, load_component
from sdic_plugin.errors import SDICError
from sdic_plugin.images.blurring import blur, gaussian
from sdic_plugin.models import StyleGAN2Discriminator
from sdic_plugin.models.efficientnet_lite import EfficientNetLite, load_efficientnet_lite
from sdic_plugin.models.layers import full_precision
from sdic_plugin.models.projected_discriminator import ProjectedDiscriminator
from sdic_plugin.training.augmentation import ADAPTIVE_NUMBERS, DIFFAUGMENT_NUMBERS, adaptive_augment, diffaugment
from sdic_plugin.training.capture import Outputs
from sdic_plugin.training.data import step_rng
from sdic_plugin.training.losses import (
    discriminator_loss,
    generator_loss,
    hinge_discriminator_loss,
    hinge_generator_loss,
    r1_penalty,
)
from sdic_plugin.training.trainer import Trainer, freeze

if TYPE_CHECKING:
    from sdic_plugin.training.generator_config import GeneratorTrainingConfig

PLAIN, PROJECTED = "discriminator", "projected_discriminator"
"""Names of the networks, in checkpoints and in the folder of the model."""

# Random streams of every step, and of the run; those of the generator stand in `generator_step`.
FAKE_FOR_GENERATOR, FAKE_FOR_DISCRIMINATOR, REAL = 12, 13, 14
PROJECTED_STREAMS = 10
"""What the projected discriminator adds to these."""
INITIAL_HEADS = 103

FIRST_BLUR = 2.0
"""Standard deviation in pixels of the projected discriminator's input at the start."""

Drawn = Sequence[torch.Tensor | None]
"""Random numbers and the like of one set of images: inputs of a loss, see `LossFunction`."""


class Adversary:
    """What a generator learns from.

    Args:
        config: The stage's settings.
        trainer: Has the network.

    Attributes:
        prefix: Of its figures' names.
        weight: Of its term in the generator's loss.
        frozen: Networks that it uses, and that do not learn.
    """

    prefix = ""
    frozen: Sequence[nn.Module] = ()

    def __init__(self, config: GeneratorTrainingConfig, trainer: Trainer) -> None:
        self.config, self.trainer = config, trainer
        self.device = trainer.accelerator.device
        self.weight = 1.0

    @property
    def generator_figures(self) -> list[str]:
        """Names of the figures of the generator's loss that are logged."""
        return [f"{self.prefix}generator", f"{self.prefix}logit_fake"]

    def draw(self, count: int, stream: int) -> Drawn:
        """Draw what the augmentation of `count` images takes; `stream` says what they are for."""
        raise NotImplementedError

    def generator_loss(self, fake: torch.Tensor, drawn: Drawn) -> tuple[torch.Tensor, Outputs]:
        """Loss of who made images [B, 3, R, R], a scalar, and figures by name."""
        raise NotImplementedError

    def train(self, real: torch.Tensor, fake: torch.Tensor) -> dict[str, float]:
        """Take one optimiser step on images [B, 3, R, R] without gradients; returns figures to log."""
        raise NotImplementedError

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """Score images [B, 3, R, R] as they are, high for real, for a report."""
        raise NotImplementedError

    def _named(self, **figures: torch.Tensor) -> Outputs:
        return {f"{self.prefix}{name}": figure for name, figure in figures.items()}

    def _rng(self, stream: int) -> torch.Generator:
        return device_rng(self.trainer, stream)


def device_rng(trainer: Trainer, stream: int) -> torch.Generator:
    """A random generator of this step on the device, where it draws faster."""
    return torch.Generator(trainer.accelerator.device).manual_seed(trainer.rng(stream).initial_seed())


# StyleGAN2's own.


class DiscriminatorPass(nn.Module):
    """What one step wants of the discriminator.

    accelerate wraps this module's forward for mixed precision, and the discriminator inside stays as it is.
    """

    def __init__(self, discriminator: StyleGAN2Discriminator) -> None:
        super().__init__()
        self.discriminator = discriminator

    def forward(
        self, real: torch.Tensor, fake: torch.Tensor, penalty: bool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Score images [B, 3, R, R]: logits [B, 1] of the real and of the fake ones; R1 if `penalty`, else None."""
        r1 = r1_penalty(self.discriminator, real) if penalty else None
        return self.discriminator(real), self.discriminator(fake), r1


def adjusted_probability(probability: float, sign: float, images: float, config: GeneratorTrainingConfig) -> float:
    """Move ADA's probability towards where the discriminator's mean sign on real images meets its target.

    Args:
        probability: The present one.
        sign: Mean sign since the last adjustment, in [-1, 1]; above the target the discriminator overfits.
        images: Real images since the last adjustment.
        config: Has the target, and the number of images in which the probability may go from 0 to 1.
    """
    step = images / config.ada_images * (1 if sign > config.ada_target else -1)
    return min(max(probability + step, 0.0), 1.0)


class PlainAdversary(Adversary):
    """StyleGAN2's discriminator: non-saturating loss, lazy R1, the setting's augmentation."""

    def __init__(self, config: GeneratorTrainingConfig, trainer: Trainer, resolution: int) -> None:
        super().__init__(config, trainer)
        self.network = trainer.network(PLAIN, DiscriminatorPass)
        self.weight = config.plain_weight if config.discriminator == "both" else 1.0
        self.r1_weight = config.r1_weight_at(resolution)
        self.objective = trainer.objective(self._loss, PLAIN)
        for name in ("ada_probability", "ada_sign", "ada_seen", "r1"):
            trainer.state.setdefault(name, 0.0)

    @property
    def _augments(self) -> bool:
        """Whether anything can be augmented in this step."""
        augmentation = self.config.augmentation
        return augmentation == "diffaugment" or (
            augmentation == "adaptive" and self.trainer.state["ada_probability"] > 0
        )

    def draw(self, count: int, stream: int) -> Drawn:
        """Draw the random numbers of the augmentation, None for none, and give ADA's probability."""
        probability = torch.tensor(self.trainer.state["ada_probability"], device=self.device)
        if not self._augments:
            return [None, probability]
        columns = DIFFAUGMENT_NUMBERS if self.config.augmentation == "diffaugment" else ADAPTIVE_NUMBERS
        return [torch.rand(count, columns, generator=self._rng(stream), device=self.device), probability]

    def _augment(self, images: torch.Tensor, drawn: Drawn) -> torch.Tensor:
        numbers, probability = drawn
        if numbers is None:
            return images
        if self.config.augmentation == "diffaugment":
            return diffaugment(images, numbers, self.config.policies)
        assert probability is not None
        return adaptive_augment(images, numbers, probability, flips=not self.config.horizontal_flips)

    def generator_loss(self, fake: torch.Tensor, drawn: Drawn) -> tuple[torch.Tensor, Outputs]:
        """See `Adversary`."""
        scores = self.network.discriminator(self._augment(fake, drawn)).float()
        loss = generator_loss(scores)
        return loss, self._named(generator=loss, logit_fake=scores.mean())

    def train(self, real: torch.Tensor, fake: torch.Tensor) -> dict[str, float]:
        """See `Adversary`."""
        trainer, config = self.trainer, self.config
        result = self.objective(
            real,
            fake,
            self.draw(len(real), REAL),
            self.draw(len(fake), FAKE_FOR_DISCRIMINATOR),
            penalty=self.r1_weight > 0 and trainer.step % config.r1_every == 0,
        )
        if "r1" in result:
            trainer.state["r1"] = result["r1"].item()
        figures = {name: result[name].item() for name in ("discriminator", "logit_real")}
        figures["r1"] = trainer.state["r1"]
        if config.augmentation == "adaptive":
            self._adapt(result["sign_real"])
            figures["ada_probability"] = trainer.state["ada_probability"]
        return figures

    def _loss(
        self, real: torch.Tensor, fake: torch.Tensor, real_drawn: Drawn, fake_drawn: Drawn, penalty: bool
    ) -> tuple[torch.Tensor, Outputs]:
        """Loss of the discriminator; images [B, 3, R, R] without gradients."""
        real, fake = self._augment(real, real_drawn), self._augment(fake, fake_drawn)
        real_scores, fake_scores, r1 = self.network(real, fake, penalty)
        loss = adversarial = discriminator_loss(real_scores, fake_scores)
        real_scores = real_scores.float()
        outputs = self._named(
            discriminator=adversarial, logit_real=real_scores.mean(), sign_real=real_scores.sign().mean()
        )
        if r1 is not None:
            loss = loss + 0.5 * self.r1_weight * self.config.r1_every * r1
            outputs["r1"] = r1
        return loss, outputs

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """See `Adversary`."""
        return self.network.discriminator(images)

    def _adapt(self, real_sign: torch.Tensor) -> None:
        """Note the mean sign of the scores of real images, and adjust ADA's probability where it is time to."""
        state, config, accelerator = self.trainer.state, self.config, self.trainer.accelerator
        images = config.batch_size // config.gradient_accumulation
        state["ada_sign"] += accelerator.reduce(real_sign, "mean").item() * images
        state["ada_seen"] += images
        if state["ada_seen"] < config.ada_every * config.batch_size:
            return
        mean_sign = state["ada_sign"] / state["ada_seen"]
        state["ada_probability"] = adjusted_probability(state["ada_probability"], mean_sign, state["ada_seen"], config)
        state["ada_sign"], state["ada_seen"] = 0.0, 0.0


# On frozen features.


def features_mark(features: EfficientNetLite) -> torch.Tensor:
    """A number [1] that tells weights of features apart."""
    return torch.stack([p.double().abs().mean() for p in features.parameters()]).sum()[None].float().cpu()


class ProjectedAdversary(Adversary):
    """The projected discriminator: hinge loss, DiffAugment always, its input blurred at first; no R1.

    Args:
        config: The stage's settings.
        trainer: Has the network.
        resolution: Of the images.
        features: Frozen; brought to the device.

    Raises:
        SDICError: If the network learned from other features.
    """

    prefix = "projected_"

    def __init__(
        self, config: GeneratorTrainingConfig, trainer: Trainer, resolution: int, features: EfficientNetLite
    ) -> None:
        super().__init__(config, trainer)
        freeze(features, device=self.device)
        self.features, self.frozen = features, [features]
        self.network = trainer.network(PROJECTED, ProjectedDiscriminator)
        if not torch.allclose(self.network.features_mark.cpu(), features_mark(features), rtol=1e-4):
            raise SDICError(
                "The projected discriminator learned from EfficientNet-Lite with other weights: name those with "
                "`efficientnet`, or start anew."
            )
        # Heads that have learned look at sharp pictures already, as the generator does that they taught.
        self.blur_images = 0 if has_trained(config, PROJECTED) else config.blur_images
        self.first_blur = FIRST_BLUR * resolution / self.network.config.side
        self.objective = trainer.objective(self._loss, PROJECTED, frozen=self.frozen)

    def draw(self, count: int, stream: int) -> Drawn:
        """Draw DiffAugment's random numbers, and give the weights of the blur, None once it has faded."""
        rng = self._rng(stream + PROJECTED_STREAMS)
        numbers = torch.rand(count, DIFFAUGMENT_NUMBERS, generator=rng, device=self.device)
        faded = self.trainer.step * self.config.batch_size / max(self.blur_images, 1)
        if self.blur_images == 0 or faded >= 1:
            return [numbers, None]
        weights = gaussian(self.first_blur * (1 - faded), max(1, math.ceil(3 * self.first_blur)))
        return [numbers, weights.to(self.device)]

    def _scores(self, images: torch.Tensor, drawn: Drawn) -> torch.Tensor:
        """Logits [B, places] of images as the discriminator sees them in training."""
        numbers, weights = drawn
        assert numbers is not None
        if weights is not None:
            with full_precision(images):
                images = blur(images, weights)
        return self.logits(diffaugment(images, numbers, self.config.policies))

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """See `Adversary`; [B, places]."""
        return self.network(self.features.features(self.network.resize(images)))

    def generator_loss(self, fake: torch.Tensor, drawn: Drawn) -> tuple[torch.Tensor, Outputs]:
        """See `Adversary`."""
        loss = hinge_generator_loss(self._scores(fake, drawn))
        return loss, self._named(generator=loss, logit_fake=-loss)

    def train(self, real: torch.Tensor, fake: torch.Tensor) -> dict[str, float]:
        """See `Adversary`."""
        result = self.objective(real, fake, self.draw(len(real), REAL), self.draw(len(fake), FAKE_FOR_DISCRIMINATOR))
        return {name: result[name].item() for name in (f"{self.prefix}discriminator", f"{self.prefix}logit_real")}

    def _loss(
        self, real: torch.Tensor, fake: torch.Tensor, real_drawn: Drawn, fake_drawn: Drawn
    ) -> tuple[torch.Tensor, Outputs]:
        """Loss of the heads; images [B, 3, R, R] without gradients."""
        real_scores, fake_scores = self._scores(real, real_drawn), self._scores(fake, fake_drawn)
        loss = hinge_discriminator_loss(real_scores, fake_scores)
        return loss, self._named(discriminator=loss, logit_real=real_scores.float().mean())


# Which there are.


def has_trained(config: GeneratorTrainingConfig, discriminator: str) -> bool:
    """Whether the run goes on from a discriminator, `PLAIN` or `PROJECTED`, rather than from a new one."""
    return not config.starts_anew and has_component(find_model(config.model), discriminator)


def networks_of_adversaries(
    config: GeneratorTrainingConfig, plain: StyleGAN2Discriminator, features: EfficientNetLite | None
) -> dict[str, nn.Module]:
    """Return the networks to train, by name.

    Args:
        config: The stage's settings.
        plain: StyleGAN2's discriminator.
        features: Of the projected one; None for none.

    Raises:
        CheckpointError: If the model's own projected discriminator does not fit.
    """
    networks: dict[str, nn.Module] = {}
    if config.discriminator != "projected":
        networks[PLAIN] = DiscriminatorPass(plain)
    if features is not None:
        networks[PROJECTED] = _projected_discriminator(config, plain.config.resolution, features)
    return networks


def _projected_discriminator(
    config: GeneratorTrainingConfig, resolution: int, features: EfficientNetLite
) -> ProjectedDiscriminator:
    """Load the one to go on from, or make a new one."""
    if has_trained(config, PROJECTED):
        return load_component(ProjectedDiscriminator, find_model(config.model), PROJECTED).train()
    torch.manual_seed(step_rng(config.seed, 0, INITIAL_HEADS).initial_seed())
    side, channels = config.projected_side_at(resolution), config.projected_channels
    discriminator = ProjectedDiscriminator(side, channels, features.feature_channels)
    discriminator.features_mark.copy_(features_mark(features))
    return discriminator.train()


def load_features(config: GeneratorTrainingConfig) -> EfficientNetLite | None:
    """Load what the projected discriminator sees, where there is one.

    Raises:
        CheckpointError: If the weights are not installed, or cannot be read.
    """
    return None if config.discriminator == "plain" else load_efficientnet_lite(config.efficientnet)


def make_adversaries(
    config: GeneratorTrainingConfig, trainer: Trainer, resolution: int, features: EfficientNetLite | None
) -> list[Adversary]:
    """Return who the generator learns from, with the networks that the trainer has."""
    adversaries: list[Adversary] = []
    if PLAIN in trainer.models:
        adversaries.append(PlainAdversary(config, trainer, resolution))
    if features is not None:
        adversaries.append(ProjectedAdversary(config, trainer, resolution, features))
    return adversaries
