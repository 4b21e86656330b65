"""What an edit changes in the crops of a video, steady from frame to frame."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image

from sdic_plugin.pipeline.output import SDICInversion
from sdic_plugin.pipeline.sdic import SDICPipeline
from sdic_plugin.video.options import EffectOptions
from sdic_plugin.video.smoothing import reach_of, weights_at

Payload = TypeVar("Payload")


@dataclass(frozen=True)
class Crops:
    """Crops of some frames in a row.

    Attributes:
        seconds: When they are shown, [B].
        pictures: RGB, of the model's size.
        payload: Anything, handed on.
    """

    seconds: np.ndarray
    pictures: Sequence[Image.Image]
    payload: Any = None


@torch.no_grad()
def changes(
    pipe: SDICPipeline, batches: Iterable[Crops], options: EffectOptions
) -> Iterator[tuple[np.ndarray, Crops]]:
    """Render what an edit changes in the crops of one run of frames, batch by batch.

    Each crop is inverted, and rendered with the edit and without, both with the same noise; the difference is the
    change. Of the batches, only those within reach of each other are in memory.

    Args:
        pipe: On its device, with the edits.
        batches: Of one shot, in order.
        options: What to render.

    Yields:
        Differences [B, h, w, 3], float32 in [-255, 255], with their crops.
    """

    def inverted() -> Iterator[tuple[np.ndarray, np.ndarray, tuple[Crops, SDICInversion]]]:
        for crops in batches:
            inversion = pipe.invert(
                list(crops.pictures), batch_size=len(crops.pictures), refine_steps=options.refine_steps,
                check_subject=False,
            )  # fmt: skip
            latents = inversion.compensated_latents.float().cpu().numpy()
            yield crops.seconds, latents, (crops, inversion)

    def rendered() -> Iterator[tuple[np.ndarray, np.ndarray, Crops]]:
        for latents, (crops, inversion) in smooth_stream(inverted(), options.latent_smoothing):
            if options.latent_smoothing > 0:
                inversion = pipe.with_latents(inversion, torch.from_numpy(latents))
            yield crops.seconds, render_change(pipe, inversion, options), crops

    yield from smooth_stream(rendered(), options.change_smoothing)


def render_change(pipe: SDICPipeline, inversion: SDICInversion, options: EffectOptions) -> np.ndarray:
    """Render inversions with an edit and without; returns the differences [B, h, w, 3], float32 in [-255, 255]."""
    rest, edited = (
        pipe.edit(
            inversion, edits, output_type="pt", batch_size=len(inversion), compensation=options.compensation,
            mask=options.mask, feature_edit=options.feature_edit,
        ).images
        for edits in ({}, options.edits)
    )  # fmt: skip
    return ((edited - rest) * 255).float().permute(0, 2, 3, 1).contiguous().cpu().numpy()


def smooth_stream(
    batches: Iterable[tuple[np.ndarray, np.ndarray, Payload]], deviation: float
) -> Iterator[tuple[np.ndarray, Payload]]:
    """Average values over time as they come, by a Gaussian that sees as far ahead as back.

    Args:
        batches: Increasing times [B] in seconds, values [B, ...] float32, and anything that belongs to them.
        deviation: Of the Gaussian, in seconds; 0 hands the values on as they are.

    Yields:
        The averages [B, ...] of each batch, as soon as all that they are made of is there. They are the same to the
        bit whatever the batches are.
    """
    if deviation <= 0:
        for _, values, payload in batches:
            yield values, payload
        return
    reach = reach_of(deviation) + 1e-9
    times: np.ndarray = np.empty(0)
    known: list[np.ndarray] = []
    waiting: deque[tuple[np.ndarray, Payload]] = deque()

    def averages(wanted: np.ndarray) -> np.ndarray:
        return np.stack([_average(times, known, at, reach, deviation) for at in wanted])

    for seconds, values, payload in batches:
        times, known = np.concatenate([times, seconds]), [*known, *values]
        waiting.append((seconds, payload))
        while waiting and waiting[0][0][-1] + reach < times[-1]:
            wanted, kept = waiting.popleft()
            yield averages(wanted), kept
        first = int(np.searchsorted(times, waiting[0][0][0] - reach)) if waiting else 0
        times, known = times[first:], known[first:]
    while waiting:
        wanted, kept = waiting.popleft()
        yield averages(wanted), kept


def _average(times: np.ndarray, values: Sequence[np.ndarray], at: float, reach: float, deviation: float) -> np.ndarray:
    first, last = np.searchsorted(times, [at - reach, at + reach])
    weights = weights_at(times[first:last], at, deviation, degree=0).astype(np.float32)
    total = weights[0] * values[first]
    for weight, value in zip(weights[1:], values[first + 1 : last], strict=True):
        total = total + weight * value
    return total
