"""Whether edits survive the compensation: their transfer at several strengths, by every method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from sdic_plugin.evaluation.networks import EvaluationNetworks
from sdic_plugin.evaluation.rows import (
    EDIT_METHODS,
    METHODS,
    RULES,
    WITHOUT_TRANSPORT,
    MeasuredBatch,
    Method,
    OptimizedPhotos,
    as_picture,
)
from sdic_plugin.evaluation.rows import render_method as render
from sdic_plugin.images.metrics import edit_effect, edit_transfer
from sdic_plugin.pipeline.sdic import SDICPipeline

EditKey = tuple[str, float, str]
"""Edit, strength, and method."""


@dataclass
class EditTally:
    """What was measured of edits so far; lists grow by one tensor per batch.

    Attributes:
        values: By edit, strength and method: [B] by name, those of `EditReport`.
        features: By edit, strength and method: features [B, D] of the edited pictures, where they are wanted.
    """

    values: dict[EditKey, dict[str, list[torch.Tensor]]] = field(default_factory=dict)
    features: dict[EditKey, list[torch.Tensor]] = field(default_factory=dict)

    def add_values(self, key: EditKey, values: Mapping[str, torch.Tensor]) -> None:
        """Add a batch's values."""
        for name, value in values.items():
            self.values.setdefault(key, {}).setdefault(name, []).append(value.float().cpu())

    def add_features(self, key: EditKey, features: torch.Tensor) -> None:
        """Add a batch's features."""
        self.features.setdefault(key, []).append(features.float().cpu())


def transfer_values(
    initial: torch.Tensor, initial_edited: torch.Tensor, plain: torch.Tensor, edited: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Compare what an edit changes in two renderings, all [B, 3, H, W] in [0, 1]: [B] by name."""
    transfer = edit_transfer(initial, initial_edited, plain, edited)
    return {
        "initial_effect": edit_effect(initial, initial_edited),
        "compensated_effect": edit_effect(plain, edited),
        "cosine": transfer.cosine,
        "norm_ratio": transfer.norm_ratio,
    }


def strengths_of(default: float, multiples: Sequence[float]) -> list[float]:
    """Strengths at multiples of an edit's default, ascending by multiple."""
    return [round(multiple * default, 6) for multiple in sorted(set(multiples))]


def transfer_plan(pipe: SDICPipeline, multiples: Sequence[float], methods: Sequence[str]) -> list[EditKey]:
    """List what is measured: every method at the default strength, the two rules at the multiples of it.

    Where there is a transport, edits without it are measured at every strength, too.
    """
    plan, rules = [], RULES if pipe.transport is None else (*RULES, WITHOUT_TRANSPORT)
    for name, edit in pipe.get_list_edits().items():
        default = strengths_of(edit.default_strength, [1])[0]
        for strength in strengths_of(edit.default_strength, [*multiples, 1]):
            chosen = [*methods, *rules] if strength == default else rules
            plan += [(name, strength, method) for method in dict.fromkeys(chosen) if method != "initial"]
    return list(dict.fromkeys(plan))  # all multiples of a default of 0 are the same


@torch.no_grad()
def measure_edits(
    pipe: SDICPipeline, batch: MeasuredBatch, plan: Sequence[EditKey], networks: EvaluationNetworks, tally: EditTally
) -> None:
    """Measure every edit of the plan on a batch, into the tally.

    The features of edited pictures are taken for the two rules, for edits without the transport and, under the method
    "initial", for the edited initial reconstruction.
    """
    initial, plain = batch.images["initial"], dict(batch.images)
    initial_edited: dict[tuple[str, float], torch.Tensor] = {}
    for name, strength, method in plan:
        change = {name: strength}
        if method not in plain:
            plain[method] = render(pipe, batch.inversion, EDIT_METHODS[method])
        if (name, strength) not in initial_edited:
            # Only the last one is kept: the plan goes strength by strength.
            initial_edited = {(name, strength): render(pipe, batch.inversion, METHODS["initial"], change)}
            if networks.features is not None:
                features = networks.features(initial_edited[name, strength] * 2 - 1)
                tally.add_features((name, strength, "initial"), features)
        edited = render(pipe, batch.inversion, EDIT_METHODS[method], change)
        values = transfer_values(initial, initial_edited[name, strength], plain[method], edited)
        tally.add_values((name, strength, method), values)
        if networks.features is not None and method in (*RULES, WITHOUT_TRANSPORT):
            tally.add_features((name, strength, method), networks.features(edited * 2 - 1))


@torch.no_grad()
def optimized_transfer(
    pipe: SDICPipeline, prepared: torch.Tensor, optimized: OptimizedPhotos, batch_size: int
) -> dict[str, torch.Tensor]:
    """Measure edits, at their default strengths, of optimised latents beside the encoder's.

    Args:
        pipe: With its edits.
        prepared: The photos, [N, 3, H, W] in [-1, 1].
        optimized: What was found for them.
        batch_size: Photos at a time.

    Returns:
        "cosine" and "norm_ratio", [edits, N]; nothing if there are no edits.
    """
    found: dict[str, list[torch.Tensor]] = {}
    for rows in (slice(start, start + batch_size) for start in range(0, len(prepared), batch_size)):
        parts: dict[str, list[torch.Tensor]] = {}
        encoded = pipe.encode(prepared[rows])
        for name, edit in pipe.get_list_edits().items():
            change = {name: edit.default_strength}
            pictures = [
                as_picture(pipe.synthesize(pipe.apply_edits(latents, edits)), pipe.image_size)
                for latents in (encoded, optimized.latents[rows])
                for edits in ({}, change)
            ]
            values = transfer_values(*pictures)
            for key in ("cosine", "norm_ratio"):
                parts.setdefault(key, []).append(values[key].cpu())
        for key, tensors in parts.items():
            found.setdefault(key, []).append(torch.stack(tensors))
    pipe.maybe_free_model_hooks()
    return {key: torch.cat(tensors, dim=1) for key, tensors in found.items()}


def edited_method(pipe: SDICPipeline) -> Method:
    """The method that `SDICPipeline.edit` uses where nothing is said."""
    return METHODS["full" if pipe.config.feature_edit == "continuous" else "official"]
