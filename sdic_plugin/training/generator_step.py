"""One step of the generator's training, what it learns from, and what it reports."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from sdic_plugin.evaluation.frechet import frechet_distance
from sdic_plugin.evaluation.kernel import kernel_distance
from sdic_plugin.evaluation.networks import DiscriminatorFeatures, EfficientNetFeatures
from sdic_plugin.images.sheets import save_sheet
from sdic_plugin.models import StyleGAN2Discriminator, StyleGAN2Generator
from sdic_plugin.models.layers import full_precision
from sdic_plugin.training.adversaries import FAKE_FOR_GENERATOR, Adversary, Drawn, device_rng
from sdic_plugin.training.capture import Outputs
from sdic_plugin.training.data import step_rng, to_range
from sdic_plugin.training.losses import total_of
from sdic_plugin.training.trainer import Trainer

if TYPE_CHECKING:
    from sdic_plugin.training.generator_config import GeneratorTrainingConfig

# Random streams beside the trainer's own and those of `adversaries`: of every step, and of the run. No z may hold the
# numbers that initialised the mapping network (torch's for the same seed): aligned with its weights, it would make a
# picture far from typical.
LATENTS, NOISE, PATH_DIRECTIONS = 10, 11, 15
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


# The step and its report.


class GeneratorStep:
    """One step of all networks: the images that the generator learns from are its adversaries' fakes."""

    def __init__(self, config: GeneratorTrainingConfig, trainer: Trainer, adversaries: Sequence[Adversary]) -> None:
        self.config, self.trainer, self.adversaries = config, trainer, adversaries
        self.generator = trainer.network("generator", GeneratorPass).generator
        self.device = trainer.accelerator.device
        frozen = [network for adversary in adversaries for network in adversary.frozen]
        self.objective = trainer.objective(self._loss, "generator", frozen=frozen)
        for name in ("path_length", "path_length_mean"):
            trainer.state.setdefault(name, 0.0)

    def __call__(self, real: torch.Tensor) -> dict[str, float]:
        """Learn from real images [B, 3, R, R] in [-1, 1]; returns figures to log."""
        fake, figures = self._train_generator(len(real))
        for adversary in self.adversaries:
            figures |= adversary.train(real, fake)
        return figures

    def _train_generator(self, count: int) -> tuple[torch.Tensor, dict[str, float]]:
        trainer, config = self.trainer, self.config
        directions = self._path_directions(count)
        mean_length = torch.tensor(trainer.state["path_length_mean"], device=self.device)
        drawn = [adversary.draw(count, FAKE_FOR_GENERATOR) for adversary in self.adversaries]
        result = self.objective(*self._draw_inputs(count), directions, mean_length, drawn)
        self.generator.w_avg.lerp_(result["w"].mean(dim=0), 1 - W_AVG_DECAY)
        figures = {"loss": result["loss"].item()}
        for adversary in self.adversaries:
            figures |= {name: result[name].item() for name in adversary.generator_figures}
        if directions is not None:
            trainer.state["path_length"] = trainer.accelerator.reduce(result["path_length"], "mean").item()
            trainer.state["path_length_mean"] += (1 - PATH_LENGTH_DECAY) * (
                trainer.state["path_length"] - trainer.state["path_length_mean"]
            )
        if config.path_length_weight > 0:
            figures["path_length"] = trainer.state["path_length"]
        return result["fake"], figures

    def _loss(
        self,
        z: torch.Tensor,
        crossover: torch.Tensor,
        noise: list[torch.Tensor],
        directions: torch.Tensor | None,
        mean_length: torch.Tensor,
        drawn: Sequence[Drawn],
    ) -> tuple[torch.Tensor, Outputs]:
        """Loss of the generator; inputs as `GeneratorPass` takes them, and of each adversary what it drew."""
        config = self.config
        fake, w, lengths = self.trainer.network("generator", GeneratorPass)(z, crossover, noise, directions)
        terms, outputs = [], {"fake": fake, "w": w}
        for adversary, mine in zip(self.adversaries, drawn, strict=True):
            term, figures = adversary.generator_loss(fake, mine)
            terms.append(term if adversary.weight == 1 else adversary.weight * term)
            outputs |= figures
        if lengths is not None:
            # The mean to keep the lengths at has this step's in it.
            mean = torch.lerp(mean_length, lengths.detach().mean(), 1 - PATH_LENGTH_DECAY)
            terms.append(config.path_length_weight * config.path_length_every * (lengths - mean).square().mean())
            outputs["path_length"] = lengths.mean()
        return total_of(terms), outputs

    # Random inputs.

    def _draw_inputs(self, count: int) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
        """Draw z, crossover and noise as `GeneratorPass` takes them, for `count` images."""
        rng, device, num_styles = device_rng(self.trainer, LATENTS), self.device, self.generator.num_styles
        z = torch.randn(2, count, self.generator.config.style_width, generator=rng, device=device)
        mixed = torch.rand(count, generator=rng, device=device) < self.config.mixing_probability
        crossover = torch.randint(1, num_styles, (count,), generator=rng, device=device)
        rng = device_rng(self.trainer, NOISE)
        layers = [layer for block in self.generator.blocks for layer in block.styled_convs()]
        noise = [torch.randn(count, *layer.noise.shape[1:], generator=rng, device=device) for layer in layers]
        return z, crossover.masked_fill(~mixed, num_styles), noise

    def _path_directions(self, count: int) -> torch.Tensor | None:
        config, resolution = self.config, self.generator.config.resolution
        if config.path_length_weight == 0 or self.trainer.step % config.path_length_every:
            return None
        count = max(1, math.ceil(count * config.path_length_share))
        rng = device_rng(self.trainer, PATH_DIRECTIONS)
        return torch.randn(count, 3, resolution, resolution, generator=rng, device=self.device)


class GeneratorReport:
    """Sample sheet and figures of the averaged generator, always of the same z.

    Its logits show how far a discriminator has memorised the training images: where it has, those of validation
    images are nearer to the samples' than the training images' are (`logit_real` of the steps).
    """

    def __init__(
        self,
        config: GeneratorTrainingConfig,
        trainer: Trainer,
        adversaries: Sequence[Adversary],
        validation: torch.Tensor,
        judge: StyleGAN2Discriminator | None,
        kernel_judge: EfficientNetFeatures | None = None,
    ) -> None:
        self.config, self.trainer, self.adversaries = config, trainer, adversaries
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
        figures = {}
        for adversary in self.adversaries:
            name = f"validation_{adversary.prefix}logit"
            figures[name] = self._mean_logit(adversary, self.real[:64])
            figures[f"{name}_of_samples"] = self._mean_logit(adversary, torch.cat(sheet[:2]))
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

    def _mean_logit(self, adversary: Adversary, images: torch.Tensor) -> float:
        batches = images.split(16)
        return torch.cat([adversary.logits(batch.to(self.device)) for batch in batches]).mean().item()

    @torch.no_grad()
    def _features(self, judge: nn.Module, batches: Iterable[torch.Tensor]) -> torch.Tensor:
        return torch.cat([judge(batch.to(self.device).clamp(-1, 1)).cpu() for batch in batches])
