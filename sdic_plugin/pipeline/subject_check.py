"""Does a photo show what a model was trained on, placed as its training pictures were?

Two measures of what an inversion has at hand say so together, each in deviations of the model's own kind of picture:

- agreement: the cosine between the grey gradients of the photo and of its initial reconstruction, at 16 x 16 pixels.
  The generator draws its own kind whatever it is given, so in other photos its edges lie elsewhere;
- structure: the distance of the photo's histograms of oriented gradients (Dalal and Triggs, 2005) from those of the
  model's own kind, as the logarithm of a Mahalanobis distance whose covariance is a few principal components and one
  variance for all else (Moghaddam and Pentland, 1997).

Neither sees how good the picture is: dark, grey, blurred and noisy photos are hardly told from others. Error rates:
`python -m sdic_plugin.benchmarks.subject_check`.
"""

from __future__ import annotations

import base64
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from sdic_plugin.errors import SDICError

subject_logger = logging.getLogger(__name__)

SUBJECT_FORMAT = "sdic-subject-1"
AGREEMENT_SIZE, STRUCTURE_SIZE, STRUCTURE_CELLS, ORIENTATIONS = 16, 64, 8, 4
STRUCTURE_WIDTH = STRUCTURE_CELLS**2 * ORIENTATIONS
COMPONENTS, FOLDS = 8, 5
FEWEST_PICTURES = 50
"""Of which a reference is measured."""
ADVICE = "give photos of the model's subject, cropped as its training pictures were"
ADVICE_WITH_EYES = "give photos of the model's subject, cropped by their eyes (`sdic align --model`, `crop_photo`)"
"""What to do about a warning; the second for models that know where eyes lie."""
FALSE_ALARMS = 0.01
"""Share of the model's own kind that is allowed to be warned of."""
UNLIKE = "unlike the pictures this model was trained on, so that results may be poor"


def agreement(image: torch.Tensor, initial: torch.Tensor) -> torch.Tensor:
    """Cosine between the grey gradients of photos and of their initial reconstructions at 16 x 16 pixels.

    Args:
        image: [B, 3, H, W] in [-1, 1].
        initial: The same shape and range.

    Returns:
        [B], in [-1, 1]; 0 where there is nothing to see.
    """
    photo, drawn = (torch.cat(_gradients(each, AGREEMENT_SIZE), dim=1).flatten(1) for each in (image, initial))
    return (photo * drawn).sum(dim=1) / (photo.norm(dim=1) * drawn.norm(dim=1) + 1e-2)


def structure(image: torch.Tensor) -> torch.Tensor:
    """Square roots of the histograms of oriented gradients, 8 x 8 cells of 4 orientations at 64 x 64 pixels.

    Args:
        image: [B, 3, H, W] in [-1, 1].

    Returns:
        [B, 256], of unit length where there is something to see.
    """
    across, down = _gradients(image, STRUCTURE_SIZE)
    size = (across.square() + down.square()).sqrt()
    angle = (torch.atan2(down, across) / math.pi % 1) * ORIENTATIONS
    centres = torch.arange(ORIENTATIONS, device=image.device)[:, None, None] + 0.5
    offset = (angle - centres).abs()
    share = (1 - torch.minimum(offset, ORIENTATIONS - offset)).clamp(min=0)
    cells = F.avg_pool2d(size * share, STRUCTURE_SIZE // STRUCTURE_CELLS).flatten(1)
    return (cells / (cells.norm(dim=1, keepdim=True) + 0.05)).sqrt()


def _gradients(image: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Grey differences of neighbours to the right and left, and below and above, each [B, 1, size, size]."""
    grey = F.interpolate(image.float().mean(dim=1, keepdim=True), size=(size, size), mode="area")
    padded = F.pad(grey, (1, 1, 1, 1), mode="replicate")
    return padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2], padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]


@dataclass(frozen=True)
class SubjectReference:
    """What the two measures are like for a model's own kind of picture.

    Attributes:
        mean: Of `structure`, [256].
        components: Its principal components, unit rows [K, 256].
        variances: Along them, [K].
        rest: Variance along each other direction.
        agreement: Mean and deviation of `agreement`.
        distance: Mean and deviation of `structure_distance`, of pictures that mean and components do not come from.
        threshold: Score above which photos are warned of.
        pictures: Number of pictures it was measured on.
    """

    mean: torch.Tensor
    components: torch.Tensor
    variances: torch.Tensor
    rest: float
    agreement: tuple[float, float]
    distance: tuple[float, float]
    threshold: float
    pictures: int

    @classmethod
    def measure(cls, image: torch.Tensor, initial: torch.Tensor) -> SubjectReference:
        """Measure it on pictures that the model's networks were not trained on.

        The threshold is the score that `FALSE_ALARMS` of them exceed, each scored by what the others are like.

        Args:
            image: Pictures of the model's own kind, [N, 3, H, W] in [-1, 1].
            initial: Their initial reconstructions at the same size and range.

        Raises:
            SDICError: If there are too few, or they are all alike.
        """
        if len(image) < FEWEST_PICTURES:
            raise SDICError(
                f"{len(image)} pictures were given to measure what a model's own kind is like, but at least "
                f"{FEWEST_PICTURES} are needed: give more."
            )
        structures, agreements = structure(image).double(), agreement(image, initial).double()
        fold = torch.arange(len(image)) % FOLDS
        distances = torch.empty_like(agreements)
        for i in range(FOLDS):
            distances[fold == i] = structure_distance(structures[fold == i], *_fit(structures[fold != i]))
        moments = [(float(each.mean()), float(each.std())) for each in (agreements, distances)]
        if min(deviation for _, deviation in moments) < 1e-6:
            raise SDICError("The pictures are all alike, so they do not show what a model's own kind is like.")
        scores = _score(agreements, distances, *moments)
        threshold = scores.quantile(1 - FALSE_ALARMS).item()
        mean, components, variances, rest = _fit(structures)
        agreement_moments, distance_moments = moments
        return cls(
            mean, components, variances, rest, agreement_moments, distance_moments, threshold, pictures=len(image)
        )

    def scores(self, image: torch.Tensor, initial: torch.Tensor) -> torch.Tensor:
        """How unlike the model's own kind photos are; its own have about 0 and `FALSE_ALARMS` exceed the threshold.

        Args:
            image: [B, 3, H, W] in [-1, 1].
            initial: Their initial reconstructions at the same size and range.

        Returns:
            [B], on the CPU.
        """
        model = (self.mean, self.components, self.variances, self.rest)
        # Apple's GPUs have no float64.
        distances = structure_distance(structure(image).cpu().double(), *model)
        return _score(agreement(image, initial).cpu().double(), distances, self.agreement, self.distance).float()

    def to_dict(self) -> dict[str, object]:
        """Return what the pipeline's configuration holds: a few numbers, and mean and components as float16."""
        rows = torch.cat([self.mean[None], self.components]).numpy().astype("<f2")
        return {
            "format": SUBJECT_FORMAT,
            "pictures": self.pictures,
            "threshold": round(self.threshold, 4),
            "agreement": [round(value, 6) for value in self.agreement],
            "distance": [round(value, 6) for value in self.distance],
            "variances": [float(f"{value:.4g}") for value in [*self.variances.tolist(), self.rest]],
            "structure": base64.b64encode(rows.tobytes()).decode("ascii"),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> SubjectReference:
        """Read what `to_dict` wrote.

        Raises:
            SDICError: If it is something else.
        """
        try:
            return cls._read(values)
        except (TypeError, ValueError, LookupError, AttributeError, OverflowError) as error:
            raise SDICError(
                f"The configuration's 'subject' is not what sdic_plugin writes ({str(error)[:100]}): remove it from "
                "model_index.json, then photos are not checked; or measure it anew (`pipe.learn_subject`)."
            ) from error

    @classmethod
    def _read(cls, values: Mapping[str, object]) -> SubjectReference:
        if values["format"] != SUBJECT_FORMAT:
            raise ValueError(f"its format is not {SUBJECT_FORMAT!r}")
        numbers = {name: _numbers(values[name]) for name in ("agreement", "distance", "variances")}
        (threshold,), (pictures,) = _numbers([values["threshold"]]), _numbers([values["pictures"]])
        if len(numbers["agreement"]) != 2 or len(numbers["distance"]) != 2:
            raise ValueError("'agreement' and 'distance' are two numbers each")
        if min(numbers["agreement"][1], numbers["distance"][1], *numbers["variances"]) <= 0:
            raise ValueError("deviations and variances are greater than 0")
        content = base64.b64decode(str(values["structure"]), validate=True)
        count = len(numbers["variances"])
        if len(content) != 2 * count * STRUCTURE_WIDTH:
            raise ValueError(f"'structure' holds {len(content)} bytes, not {2 * count * STRUCTURE_WIDTH}")
        rows = torch.from_numpy(np.frombuffer(content, "<f2").astype(np.float64)).reshape(count, STRUCTURE_WIDTH)
        if not rows.isfinite().all():
            raise ValueError("'structure' holds values that are no finite numbers")
        return cls(
            mean=rows[0],
            components=rows[1:],
            variances=torch.tensor(numbers["variances"][:-1], dtype=torch.float64),
            rest=numbers["variances"][-1],
            agreement=(numbers["agreement"][0], numbers["agreement"][1]),
            distance=(numbers["distance"][0], numbers["distance"][1]),
            threshold=threshold,
            pictures=int(pictures),
        )


def structure_distance(
    structures: torch.Tensor, mean: torch.Tensor, components: torch.Tensor, variances: torch.Tensor, rest: float
) -> torch.Tensor:
    """Logarithm of the squared Mahalanobis distance of structures [B, 256]; the other arguments as `SubjectReference`.

    Returns:
        [B].
    """
    offset = structures - mean
    along = offset @ components.mT
    beside = (offset.square().sum(dim=1) - along.square().sum(dim=1)).clamp(min=0)
    return ((along.square() / variances).sum(dim=1) + beside / rest + 1e-9).log()


def _fit(structures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, float]:
    """Mean, components, variances and rest of structures [N, 256]."""
    mean = structures.mean(dim=0)
    variances, directions = torch.linalg.eigh(torch.cov(structures.mT))
    rest = max(variances[:-COMPONENTS].mean().item(), 1e-9)
    return mean, directions[:, -COMPONENTS:].mT, variances[-COMPONENTS:].clamp(min=rest), rest


def _score(
    agreements: torch.Tensor,
    distances: torch.Tensor,
    agreement_moments: Sequence[float],
    distance_moments: Sequence[float],
) -> torch.Tensor:
    """Add what is missing in agreement to what is too much in distance, in deviations of each."""
    (mean, deviation), (usual, spread) = agreement_moments, distance_moments
    return (mean - agreements) / deviation + (distances - usual) / spread


def _numbers(values: object) -> list[float]:
    if not isinstance(values, list | tuple):
        raise TypeError("a list of numbers is something else")
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        raise TypeError("a number is something else")
    numbers = [float(value) for value in values]
    if not all(map(math.isfinite, numbers)):
        raise ValueError("a number is not finite")
    return numbers


def find_unlike(reference: SubjectReference, image: torch.Tensor, initial: torch.Tensor) -> list[int]:
    """Which photos look unlike the model's own kind.

    Args:
        reference: What that kind is like.
        image: [B, 3, H, W] in [-1, 1].
        initial: Their initial reconstructions at the same size and range.
    """
    scores = reference.scores(image, initial).tolist()
    return [i for i, score in enumerate(scores) if score > reference.threshold]


def warning_of(found: Sequence[int], count: int, advice: str) -> str:
    """A sentence about photos that look unlike the pictures the model was trained on.

    Args:
        found: Which.
        count: Of how many.
        advice: What to do.
    """
    who = "The photo looks"
    if count > 1:
        shown = ", ".join(map(str, found[:8])) + (" …" if len(found) > 8 else "")
        who = f"Of {count} photos, {len(found)} look (those at {shown})"
    return f"{who} {UNLIKE}: {advice}."
