"""Stage 1: a StyleGAN2 generator and its discriminator (Karras et al., 2020), from scratch or fine-tuned."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from sdic_plugin.conversion.fingerprint import generator_fingerprint
from sdic_plugin.errors import SDICError
from sdic_plugin.evaluation.frechet import frechet_distance
from sdic_plugin.models import StyleGAN2Discriminator, StyleGAN2Generator
from sdic_plugin.models.layers import full_precision
from sdic_plugin.models.stylegan2 import channel_table, check_geometry
from sdic_plugin.training.augmentation import (
    ADAPTIVE_NUMBERS,
    DIFFAUGMENT_NUMBERS,
    POLICIES,
    adaptive_augment,
    diffaugment,
)
from sdic_plugin.training.components import find_model, has_component, load_component
from sdic_plugin.training.config import TrainingConfig
from sdic_plugin.training.data import step_rng, to_range, training_and_validation
from sdic_plugin.training.losses import generator_loss
from sdic_plugin.training.model_folder import write_model
from sdic_plugin.training.samples import save_sheet
from sdic_plugin.training.trainer import Trainer

AUGMENTATIONS = ("none", "diffaugment", "adaptive")

# Random streams beside the trainer's own: of every step, and of the run. No z may hold the numbers that initialised
# the mapping network (torch's for the same seed): aligned with its weights, it would make a picture far from typical.
LATENTS, NOISE, FAKE_FOR_GENERATOR, FAKE_FOR_DISCRIMINATOR, REAL, PATH_DIRECTIONS = range(10, 16)
INITIAL_WEIGHTS, MEAN_W, SHEETS = range(100, 103)

W_AVG_DECAY = 0.995
PATH_LENGTH_DECAY = 0.99


@dataclass
class GeneratorTrainingConfig(TrainingConfig):
    """StyleGAN2: non-saturating loss, lazy R1, style mixing, augmentation of what the discriminator sees.

    With `model` (and not `from_scratch`), training goes on from its `generator` and `discriminator`, whose widths are
    kept; else both are new, of the sizes below.

    Attributes:
        resolution: Side of the image in pixels, a power of two from 8 on; None for 64, or the model's own.
        style_width: See `StyleGAN2Generator`.
        mapping_layers: See `StyleGAN2Generator`.
        channels: Channels per resolution, such as {"4": 512, …}; None for the published table.
        discriminator_channels: The same for a new discriminator; None for the generator's.
        feature_resolution: Resolution of the feature map that compensation will work on; None for half the image's,
            at most 64 (as published from 256 on), which small generators need to bring detail back.
        mixing_probability: Share of the images that take their finer styles from a second z.
        r1_weight: Weight of the gradient penalty (γ; the loss gets γ/2 · E‖∇D‖²); None for StyleGAN2-ADA's rule,
            2e-4 · resolution² / batch_size.
        r1_every: Steps from one gradient penalty to the next; its weight is multiplied by them.
        path_length_weight: Weight of the path-length regularisation (2 in StyleGAN2); 0 leaves it out, as is usual for
            small data.
        path_length_every: Steps from one to the next; its weight is multiplied by them.
        path_length_share: Share of the batch that it is computed on.
        augmentation: "none", "diffaugment" (the policies below, always) or "adaptive" (ADA).
        policies: DiffAugment's policies, any of "colour", "translation" and "cutout".
        ada_target: Sign of the discriminator's scores of real images, averaged, at which ADA holds its probability.
        ada_images: Real images in which ADA's probability can go from 0 to 1.
        ada_every: Steps from one adjustment to the next.
        frechet_images: Number of samples that each report compares with the validation images by a Fréchet distance on
            the features of the discriminator that the run started from; 0 leaves it out, as does a new discriminator.
        source: Where the weights come from, for cards; None keeps what the model says.
        license: The licence of the weights, for cards; None keeps what the model says.
        learning_rate: Adam's, of both networks.
        decay_from: See `TrainingConfig`; 1 keeps the learning rate.
        gradient_clip: Largest gradient norm; the default leaves gradients as they are, as StyleGAN2 does.
        adam_betas: Adam's betas.
    """

    MAY_CHANGE: ClassVar[frozenset[str]] = TrainingConfig.MAY_CHANGE | {"frechet_images", "source", "license"}

    learning_rate: float = 2e-3
    decay_from: float = 1.0
    gradient_clip: float = 1e9
    adam_betas: list[float] = field(default_factory=lambda: [0.0, 0.99])
    resolution: int | None = None
    style_width: int = 512
    mapping_layers: int = 8
    channels: dict[str, int] | None = None
    discriminator_channels: dict[str, int] | None = None
    feature_resolution: int | None = None
    mixing_probability: float = 0.9
    r1_weight: float | None = None
    r1_every: int = 16
    path_length_weight: float = 0.0
    path_length_every: int = 4
    path_length_share: float = 0.5
    augmentation: str = "adaptive"
    policies: list[str] = field(default_factory=lambda: list(POLICIES))
    ada_target: float = 0.6
    ada_images: int = 500_000
    ada_every: int = 4
    frechet_images: int = 0
    source: str | None = None
    license: str | None = None

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            SDICError: Naming the first value out of range.
        """
        super().__post_init__()
        if self.augmentation not in AUGMENTATIONS:
            raise SDICError(f"augmentation is {self.augmentation!r}, but must be one of {', '.join(AUGMENTATIONS)}.")
        if not set(self.policies) <= set(POLICIES):
            raise SDICError(f"policies is {self.policies}, but may only hold {', '.join(POLICIES)}.")
        for name in ("r1_every", "path_length_every", "ada_every", "ada_images", "style_width", "mapping_layers"):
            self._check_number(name, "a whole number from 1 on", lambda value: value == int(value) and value >= 1)
        for name in ("mixing_probability", "path_length_share", "ada_target"):
            self._check_number(name, "in [0, 1]", lambda value: 0 <= value <= 1)
        for name in ("path_length_weight", "frechet_images", *([] if self.r1_weight is None else ["r1_weight"])):
            self._check_number(name, "0 or more", lambda value: value >= 0)
        if self.starts_anew:
            channel_table(self.new_resolution, self.channels)
            channel_table(self.new_resolution, self.discriminator_channels)
            check_geometry(self.new_resolution, self.new_feature_resolution, None)

    @property
    def starts_anew(self) -> bool:
        """Whether both networks are new."""
        return self.from_scratch or not self.model

    @property
    def new_resolution(self) -> int:
        """Resolution of a new generator."""
        return self.resolution or 64

    @property
    def new_feature_resolution(self) -> int:
        """Resolution of a new generator's hook."""
        return self.feature_resolution or min(64, max(8, self.new_resolution // 2))

    def r1_weight_at(self, resolution: int) -> float:
        """Weight of the gradient penalty at a resolution."""
        return 2e-4 * resolution**2 / self.batch_size if self.r1_weight is None else self.r1_weight


# The networks.


def build_networks(config: GeneratorTrainingConfig) -> tuple[StyleGAN2Generator, StyleGAN2Discriminator]:
    """Load the networks to go on from, or make new ones.

    Raises:
        SDICError: If the model's resolution is not the one that was asked for.
        CheckpointError: If the model is not found, or has no generator.
    """
    torch.manual_seed(step_rng(config.seed, 0, INITIAL_WEIGHTS).initial_seed())
    if config.starts_anew:
        generator = StyleGAN2Generator(
            resolution=config.new_resolution,
            style_width=config.style_width,
            mapping_layers=config.mapping_layers,
            channels=config.channels,
            feature_resolution=config.new_feature_resolution,
        )
        return generator, _new_discriminator(generator, config)
    folder = find_model(config.model)
    generator = load_component(StyleGAN2Generator, folder, "generator")
    if config.resolution not in (None, generator.config.resolution):
        raise SDICError(
            f"resolution is {config.resolution}, but the generator of {config.model} makes "
            f"{generator.config.resolution} pixels: leave the setting out, or train from scratch."
        )
    if has_component(folder, "discriminator"):
        return generator, load_component(StyleGAN2Discriminator, folder, "discriminator")
    warnings.warn(f"{config.model} has no discriminator: a new one learns from scratch.", stacklevel=2)
    return generator, _new_discriminator(generator, config)


def _new_discriminator(generator: StyleGAN2Generator, config: GeneratorTrainingConfig) -> StyleGAN2Discriminator:
    return StyleGAN2Discriminator(
        resolution=generator.config.resolution,
        channels=config.discriminator_channels or generator.config.channels,
        channel_multiplier=generator.config.channel_multiplier,
    )


class GeneratorPass(nn.Module):
    """What one step wants of the generator.

    accelerate wraps this module's forward for mixed precision, and the generator inside stays as it is.
    """

    def __init__(self, generator: StyleGAN2Generator) -> None:
        super().__init__()
        self.generator = generator

    def forward(
        self,
        z: torch.Tensor,
        crossover: torch.Tensor,
        noise: list[torch.Tensor],
        directions: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Render z with style mixing.

        Args:
            z: Pairs of normal samples, [2, B, style_width].
            crossover: First style that comes from the second z, [B], num_styles for none.
            noise: One map [B, 1, r, r] per styled convolution.
            directions: Normal images [b, 3, R, R], b up to B, for the path lengths of the first b; None for none.

        Returns:
            Images [B, 3, R, R]; w of the first z, [B, style_width]; path lengths [b], or None.
        """
        generator = self.generator
        first, second = generator.mapping(z[0]), generator.mapping(z[1])
        rows = torch.arange(generator.num_styles, device=z.device)[None, :, None]
        latents = torch.where(rows < crossover[:, None, None], first[:, None], second[:, None])
        lengths = None
        if directions is not None:
            count = len(directions)
            lengths = path_lengths(generator, latents[:count], [each[:count] for each in noise], directions)
        images, _ = generator(latents, noise=noise, return_dict=False)
        return images, first, lengths


class DiscriminatorPass(nn.Module):
    """What one step wants of the discriminator, wrapped like the generator."""

    def __init__(self, discriminator: StyleGAN2Discriminator) -> None:
        super().__init__()
        self.discriminator = discriminator

    def forward(
        self, real: torch.Tensor, fake: torch.Tensor, penalty: bool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Score images [B, 3, R, R]: logits [B, 1] of the real and of the fake ones; R1 if `penalty`, else None."""
        r1 = r1_penalty(self.discriminator, real) if penalty else None
        return self.discriminator(real), self.discriminator(fake), r1


# The losses.


def r1_penalty(discriminator: nn.Module, real: torch.Tensor) -> torch.Tensor:
    """Mean squared norm of the score's gradient at real images, in float32 (Mescheder et al., 2018)."""
    with full_precision(real):
        real = real.detach().float().requires_grad_()
        (gradient,) = torch.autograd.grad(discriminator(real).sum(), real, create_graph=True)
    return gradient.flatten(1).square().sum(dim=1).mean()


def path_lengths(
    generator: StyleGAN2Generator, latents: torch.Tensor, noise: list[torch.Tensor], directions: torch.Tensor
) -> torch.Tensor:
    """How far the image moves with the latents, in float32 (StyleGAN2, section 3.2).

    Args:
        generator: The generator.
        latents: W+, [B, num_styles, D], with gradients.
        noise: One map per styled convolution.
        directions: Normal images, [B, 3, R, R].

    Returns:
        Norm of the gradient of each image's projection on its direction, a mean over styles, [B].
    """
    with full_precision(latents):
        images, _ = generator(latents, noise=noise, return_dict=False)
        projection = (images * directions).sum() / images.shape[-1]
        (gradient,) = torch.autograd.grad(projection, latents, create_graph=True)
    return gradient.square().sum(dim=2).mean(dim=1).sqrt()


def adversary_loss(real_logits: torch.Tensor, fake_logits: torch.Tensor) -> torch.Tensor:
    """Non-saturating loss of the discriminator, without its penalty."""
    return F.softplus(-real_logits.float()).mean() + F.softplus(fake_logits.float()).mean()


def adjusted_probability(probability: float, sign: float, images: int, config: GeneratorTrainingConfig) -> float:
    """Move ADA's probability towards where the discriminator's mean sign on real images meets its target.

    Args:
        probability: The present one.
        sign: Mean sign since the last adjustment, in [-1, 1]; above the target the discriminator overfits.
        images: Real images since the last adjustment.
        config: The settings.
    """
    step = images / config.ada_images * (1 if sign > config.ada_target else -1)
    return min(max(probability + step, 0.0), 1.0)


# Training.


def train_generator(config: GeneratorTrainingConfig) -> Path:
    """Train a generator and its discriminator.

    Returns:
        The folder `output/model`: the model built on, with the moving average of the generator's weights and the
        discriminator.
    """
    generator, discriminator = build_networks(config)
    images, validation = training_and_validation(config, generator.config.resolution)
    judge = None if config.starts_anew or not config.frechet_images else _frozen_copy(discriminator)
    models = {"generator": GeneratorPass(generator), "discriminator": DiscriminatorPass(discriminator)}
    trainer = Trainer(config, models, ["generator"], images)
    trainer.train(_Step(config, trainer), _Report(config, trainer, validation, judge))
    trained = trained_networks(trainer, config)
    model = None if config.starts_anew else find_model(config.model)
    return write_model(trainer, config, model, trained, validation)


def trained_networks(trainer: Trainer, config: GeneratorTrainingConfig) -> dict[str, nn.Module]:
    """Return the networks to save, with what belongs to their weights: mean w, id, source and licence.

    A fine-tuned generator gets an id of its own: the edits of the one it came from were found for other weights.
    """
    generator = trainer.averages["generator"].generator
    generator.estimate_w_avg(seed=step_rng(config.seed, 0, MEAN_W).initial_seed())
    generator.register_to_config(generator_id=generator_fingerprint(generator))
    notes = {"source": config.source, "license": config.license}
    generator.register_to_config(**{key: value for key, value in notes.items() if value is not None})
    return {"generator": generator, "discriminator": trainer.unwrap("discriminator").discriminator}


class _Step:
    """One step of both networks: the images that the generator learns from are the discriminator's fakes."""

    def __init__(self, config: GeneratorTrainingConfig, trainer: Trainer) -> None:
        self.config, self.trainer = config, trainer
        self.generator = trainer.unwrap("generator").generator
        self.discriminator = trainer.unwrap("discriminator").discriminator
        self.device = trainer.accelerator.device
        self.r1_weight = config.r1_weight_at(self.generator.config.resolution)
        for name in ("ada_probability", "ada_sign", "ada_seen", "r1", "path_length", "path_length_mean"):
            trainer.state.setdefault(name, 0.0)

    def __call__(self, real: torch.Tensor) -> dict[str, float]:
        fake, figures = self._train_generator(len(real))
        return {**figures, **self._train_discriminator(real, fake.detach())}

    def _train_generator(self, count: int) -> tuple[torch.Tensor, dict[str, float]]:
        trainer, config = self.trainer, self.config
        fake, w, lengths = trainer.models["generator"](*self._draw_inputs(count))
        with torch.no_grad():
            self.generator.w_avg.lerp_(w.mean(dim=0), 1 - W_AVG_DECAY)
        with trainer.accelerator.autocast():
            scores = self.discriminator(self._augment(fake, FAKE_FOR_GENERATOR))
        adversarial = generator_loss(scores)
        loss = adversarial
        if lengths is not None:
            loss = loss + config.path_length_weight * config.path_length_every * self._path_penalty(lengths)
        trainer.optimize(loss, "generator")
        figures = {"loss": loss.item(), "generator": adversarial.item(), "logit_fake": scores.float().mean().item()}
        if config.path_length_weight > 0:
            figures["path_length"] = trainer.state["path_length"]
        return fake, figures

    def _train_discriminator(self, real: torch.Tensor, fake: torch.Tensor) -> dict[str, float]:
        trainer, config = self.trainer, self.config
        penalty = self.r1_weight > 0 and trainer.step % config.r1_every == 0
        real, fake = self._augment(real, REAL), self._augment(fake, FAKE_FOR_DISCRIMINATOR)
        real_scores, fake_scores, r1 = trainer.models["discriminator"](real, fake, penalty)
        adversarial = adversary_loss(real_scores, fake_scores)
        loss = adversarial
        if r1 is not None:
            loss = loss + 0.5 * self.r1_weight * config.r1_every * r1
            trainer.state["r1"] = r1.item()
        trainer.optimize(loss, "discriminator")
        figures = {
            "discriminator": adversarial.item(),
            "logit_real": real_scores.float().mean().item(),
            "r1": trainer.state["r1"],
        }
        if config.augmentation == "adaptive":
            self._adapt(real_scores.detach())
            figures["ada_probability"] = trainer.state["ada_probability"]
        return figures

    # Random inputs.

    def _rng(self, stream: int) -> torch.Generator:
        """A generator of this step on the device, where it draws faster."""
        return torch.Generator(self.device).manual_seed(self.trainer.rng(stream).initial_seed())

    def _draw_inputs(self, count: int) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor], torch.Tensor | None]:
        """Draw what `GeneratorPass` takes, for `count` images."""
        options = {"generator": self._rng(LATENTS), "device": self.device}
        num_styles = self.generator.num_styles
        z = torch.randn(2, count, self.generator.config.style_width, **options)
        mixed = torch.rand(count, **options) < self.config.mixing_probability
        crossover = torch.randint(1, num_styles, (count,), **options)
        options["generator"] = self._rng(NOISE)
        layers = [layer for block in self.generator.blocks for layer in block.styled_convs()]
        noise = [torch.randn(count, *layer.noise.shape[1:], **options) for layer in layers]
        return z, crossover.masked_fill(~mixed, num_styles), noise, self._path_directions(count)

    def _path_directions(self, count: int) -> torch.Tensor | None:
        config, resolution = self.config, self.generator.config.resolution
        if config.path_length_weight == 0 or self.trainer.step % config.path_length_every:
            return None
        count = max(1, math.ceil(count * config.path_length_share))
        rng = self._rng(PATH_DIRECTIONS)
        return torch.randn(count, 3, resolution, resolution, generator=rng, device=self.device)

    def _augment(self, images: torch.Tensor, stream: int) -> torch.Tensor:
        config = self.config
        if config.augmentation == "none":
            return images
        columns = DIFFAUGMENT_NUMBERS if config.augmentation == "diffaugment" else ADAPTIVE_NUMBERS
        numbers = torch.rand(len(images), columns, generator=self._rng(stream), device=self.device)
        if config.augmentation == "diffaugment":
            return diffaugment(images, numbers, config.policies)
        probability = self.trainer.state["ada_probability"]
        return adaptive_augment(images, numbers, probability, flips=not config.horizontal_flips)

    # What is tracked along the way.

    def _adapt(self, real_scores: torch.Tensor) -> None:
        """Note the signs of the scores of real images, and adjust ADA's probability where it is time to."""
        state, config, accelerator = self.trainer.state, self.config, self.trainer.accelerator
        images = len(real_scores) * accelerator.num_processes
        state["ada_sign"] += accelerator.reduce(real_scores.float().sign().mean(), "mean").item() * images
        state["ada_seen"] += images
        if state["ada_seen"] < config.ada_every * config.batch_size:
            return
        mean_sign = state["ada_sign"] / state["ada_seen"]
        state["ada_probability"] = adjusted_probability(state["ada_probability"], mean_sign, state["ada_seen"], config)
        state["ada_sign"], state["ada_seen"] = 0.0, 0.0

    def _path_penalty(self, lengths: torch.Tensor) -> torch.Tensor:
        state = self.trainer.state
        length = self.trainer.accelerator.reduce(lengths.detach().mean(), "mean").item()
        mean = state["path_length_mean"] + (1 - PATH_LENGTH_DECAY) * (length - state["path_length_mean"])
        state["path_length"], state["path_length_mean"] = length, mean
        return (lengths - mean).square().mean()


class _Report:
    """Sample sheet and figures of the averaged generator, always of the same z.

    Its logits tell how far the discriminator has learned the training images by heart: if so, those of validation
    images are nearer to the samples' than the training images' are (`logit_real` of the steps).
    """

    def __init__(
        self,
        config: GeneratorTrainingConfig,
        trainer: Trainer,
        validation: torch.Tensor,
        judge: StyleGAN2Discriminator | None,
    ) -> None:
        self.config, self.trainer, self.judge = config, trainer, judge
        self.device = trainer.accelerator.device
        self.real = to_range(validation)
        if judge is not None and trainer.accelerator.is_main_process:
            judge.to(self.device)
            self.real_features = self._features(self.real.split(config.batch_size))

    @torch.no_grad()
    def __call__(self) -> dict[str, float]:
        sheet = [self._samples(8, stream, truncation) for truncation in (1.0, 0.7) for stream in (0, 1)]
        save_sheet(sheet, self.trainer.output / "samples" / f"step_{self.trainer.step:08d}.png")
        figures = {
            "validation_logit": self._mean_logit(self.real[:64]),
            "validation_logit_of_samples": self._mean_logit(torch.cat(sheet[:2])),
        }
        if self.judge is not None:
            size, count = self.config.batch_size, self.config.frechet_images
            batches = (self._samples(size, 2 + i, 1.0) for i in range(math.ceil(count / size)))
            figures["validation_frechet_discriminator"] = frechet_distance(
                self.real_features, self._features(batches)[:count]
            )
        return figures

    def _samples(self, count: int, stream: int, truncation: float) -> torch.Tensor:
        generator = self.trainer.averages["generator"].generator
        rng = step_rng(self.config.seed, stream, SHEETS)
        z = torch.randn(count, generator.config.style_width, generator=rng).to(self.device)
        return generator(generator.broadcast(generator.mapping(z, truncation))).image

    def _mean_logit(self, images: torch.Tensor) -> float:
        discriminator = self.trainer.unwrap("discriminator").discriminator
        return torch.cat([discriminator(batch.to(self.device)) for batch in images.split(16)]).mean().item()

    @torch.no_grad()
    def _features(self, batches: Iterable[torch.Tensor]) -> torch.Tensor:
        """Mean over the image of the features of the judge's three coarsest blocks, one row per image."""
        rows = []
        for batch in batches:
            features = self.judge.features(batch.to(self.device).clamp(-1, 1))[-3:]
            rows.append(torch.cat([each.float().mean(dim=(2, 3)) for each in features], dim=1).cpu())
        return torch.cat(rows)


def _frozen_copy(discriminator: StyleGAN2Discriminator) -> StyleGAN2Discriminator:
    copy = StyleGAN2Discriminator.from_config(discriminator.config)
    copy.load_state_dict(discriminator.state_dict())
    return copy.requires_grad_(False).eval()
