"""Evaluating a pipeline on photos: how faithful its inversions are, and whether edits survive the compensation."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from sdic_plugin.atomic import replacing_file
from sdic_plugin.errors import SDICError
from sdic_plugin.evaluation.metrics import edit_effect, edit_transfer, psnr, ssim
from sdic_plugin.evaluation.w_optimization import match_size, optimize_w
from sdic_plugin.pipeline import SDICPipeline
from sdic_plugin.pipeline_output import SDICInversion

EDIT_VALUES = ("initial_effect", "compensated_effect", "cosine", "norm_ratio")


@dataclass
class Statistic:
    """Mean and standard deviation (of the sample; 0 for one image) of one value per image."""

    mean: float
    std: float

    @classmethod
    def of(cls, values: torch.Tensor) -> Statistic:
        """Summarise values [N]."""
        return cls(values.mean().item(), values.std().item() if len(values) > 1 else 0.0)


@dataclass
class EditReport:
    """One edit at one strength.

    Attributes:
        strength: What it was applied with.
        initial_effect: Mean |Δ| of the initial rendering, in [0, 1].
        compensated_effect: Mean |Δ| of the inversion, in [0, 1].
        cosine: Of the two changes.
        norm_ratio: Size of the inversion's change over that of the initial rendering.
    """

    strength: float
    initial_effect: Statistic
    compensated_effect: Statistic
    cosine: Statistic
    norm_ratio: Statistic


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
class EvaluationReport:
    """Figures of one pipeline on one set of photos; renderings are clamped to [0, 1], at the photos' size.

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
        edits: By name.
        baseline: The encoder beside an optimisation of w, if it was asked for.
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

    def to_dict(self) -> dict:
        """Return plain JSON values; numbers that are not finite become None."""
        return {key: _to_json(value) for key, value in dataclasses.asdict(self).items()}

    def save(self, path: str | os.PathLike) -> None:
        """Write `to_dict` to a JSON file, whole or not at all."""
        with replacing_file(path) as temporary:
            temporary.write_text(json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n", encoding="utf-8")

    def to_markdown(self) -> str:
        """Return tables for a card: mean ± standard deviation."""
        height, width = self.image_size
        lines = [
            f"`{self.model}`, {self.dtype}, {self.count} photos, compared at {width}x{height}.",
            "",
            "| | PSNR (dB) | SSIM |",
            "|---|---|---|",
            f"| initial reconstruction | {_text(self.initial_psnr, 2)} | {_text(self.initial_ssim, 3)} |",
            f"| inversion | {_text(self.inversion_psnr, 2)} | {_text(self.inversion_ssim, 3)} |",
            f"| gain | {_text(self.psnr_gain, 2)} | {_text(self.ssim_gain, 3)} |",
        ]
        if self.edits:
            lines += ["", *self._edit_lines()]
        if self.baseline is not None:
            lines += ["", *self._baseline_lines(self.baseline)]
        return "\n".join(lines) + "\n"

    @staticmethod
    def _baseline_lines(baseline: BaselineReport) -> list[str]:
        return [
            f"| first {baseline.count} photos | PSNR (dB) |",
            "|---|---|",
            f"| encoder | {_text(baseline.encoder_psnr, 2)} |",
            f"| w optimised for {baseline.steps} steps | {_text(baseline.optimization_psnr, 2)} |",
        ]

    def _edit_lines(self) -> list[str]:
        header = ["edit", "strength", "mean change, initial", "mean change, inversion", "cosine", "norm ratio"]
        rows = [header, ["---"] * len(header)]
        for name, edit in self.edits.items():
            effects = [_text(edit.initial_effect, 3), _text(edit.compensated_effect, 3)]
            transfer = [_text(edit.cosine, 3), _text(edit.norm_ratio, 2)]
            rows.append([name, f"{edit.strength:g}", *effects, *transfer])
        return [f"| {' | '.join(row)} |" for row in rows]


def _text(value: Statistic, digits: int) -> str:
    return f"{value.mean:.{digits}f} ± {value.std:.{digits}f}"


def _to_json(value: object) -> object:
    if isinstance(value, dict):
        return {key: _to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_to_json(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def evaluate(
    pipe: SDICPipeline,
    images: torch.Tensor | Sequence[object],
    batch_size: int = 8,
    w_optimization_images: int = 0,
    w_optimization_steps: int = 100,
    model: str | None = None,
    progress: Callable[[int], object] | None = None,
) -> EvaluationReport:
    """Invert photos, and apply every loaded edit at its default strength.

    Args:
        pipe: Its edits are measured in the state they are loaded in.
        images: uint8 [N, 3, H, W], or a list of whatever `SDICPipeline.invert` takes.
        batch_size: Photos at a time.
        w_optimization_images: Number of photos, from the first, on which the encoder is compared with `optimize_w`.
        w_optimization_steps: Steps of that optimisation.
        model: Name for the report; None for the pipeline's own.
        progress: Called with the number of photos done after every batch (the optimisation not included).

    Raises:
        SDICError: If there are no images, or one cannot be used.
    """
    if not len(images) or batch_size < 1:
        raise SDICError(f"{len(images)} images in batches of {batch_size} were given: at least 1 of each is needed.")
    values: dict[str, list[torch.Tensor]] = {}
    for start in range(0, len(images), batch_size):
        inversion = pipe.invert(images[start : start + batch_size], batch_size=batch_size)
        for name, found in _measure_batch(pipe, inversion).items():
            values.setdefault(name, []).append(found.float().cpu())
        if progress is not None:
            progress(min(start + batch_size, len(images)))
    per_image = {name: torch.cat(parts) for name, parts in values.items()}
    photos = images[:w_optimization_images]
    return _report(
        pipe,
        per_image,
        model or _model_name(pipe),
        _compare_with_optimization(pipe, photos, per_image, w_optimization_steps) if len(photos) else None,
    )


@torch.no_grad()
def _measure_batch(pipe: SDICPipeline, inversion: SDICInversion) -> dict[str, torch.Tensor]:
    """One value per photo, [B], by name; those of edits as (name, value)."""
    photos = inversion.image / 2 + 0.5
    initial = _to_unit(inversion.initial[:, :, pipe.output_rows], pipe)
    inverted = _rendering(pipe, inversion)
    values = {
        "initial_psnr": psnr(initial, photos),
        "inversion_psnr": psnr(inverted, photos),
        "initial_ssim": ssim(initial, photos),
        "inversion_ssim": ssim(inverted, photos),
    }
    values["psnr_gain"] = values["inversion_psnr"] - values["initial_psnr"]
    values["ssim_gain"] = values["inversion_ssim"] - values["initial_ssim"]
    for name, edit in pipe.get_list_edits().items():
        change = {name: edit.default_strength}
        initial_edited = _to_unit(pipe.synthesize(pipe.apply_edits(inversion.latents, change)), pipe)
        edited = _rendering(pipe, inversion, change)
        transfer = edit_transfer(initial, initial_edited, inverted, edited)
        values[f"{name}/initial_effect"] = edit_effect(initial, initial_edited)
        values[f"{name}/compensated_effect"] = edit_effect(inverted, edited)
        values[f"{name}/cosine"] = transfer.cosine
        values[f"{name}/norm_ratio"] = transfer.norm_ratio
    return values


def _rendering(pipe: SDICPipeline, inversion: SDICInversion, edits: dict[str, float] | None = None) -> torch.Tensor:
    """What `edit` gives, [B, 3, H, W] in [0, 1] at the photos' size."""
    images = pipe.edit(inversion, edits=edits, output_type="pt", batch_size=len(inversion)).images
    return match_size(images, pipe.image_size)


def _to_unit(image: torch.Tensor, pipe: SDICPipeline) -> torch.Tensor:
    """Bring renderings [B, 3, h, w], unclamped, to [0, 1] at the photos' size."""
    return match_size((image / 2 + 0.5).clamp(0, 1), pipe.image_size)


def _compare_with_optimization(
    pipe: SDICPipeline, photos: torch.Tensor | Sequence[object], per_image: dict[str, torch.Tensor], steps: int
) -> BaselineReport:
    optimized = optimize_w(pipe.generator, pipe.prepare_image(photos), steps=steps)
    encoder = per_image["initial_psnr"][: len(optimized.psnr)]
    return BaselineReport(len(optimized.psnr), steps, Statistic.of(encoder), Statistic.of(optimized.psnr))


def _report(
    pipe: SDICPipeline, per_image: dict[str, torch.Tensor], model: str, baseline: BaselineReport | None
) -> EvaluationReport:
    statistics = {name: Statistic.of(values) for name, values in per_image.items()}
    edits = {}
    for name, edit in pipe.get_list_edits().items():
        own = {key: statistics.pop(f"{name}/{key}") for key in EDIT_VALUES}
        edits[name] = EditReport(strength=edit.default_strength, **own)
    return EvaluationReport(
        model=model,
        dtype=str(pipe.generator.dtype).removeprefix("torch."),
        count=len(per_image["initial_psnr"]),
        image_size=pipe.image_size,
        edits=edits,
        baseline=baseline,
        **statistics,
    )


def _model_name(pipe: SDICPipeline) -> str:
    """The folder or Hub name it was loaded from, without the folder's place."""
    return Path(str(pipe.config.get("_name_or_path") or "unnamed")).name
