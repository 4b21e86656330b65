"""Finding directions in a generator's latent space from samples of its own; no data needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from sdic_plugin.errors import EditError, shorten
from sdic_plugin.models import StyleGAN2Generator
from sdic_plugin.utils.seeds import seeded_rng


@dataclass
class LatentSamples:
    """Samples of a generator.

    Attributes:
        w: [N, D].
        scores: One value per sample and measure, by name, each [N].
    """

    w: torch.Tensor
    scores: dict[str, torch.Tensor]


Measure = Callable[[torch.Tensor], torch.Tensor]
"""Maps images [B, 3, R, R] in [0, 1] to one score each, [B]."""

LUMA = (0.299, 0.587, 0.114)
MOST_SAMPLES = 10_000_000


def warmth(images: torch.Tensor) -> torch.Tensor:
    """How much redder than blue an image is on average. Images [B, 3, R, R] in [0, 1] to [B]."""
    return images[:, 0].mean(dim=(1, 2)) - images[:, 2].mean(dim=(1, 2))


def luma(images: torch.Tensor) -> torch.Tensor:
    """Luma [B, R, R] of images [B, 3, R, R]."""
    return torch.einsum("bchw,c->bhw", images, images.new_tensor(LUMA))


def brightness(images: torch.Tensor) -> torch.Tensor:
    """Mean luma. Images [B, 3, R, R] in [0, 1] to [B]."""
    return luma(images).mean(dim=(1, 2))


def contrast(images: torch.Tensor) -> torch.Tensor:
    """Standard deviation of luma. Images [B, 3, R, R] in [0, 1] to [B]."""
    return luma(images).flatten(1).std(dim=1)


def background(images: torch.Tensor) -> torch.Tensor:
    """Mean luma of the four corners, each a fifth of the height and width: what lies around an aligned face.

    Images [B, 3, R, R] in [0, 1] to [B].
    """
    light = luma(images)
    height, width = light.shape[1] // 5, light.shape[2] // 5
    rows = torch.cat([light[:, :height], light[:, -height:]], dim=1)
    return torch.cat([rows[..., :width], rows[..., -width:]], dim=2).mean(dim=(1, 2))


MEASURES: dict[str, Measure] = {
    "warmth": warmth,
    "brightness": brightness,
    "contrast": contrast,
    "background": background,
}
"""Measures on pixels, for directions that need no labels."""


@torch.no_grad()
def sample_latents(
    generator: StyleGAN2Generator, measures: dict[str, Measure], count: int = 4000, seed: int = 0, batch_size: int = 32
) -> LatentSamples:
    """Draw w, render it and measure the images.

    Args:
        generator: The generator; its noise stays fixed.
        measures: What to measure, by name.
        count: Number of samples.
        seed: Seed of the z that w is mapped from.
        batch_size: Images per pass.

    Raises:
        EditError: If the number of samples makes no sense.
    """
    if not 1 <= count <= MOST_SAMPLES:
        raise EditError(f"{shorten(count)} samples were asked for: give a number from 1 to {MOST_SAMPLES}.")
    z = torch.randn(count, generator.config.style_width, generator=seeded_rng(seed))
    w = torch.cat([generator.mapping(part) for part in z.to(generator.device).split(batch_size)])
    return LatentSamples(w, measure_latents(generator, generator.broadcast(w), measures, batch_size))


@torch.no_grad()
def measure_latents(
    generator: StyleGAN2Generator, latents: torch.Tensor, measures: Mapping[str, Measure], batch_size: int = 32
) -> dict[str, torch.Tensor]:
    """Render W+ latents [N, num_styles, D] and measure the images: by name, [N]."""
    scores: dict[str, list[torch.Tensor]] = {name: [] for name in measures}
    for part in latents.split(batch_size) if measures else []:
        images = (generator(part).image / 2 + 0.5).clamp(0, 1)
        for name, measure in measures.items():
            scores[name].append(measure(images))
    return {name: torch.cat(parts) for name, parts in scores.items()}


def score_direction(samples: LatentSamples, name: str, apart_from: Sequence[str] = ()) -> torch.Tensor:
    """Direction in w along which a score rises by one standard deviation.

    It is the mean shift of w among samples whose score lies one standard deviation up, Cov(w, s) / std(s), so it stays
    within the distribution of w. The part of the score that a linear fit on the scores `apart_from` explains is
    removed first, so that the direction leaves those alone as far as samples tell.

    Args:
        samples: Samples with their scores.
        name: The score to raise.
        apart_from: Scores to leave alone.

    Returns:
        [D].
    """
    w = samples.w - samples.w.mean(dim=0)
    score = samples.scores[name] - samples.scores[name].mean()
    if apart_from:
        others = torch.stack([samples.scores[other] for other in apart_from], dim=1)
        others = others - others.mean(dim=0)
        score = score - others @ torch.linalg.lstsq(others, score[:, None]).solution[:, 0]
    return (w * score[:, None]).mean(dim=0) / score.std()


def principal_directions(samples: LatentSamples, count: int = 20) -> torch.Tensor:
    """GANSpace's directions: principal components of w, each one standard deviation long, [count, D]."""
    w = samples.w - samples.w.mean(dim=0)
    _, values, vectors = torch.linalg.svd(w, full_matrices=False)
    return vectors[:count] * (values[:count, None] / len(w) ** 0.5)
