"""What an evaluation found, as data: plain JSON, and tables (see `markdown`)."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from dataclasses import dataclass, field
from typing import Any

import torch

from sdic_plugin.utils.files import replacing_file


@dataclass
class Statistic:
    """Mean and standard deviation (of the sample; 0 for one image) of one value per image."""

    mean: float
    std: float

    @classmethod
    def of(cls, values: torch.Tensor) -> Statistic:
        """Summarise values [N]."""
        return cls(values.mean().item(), values.std().item() if len(values) > 1 else 0.0)

    def half_width(self, count: int) -> float:
        """Half of the 95 % confidence interval of the mean of `count` values, by the normal distribution."""
        return 1.96 * self.std / math.sqrt(count)


@dataclass
class EditReport:
    """One edit at one strength.

    Attributes:
        strength: What it was applied with.
        initial_effect: Mean |Δ| of the initial rendering, in [0, 1].
        compensated_effect: Mean |Δ| of the inversion, in [0, 1].
        cosine: Of the two changes.
        norm_ratio: Size of the inversion's change over that of the initial rendering.
        identity: Cosine of face embeddings of the photo and the edited inversion; None if not measured.
    """

    strength: float
    initial_effect: Statistic
    compensated_effect: Statistic
    cosine: Statistic
    norm_ratio: Statistic
    identity: Statistic | None = field(default=None, kw_only=True)


@dataclass
class TransferReport(EditReport):
    """One edit at one strength by one method; see `EditReport`.

    Attributes:
        edit: Its name.
        method: Key of a row ("full", "official" …), or "without_transport".
        initial_frechet: Fréchet distance of the edited initial reconstructions to the photos; None if not measured.
        frechet: The same of the edited inversions.
        initial_kernel: Kernel distance of the edited initial reconstructions to other photos (`unpaired_distance`).
        kernel: The same of the edited inversions.
    """

    edit: str
    method: str
    initial_frechet: float | None = None
    frechet: float | None = None
    initial_kernel: float | None = None
    kernel: float | None = None


@dataclass
class RowReport:
    """One way to reconstruct the photos.

    Attributes:
        name: Its key.
        label: For people.
        count: Number of photos, the first ones.
        seconds_per_image: Median over the batches.
        mse: Mean squared error of images in [0, 1].
        psnr: In dB.
        psnr_gain: Over the initial reconstructions of the same photos, in dB.
        ssim: See `metrics.ssim`.
        ms_ssim: See `metrics.ms_ssim`.
        lpips: Perceptual distance; None without its network.
        identity: Cosine of face embeddings; None without its network.
        frechet: Fréchet distance of the reconstructions to the photos; None without its network, or where the row has
            fewer photos than the evaluation.
        kernel: Kernel distance of the reconstructions to other photos (`unpaired_distance`); likewise.
        cosine: Edit transfer, mean over the edits at their default strengths; None if not measured.
        norm_ratio: The same of the sizes.
    """

    name: str
    label: str
    count: int
    seconds_per_image: float
    mse: Statistic
    psnr: Statistic
    psnr_gain: Statistic
    ssim: Statistic
    ms_ssim: Statistic
    lpips: Statistic | None = None
    identity: Statistic | None = None
    frechet: float | None = None
    kernel: float | None = None
    cosine: Statistic | None = None
    norm_ratio: Statistic | None = None


@dataclass
class BaselineReport:
    """The encoder beside an optimisation of w, on the same images; PSNR in dB.

    Attributes:
        count: Number of images, the first ones.
        steps: Steps of the optimisation.
        encoder_psnr: Initial reconstruction.
        optimization_psnr: What `optimize_w` reached.
    """

    count: int
    steps: int
    encoder_psnr: Statistic
    optimization_psnr: Statistic


@dataclass
class DistanceReport:
    """How far one set of images is from the photos.

    Attributes:
        name: Of the set, such as a generator's.
        count: Number of its images.
        kernel: Kernel distance: mean and standard deviation over subsets, see `kernel_distance`.
        frechet: Fréchet distance; it compares only with figures of equal counts.
        nearest: Distance (1 − cosine of the features) of each image to the nearest reference image; None if not
            measured.
        seconds: Drawing and judging the set; None if it was not drawn.
    """

    name: str
    count: int
    kernel: Statistic
    frechet: float
    nearest: Statistic | None = None
    seconds: float | None = None


@dataclass
class SamplesReport:
    """Samples of generators beside real photos.

    Attributes:
        network: What the features are of which the distances are taken.
        photos: Number of photos.
        truncation: Of the samples.
        seed: Of the first sample.
        rows: One per generator.
        floor: The same of reference images that are as real as the photos; None without a reference.
        photos_nearest: `DistanceReport.nearest` of the photos; None if not measured.
        revision: What was compared: versions, model, hashes of weights and data.
    """

    network: str
    photos: int
    truncation: float
    seed: int
    rows: list[DistanceReport] = field(default_factory=list)
    floor: DistanceReport | None = None
    photos_nearest: Statistic | None = None
    revision: dict[str, object] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; numbers that are not finite become None."""
        return _plain(self)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write `to_dict` to a JSON file, whole or not at all."""
        _write_json(self.to_dict(), path)


TRUTH = "the truth itself"
"""Way of the rows that say what of a figure is chance."""


@dataclass
class EditTruthRow:
    """One edit at one strength, made in one way, beside what it should have given.

    Attributes:
        way: How it was made, for people; `TRUTH` is what it is compared with.
        edit: Its name.
        multiple: Of its default strength.
        strength: What it was applied with.
        psnr: To the truth, in dB; None of the truth itself.
        judged: 1 − cosine of the judge's features of both; None without a judge.
        ghosts: Correlation of fine detail with the unedited photo's, where the edit moved things; None without OpenCV,
            or where it moved nothing.
        cosine: Edit transfer, see `sdic_plugin.images.metrics.edit_transfer`: of what the edit changed here and in the
            initial reconstruction.
    """

    way: str
    edit: str
    multiple: float
    strength: float
    psnr: Statistic | None = None
    judged: Statistic | None = None
    ghosts: Statistic | None = None
    cosine: Statistic | None = None


@dataclass
class EditTruthReport:
    """Edits of samples that stand for photos, beside what they should have given.

    Attributes:
        count: Number of samples.
        seed: Of the samples.
        image_size: Height and width at which everything is compared.
        rows: By way, edit and strength.
    """

    count: int
    seed: int
    image_size: tuple[int, int]
    rows: list[EditTruthRow] = field(default_factory=list)


@dataclass
class GroupReport:
    """Photos of one label.

    Attributes:
        column: What the label says, such as "age".
        label: Its value.
        count: Number of photos.
        figures: By name: "psnr", "psnr_gain" and "ssim" of the inversion, "identity" where there is its network,
            "cosine" and "edited_identity" of the edits at their default strengths, per photo their mean.
    """

    column: str
    label: str
    count: int
    figures: dict[str, Statistic] = field(default_factory=dict)


@dataclass
class EvaluationReport:
    """Figures of one pipeline on one set of photos.

    Everything compared is clamped to [0, 1], averaged over areas to the photos' size, and rounded to 8 bits.

    Attributes:
        model: Name of the model.
        dtype: Of the generator.
        count: Number of photos.
        image_size: Height and width at which everything is compared.
        initial_psnr: Initial reconstruction against the photo, in dB.
        inversion_psnr: Inversion against the photo, in dB.
        psnr_gain: Their difference.
        initial_ssim: Initial reconstruction against the photo.
        inversion_ssim: Inversion against the photo.
        ssim_gain: Their difference.
        edits: By name, at the default strength, by the pipeline's own rule.
        baseline: The encoder beside an optimisation of w, if it was asked for.
        rows: Ways to reconstruct the photos; the initial reconstruction and the full method at least.
        transfer: Edits by strength and method, if the plan asks for them.
        networks: What the figures of optional networks are, by metric ("lpips", "identity", "frechet").
        settings: What the evaluation ran with.
        revision: What was evaluated: versions, model, hashes of weights and data.
        photos_kernel: Kernel distance of the photos to each other (`unpaired_distance`), the floor of the others; None
            if not measured.
        photos_identity: Cosine of face embeddings of each photo and the next one of its batch, mostly of different
            people: what is no likeness at all; None if not measured.
        samples: Random samples of the generator beside the photos, if they were asked for.
        edit_truth: Edits beside what they should have given, if that was asked for.
        groups: Photos by their labels, if they have some.
    """

    model: str
    dtype: str
    count: int
    image_size: tuple[int, int]
    initial_psnr: Statistic
    inversion_psnr: Statistic
    psnr_gain: Statistic
    initial_ssim: Statistic
    inversion_ssim: Statistic
    ssim_gain: Statistic
    edits: dict[str, EditReport] = field(default_factory=dict)
    baseline: BaselineReport | None = None
    rows: list[RowReport] = field(default_factory=list)
    transfer: list[TransferReport] = field(default_factory=list)
    networks: dict[str, str] = field(default_factory=dict)
    settings: dict[str, object] = field(default_factory=dict)
    revision: dict[str, object] = field(default_factory=dict)
    photos_kernel: float | None = None
    photos_identity: Statistic | None = None
    samples: SamplesReport | None = None
    edit_truth: EditTruthReport | None = None
    groups: list[GroupReport] = field(default_factory=list)

    def row(self, name: str) -> RowReport:
        """Return a row by its key; KeyError if it was not measured."""
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(name)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; numbers that are not finite become None."""
        return _plain(self)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write `to_dict` to a JSON file, whole or not at all."""
        _write_json(self.to_dict(), path)


def _plain(report: SamplesReport | EvaluationReport) -> dict[str, Any]:
    return {key: _to_json(value) for key, value in dataclasses.asdict(report).items()}


def _write_json(content: dict[str, Any], path: str | os.PathLike[str]) -> None:
    with replacing_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _to_json(value: object) -> object:
    if isinstance(value, dict):
        return {key: _to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_to_json(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
