"""One step of the generator's training, what it learns from, and what it reports."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import nn

from sdic_plugin.evaluation.frechet import frechet_distance
from sdic_plugin.evaluation.kernel import kernel_distance
from sdic_plugin.evaluation.networks import DiscriminatorFeatures, EfficientNetFeatures
from sdic_plugin.images.sheets import save_sheet
from sdic_plugin.models import StyleGAN2Discriminator, StyleGAN2Generator
from sdic_plugin.models.layers import full_precision
from sdic_plugin.training.augmentation import ADAPTIVE_NUMBERS, DIFFAUGMENT_NUMBERS, adaptive_augment, diffaugment
from sdic_plugin.training.capture import Outputs
from sdic_plugin.training.data import step_rng, to_range
from sdic_plugin.training.losses import discriminator_loss, generator_loss, r1_penalty
from sdic_plugin.training.trainer import Trainer

if TYPE_CHECKING:
    from sdic_plugin.training.generator_config import GeneratorTrainingConfig

# Random streams beside the trainer's own: of every step, and of the run. No z may hold the numbers that initialised
# the mapping network (torch's for the same seed): aligned with its weights, it would make a picture far from typical.
LATENTS, NOISE, FAKE_FOR_GENERATOR, FAKE_FOR_DISCRIMINATOR, REAL, PATH_DIRECTIONS = range(10, 16)
INITIAL_WEIGHTS, MEAN_W, SHEETS = range(100, 103)

W_AVG_DECAY = 0.995
PATH_LENGTH_DECAY = 0.99

KERNEL_SUBSETS = 20
"""Of a report's kernel distance: their mean is all that it tells."""


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
        images, *_ = generator(latents, noise=noise, return_dict=False)
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


# What only this stage regularises.


def path_lengths(
    generator: StyleGAN2Generator, latents: torch.Tensor, noise: list[torch.Tensor], directions: torch.Tensor
) -> torch.Tensor:
    """How far the image moves with the latents, in float32 (StyleGAN2, section 3.2).

    Args:
        generator: In training, with gradients.
        latents: W+, [B, num_styles, D], with gradients.
        noise: One map per styled convolution.
        directions: Normal images, [B, 3, R, R].

    Returns:
        Norm of the gradient of each image's projection on its direction, a mean over styles, [B].
    """
    with full_precision(latents):
        images, *_ = generator(latents, noise=noise, return_dict=False)
        projection = (images * directions).sum() / images.shape[-1]
        (gradient,) = torch.autograd.grad(projection, latents, create_graph=True)
    return gradient.square().sum(dim=2).mean(dim=1).sqrt()


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


# The step and its report.


class GeneratorStep:
    """One step of both networks: the images that the generator learns from are the discriminator's fakes."""

    def __init__(self, config: GeneratorTrainingConfig, trainer: Trainer) -> None:
        self.config, self.trainer = config, trainer
        self.generator = trainer.network("generator", GeneratorPass).generator
        self.discriminator = trainer.network("discriminator", DiscriminatorPass).discriminator
        self.device = trainer.accelerator.device
        self.r1_weight = config.r1_weight_at(self.generator.config.resolution)
        self.generator_objective = trainer.objective(self._generator_loss, "generator")
        self.discriminator_objective = trainer.objective(self._discriminator_loss, "discriminator")
        for name in ("ada_probability", "ada_sign", "ada_seen", "r1", "path_length", "path_length_mean"):
            trainer.state.setdefault(name, 0.0)

    def __call__(self, real: torch.Tensor) -> dict[str, float]:
        """Learn from real images [B, 3, R, R] in [-1, 1]; returns figures to log."""
        fake, figures = self._train_generator(len(real))
        return {**figures, **self._train_discriminator(real, fake)}

    def _train_generator(self, count: int) -> tuple[torch.Tensor, dict[str, float]]:
        trainer, config = self.trainer, self.config
        directions = self._path_directions(count)
        mean_length = torch.tensor(trainer.state["path_length_mean"], device=self.device)
        result = self.generator_objective(
            *self._draw_inputs(count),
            directions,
            mean_length,
            *self._draw_augmentation(count, FAKE_FOR_GENERATOR),
            augments=self._augments,
        )
        self.generator.w_avg.lerp_(result["w"].mean(dim=0), 1 - W_AVG_DECAY)
        figures = {name: result[name].item() for name in ("loss", "generator", "logit_fake")}
        if directions is not None:
            trainer.state["path_length"] = trainer.accelerator.reduce(result["path_length"], "mean").item()
            trainer.state["path_length_mean"] += (1 - PATH_LENGTH_DECAY) * (
                trainer.state["path_length"] - trainer.state["path_length_mean"]
            )
        if config.path_length_weight > 0:
            figures["path_length"] = trainer.state["path_length"]
        return result["fake"], figures

    def _generator_loss(
        self,
        z: torch.Tensor,
        crossover: torch.Tensor,
        noise: list[torch.Tensor],
        directions: torch.Tensor | None,
        mean_length: torch.Tensor,
        numbers: torch.Tensor | None,
        probability: torch.Tensor,
        augments: bool,
    ) -> tuple[torch.Tensor, Outputs]:
        """Loss of the generator; inputs as `GeneratorPass` and `_augment` take them."""
        config = self.config
        fake, w, lengths = self.trainer.network("generator", GeneratorPass)(z, crossover, noise, directions)
        scores = self.discriminator(self._augment(fake, numbers, probability, augments)).float()
        loss = adversarial = generator_loss(scores)
        outputs = {"fake": fake, "w": w, "generator": adversarial, "logit_fake": scores.mean()}
        if lengths is not None:
            # The mean to keep the lengths at has this step's in it.
            mean = torch.lerp(mean_length, lengths.detach().mean(), 1 - PATH_LENGTH_DECAY)
            penalty = (lengths - mean).square().mean()
            loss = loss + config.path_length_weight * config.path_length_every * penalty
            outputs["path_length"] = lengths.mean()
        return loss, outputs

    def _train_discriminator(self, real: torch.Tensor, fake: torch.Tensor) -> dict[str, float]:
        trainer, config = self.trainer, self.config
        real_numbers, probability = self._draw_augmentation(len(real), REAL)
        fake_numbers, _ = self._draw_augmentation(len(fake), FAKE_FOR_DISCRIMINATOR)
        result = self.discriminator_objective(
            real,
            fake,
            real_numbers,
            fake_numbers,
            probability,
            augments=self._augments,
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

    def _discriminator_loss(
        self,
        real: torch.Tensor,
        fake: torch.Tensor,
        real_numbers: torch.Tensor | None,
        fake_numbers: torch.Tensor | None,
        probability: torch.Tensor,
        augments: bool,
        penalty: bool,
    ) -> tuple[torch.Tensor, Outputs]:
        """Loss of the discriminator; images [B, 3, R, R] without gradients, the rest as `_augment` takes it."""
        real = self._augment(real, real_numbers, probability, augments)
        fake = self._augment(fake, fake_numbers, probability, augments)
        judge = self.trainer.network("discriminator", DiscriminatorPass)
        real_scores, fake_scores, r1 = judge(real, fake, penalty)
        loss = adversarial = discriminator_loss(real_scores, fake_scores)
        real_scores = real_scores.float()
        outputs = {
            "discriminator": adversarial,
            "logit_real": real_scores.mean(),
            "sign_real": real_scores.sign().mean(),
        }
        if r1 is not None:
            loss = loss + 0.5 * self.r1_weight * self.config.r1_every * r1
            outputs["r1"] = r1
        return loss, outputs

    # Random inputs.

    def _rng(self, stream: int) -> torch.Generator:
        """A generator of this step on the device, where it draws faster."""
        return torch.Generator(self.device).manual_seed(self.trainer.rng(stream).initial_seed())

    def _draw_inputs(self, count: int) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
        """Draw z, crossover and noise as `GeneratorPass` takes them, for `count` images."""
        rng, device, num_styles = self._rng(LATENTS), self.device, self.generator.num_styles
        z = torch.randn(2, count, self.generator.config.style_width, generator=rng, device=device)
        mixed = torch.rand(count, generator=rng, device=device) < self.config.mixing_probability
        crossover = torch.randint(1, num_styles, (count,), generator=rng, device=device)
        rng = self._rng(NOISE)
        layers = [layer for block in self.generator.blocks for layer in block.styled_convs()]
        noise = [torch.randn(count, *layer.noise.shape[1:], generator=rng, device=device) for layer in layers]
        return z, crossover.masked_fill(~mixed, num_styles), noise

    def _path_directions(self, count: int) -> torch.Tensor | None:
        config, resolution = self.config, self.generator.config.resolution
        if config.path_length_weight == 0 or self.trainer.step % config.path_length_every:
            return None
        count = max(1, math.ceil(count * config.path_length_share))
        rng = self._rng(PATH_DIRECTIONS)
        return torch.randn(count, 3, resolution, resolution, generator=rng, device=self.device)

    @property
    def _augments(self) -> bool:
        """Whether anything can be augmented in this step."""
        augmentation = self.config.augmentation
        return augmentation == "diffaugment" or (
            augmentation == "adaptive" and self.trainer.state["ada_probability"] > 0
        )

    def _draw_augmentation(self, count: int, stream: int) -> tuple[torch.Tensor | None, torch.Tensor]:
        """Draw the random numbers of `count` images' augmentation, None for none; with ADA's probability."""
        probability = torch.tensor(self.trainer.state["ada_probability"], device=self.device)
        if not self._augments:
            return None, probability
        columns = DIFFAUGMENT_NUMBERS if self.config.augmentation == "diffaugment" else ADAPTIVE_NUMBERS
        return torch.rand(count, columns, generator=self._rng(stream), device=self.device), probability

    def _augment(
        self, images: torch.Tensor, numbers: torch.Tensor | None, probability: torch.Tensor, augments: bool
    ) -> torch.Tensor:
        if not augments:
            return images
        assert numbers is not None
        if self.config.augmentation == "diffaugment":
            return diffaugment(images, numbers, self.config.policies)
        return adaptive_augment(images, numbers, probability, flips=not self.config.horizontal_flips)

    # What is tracked along the way.

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


class GeneratorReport:
    """Sample sheet and figures of the averaged generator, always of the same z.

    Its logits show how far the discriminator has memorised the training images: where it has, those of validation
    images are nearer to the samples' than the training images' are (`logit_real` of the steps).
    """

    def __init__(
        self,
        config: GeneratorTrainingConfig,
        trainer: Trainer,
        validation: torch.Tensor,
        judge: StyleGAN2Discriminator | None,
        kernel_judge: EfficientNetFeatures | None = None,
    ) -> None:
        self.config, self.trainer = config, trainer
        self.device = trainer.accelerator.device
        self.real = to_range(validation)
        self.judge = None if judge is None else DiscriminatorFeatures(judge).to(self.device)
        if self.judge is not None and trainer.accelerator.is_main_process:
            self.real_features = self._features(self.judge, self.real.split(config.batch_size))
        self.kernel_judge = None if kernel_judge is None else kernel_judge.to(self.device)
        if self.kernel_judge is not None and trainer.accelerator.is_main_process:
            self.real_kernel_features = self._features(self.kernel_judge, self.real.split(config.batch_size))

    @torch.no_grad()
    def __call__(self) -> dict[str, float]:
        """Write a sheet of samples with the moving average and return validation figures."""
        sheet = [self._samples(8, stream, truncation) for truncation in (1.0, 0.7) for stream in (0, 1)]
        save_sheet(sheet, self.trainer.sample_sheet)
        figures = {
            "validation_logit": self._mean_logit(self.real[:64]),
            "validation_logit_of_samples": self._mean_logit(torch.cat(sheet[:2])),
        }
        if self.judge is not None:
            found = self._features_of_samples(self.judge, self.config.frechet_images)
            figures["validation_frechet_discriminator"] = frechet_distance(self.real_features, found)
        if self.kernel_judge is not None:
            found = self._features_of_samples(self.kernel_judge, self.config.kernel_images)
            distance = kernel_distance(found, self.real_kernel_features, subsets=KERNEL_SUBSETS)
            figures["validation_kernel_distance"] = distance.mean
        return figures

    def _features_of_samples(self, judge: nn.Module, count: int) -> torch.Tensor:
        size = self.config.batch_size
        batches = (self._samples(size, 2 + i, 1.0) for i in range(math.ceil(count / size)))
        return self._features(judge, batches)[:count]

    def _samples(self, count: int, stream: int, truncation: float) -> torch.Tensor:
        generator = self.trainer.average("generator", GeneratorPass).generator
        rng = step_rng(self.config.seed, stream, SHEETS)
        z = torch.randn(count, generator.config.style_width, generator=rng).to(self.device)
        return generator(generator.broadcast(generator.mapping(z, truncation))).image

    def _mean_logit(self, images: torch.Tensor) -> float:
        discriminator = self.trainer.network("discriminator", DiscriminatorPass).discriminator
        return torch.cat([discriminator(batch.to(self.device)) for batch in images.split(16)]).mean().item()

    @torch.no_grad()
    def _features(self, judge: nn.Module, batches: Iterable[torch.Tensor]) -> torch.Tensor:
        return torch.cat([judge(batch.to(self.device).clamp(-1, 1)).cpu() for batch in batches])
