"""What edits should have given: on samples that stand for photos, the truth of an edit is known.

A sample of the generator is inverted as a photo is, and edited. Its own latents under the same edit give the picture
that the edit should have given, with all of the photo's detail where it belongs. Each way to edit is compared with it,
pixel by pixel and by the judge's features; and for *ghosts*, detail that stays where the photo had it though the edit
moved what it belongs to: the correlation of fine detail in the edited picture and in the unedited photo, where the
truth moved by a pixel or more. Some of it is chance: the truth's own correlation stands beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from sdic_plugin.edits.base import Edit
from sdic_plugin.errors import SDICError
from sdic_plugin.evaluation.editing import strengths_of
from sdic_plugin.evaluation.reports import TRUTH, EditTruthReport, EditTruthRow, Statistic
from sdic_plugin.evaluation.rows import LEARNING_RATES, as_picture
from sdic_plugin.evaluation.w_optimization import optimize_w
from sdic_plugin.images.blurring import blur, gaussian
from sdic_plugin.images.metrics import edit_transfer, psnr
from sdic_plugin.models.synthetic_photos import draw_samples, sample_latents
from sdic_plugin.pipeline.output import SDICInversion
from sdic_plugin.pipeline.sdic import SDICPipeline
from sdic_plugin.utils.seeds import seeded_rng

DETAIL = 1 / 48
"""Deviation of the Gaussian that is taken away from a picture to leave its fine detail, as a share of its side."""
FLOW_SIDE = 256
"""Side in pixels at which movement is measured."""
ENCODER = "encoder alone"
"""Way of editing the initial reconstruction, with which edit transfer compares."""
MOVED = 1 / 64
"""Movement from which a pixel counts as moved, as a share of the side."""

RowKey = tuple[str, str, float, float]
"""Way, edit, multiple of its default strength, and strength."""
Edits = dict[str, float]
Editor = Callable[[SDICInversion, Edits], torch.Tensor]
"""Edits an inversion: pictures [B, 3, H, W] in [0, 1], as `as_picture` gives them."""


@dataclass(frozen=True)
class TruthPlan:
    """What is measured.

    Attributes:
        count: Number of samples.
        multiples: Of each edit's default strength.
        optimization_steps: Of a W+ optimisation for each sample, edited as it is; 0 leaves it out.
        seed: Of the samples.
        batch_size: Samples at a time.
    """

    count: int = 64
    multiples: tuple[float, ...] = (1.0, 2.0, 3.0)
    optimization_steps: int = 0
    seed: int = 0
    batch_size: int = 8


def check_edits(pipe: SDICPipeline) -> list[Edit]:
    """Return the loaded edits that add to latents, of which the truth is known; SDICError if there is none."""
    edits = [edit for edit in pipe.get_list_edits().values() if edit.adds_to_latents]
    if not edits:
        raise SDICError(
            f"The truth of edits was asked for, but none of the {len(pipe.get_list_edits())} loaded ones adds to "
            "latents: load such edits, or leave it out."
        )
    return edits


def editors(pipe: SDICPipeline) -> dict[str, Editor]:
    """Return the ways in which a pipeline can edit, by what the table calls them."""
    size = pipe.image_size

    def plainly(inversion: SDICInversion, edits: Edits, rule: str) -> torch.Tensor:
        code = pipe.edited_code(inversion, edits)
        return as_picture(pipe.synthesize(code, pipe.feature_hook(inversion, rule, 1.0, transport=False)), size)

    def masked(inversion: SDICInversion, edits: Edits) -> torch.Tensor:
        images = pipe.edit(inversion, edits, mask="auto", feature_edit="continuous", output_type="pt").images
        return as_picture(images * 2 - 1, size)

    def moved(inversion: SDICInversion, edits: Edits) -> torch.Tensor:
        code = pipe.edited_code(inversion, edits)
        return as_picture(pipe.synthesize(code, pipe.feature_hook(inversion, "continuous", 1.0)), size)

    def uncompensated(inversion: SDICInversion, edits: Edits) -> torch.Tensor:
        return as_picture(pipe.synthesize(pipe.apply_edits(inversion.latents, edits)), size)

    found: dict[str, Editor] = {
        ENCODER: uncompensated,
        "plain rule": partial(plainly, rule="continuous"),
        "official rule": partial(plainly, rule="official"),
        "automatic mask": masked,
    }
    return found if pipe.transport is None else {**found, "transport": moved}


@torch.no_grad()
def measure_edit_truth(
    pipe: SDICPipeline,
    plan: TruthPlan | None = None,
    judge: nn.Module | None = None,
    progress: Callable[[int], object] | None = None,
) -> EditTruthReport:
    """Compare edits of samples with what they should have given, for every loaded edit that adds to latents.

    Args:
        pipe: With its edits.
        plan: What to measure.
        judge: Images [B, 3, H, W] in [-1, 1] to features [B, D], see `load_judge`; None leaves its distance out.
        progress: Called with the number of samples done after every batch.

    Raises:
        SDICError: If there is no such edit, or the plan makes no sense.
    """
    plan = plan or TruthPlan()
    edits = check_edits(pipe)
    if plan.count < 1 or plan.batch_size < 1 or not plan.multiples:
        raise SDICError(
            f"The truth of {len(edits)} edits was asked for, on {plan.count} samples at {len(plan.multiples)} "
            "multiples of their strengths: load edits that add to latents, and give at least one of each."
        )
    tally: dict[RowKey, list[dict[str, torch.Tensor]]] = {}
    rng, ways = seeded_rng(plan.seed), editors(pipe)
    for start in range(0, plan.count, plan.batch_size):
        count = min(plan.batch_size, plan.count - start)
        latents = sample_latents(pipe.generator, draw_samples(pipe.generator, count, rng))
        photos = as_picture(pipe.synthesize(latents), pipe.image_size)
        inversion = pipe.invert(photos, check_subject=False, batch_size=count)
        chosen = {**ways, **_optimized(pipe, inversion.image, plan.optimization_steps)}
        unedited = {**{way: editor(inversion, {}) for way, editor in chosen.items()}, TRUTH: photos}
        for edit in edits:
            for multiple in plan.multiples:
                (strength,) = strengths_of(edit.default_strength, [multiple])
                change = {edit.name: strength}
                truth = as_picture(pipe.synthesize(pipe.apply_edits(latents, change)), pipe.image_size)
                moved = movement(photos, truth)
                pictures = {**{way: editor(inversion, change) for way, editor in chosen.items()}, TRUTH: truth}
                for way, picture in pictures.items():
                    values = compare(picture, truth, photos, moved, judge)
                    plainly = (unedited[ENCODER], pictures[ENCODER])
                    values["cosine"] = edit_transfer(*plainly, unedited[way], picture).cosine.cpu()
                    tally.setdefault((way, edit.name, multiple, strength), []).append(values)
        if progress is not None:
            progress(start + count)
    pipe.maybe_free_model_hooks()
    return EditTruthReport(plan.count, plan.seed, pipe.image_size, [_row(key, parts) for key, parts in tally.items()])


def _optimized(pipe: SDICPipeline, images: torch.Tensor, steps: int) -> dict[str, Editor]:
    """Editing W+ latents that are optimised for photos [B, 3, H, W] in [-1, 1]."""
    if steps == 0:
        return {}
    rate = LEARNING_RATES["w+"]
    found = optimize_w(pipe.generator, images, steps, rate, "w+", batch_size=len(images)).latents

    def edited(inversion: SDICInversion, edits: Edits) -> torch.Tensor:
        return as_picture(pipe.synthesize(pipe.apply_edits(found, edits)), pipe.image_size)

    return {f"W+ optimised for {steps} steps": edited}


def _row(key: RowKey, parts: Sequence[dict[str, torch.Tensor]]) -> EditTruthRow:
    values = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    # Images in which nothing moved say nothing of ghosts.
    figures = {name: Statistic.of(value[value.isfinite()]) for name, value in values.items() if value.isfinite().any()}
    way, edit, multiple, strength = key
    return EditTruthRow(way, edit, multiple, strength, **figures)


def compare(
    picture: torch.Tensor,
    truth: torch.Tensor,
    photo: torch.Tensor,
    moved: torch.Tensor | None,
    judge: nn.Module | None,
) -> dict[str, torch.Tensor]:
    """Compare edited pictures with the truth, all [B, 3, H, W] in [0, 1]: one value per image, [B], by name.

    Args:
        picture: What an edit gave.
        truth: What it should have given.
        photo: What was edited.
        moved: Where the edit moves things, [B, 1, H, W], 0 or 1; None if unknown.
        judge: See `measure_edit_truth`.
    """
    values = {"psnr": psnr(picture, truth).cpu()}
    if judge is not None:
        features = [F.normalize(judge(x * 2 - 1).float(), dim=1) for x in (picture, truth)]
        values["judged"] = (1 - (features[0] * features[1]).sum(dim=1)).cpu()
    if moved is not None:
        values["ghosts"] = correlation(fine_detail(picture), fine_detail(photo), moved).cpu()
    return values


# Ghosts.


def fine_detail(images: torch.Tensor) -> torch.Tensor:
    """What a Gaussian blur of the deviation `DETAIL` takes from images [B, 3, H, W]."""
    deviation = DETAIL * images.shape[3]
    return images - blur(images, gaussian(deviation, max(1, round(3 * deviation))))


def correlation(first: torch.Tensor, second: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """Correlate images [B, C, H, W] where a map [B, 1, H, W] is 1: [B], NaN for images in which it is not anywhere."""
    products = (first * second, first.square(), second.square())
    both, one, other = ((product * where).flatten(1).sum(dim=1) for product in products)
    return both / (one * other).sqrt()


def movement(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor | None:
    """Find where pictures [B, 3, H, W] in [0, 1] moved, by their dense optical flow (DIS, Kroeger et al., 2016).

    Returns:
        [B, 1, H, W], 0 or 1; None where OpenCV is not installed (extra `[align]`).
    """
    try:
        import cv2
    except ImportError:
        return None
    grey = []
    for images in (before, after):
        large = F.interpolate(images.float().cpu(), (FLOW_SIDE, FLOW_SIDE), mode="bicubic", align_corners=False)
        grey.append((large.clamp(0, 1).mean(dim=1) * 255).round().to(torch.uint8).numpy())
    method = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    start = np.zeros((FLOW_SIDE, FLOW_SIDE, 2), np.float32)
    flows = [method.calc(first, second, start.copy()) for first, second in zip(*grey, strict=True)]
    lengths = torch.from_numpy(np.stack(flows)).norm(dim=3)[:, None] / FLOW_SIDE
    lengths = F.interpolate(lengths, before.shape[2:], mode="bilinear", align_corners=False, antialias=True)
    return (lengths >= MOVED).to(before)
