"""The edits of the bundled model `cats64`: which there are, how they are found, and how strong they are.

Coat edits raise one measure on pixels while the others stay put. Shape edits are steered by warps of an aligned cat's
face; they act on the styles up to the first of 16 x 16, so before the feature hook, where a move of shapes carries
over to the compensated features.

Run: python -m hub_cards.cats64.edits --words SET
gives the edits of a set that was found earlier the words below; its directions stay as they are, bit for bit.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
from pathlib import Path
from typing import Any

import torch

from hub_cards.cats64.measures import MEASURES
from hub_cards.edit_plans import EditPlan
from sdic_plugin.edits import DirectionEdit, read_edits, write_edits
from sdic_plugin.edits.discovery import LatentSamples, sample_latents, score_direction
from sdic_plugin.edits.steering import SteeringConfig, Warp, magnify, shift, steer, stretch
from sdic_plugin.models import StyleGAN2Generator

EYES = ((0.284, 0.406), (0.727, 0.406))
"""Eye centres of an aligned cat, fractions of width and height."""

# Without the second style of 16 x 16, compensated features follow eyes better (cosine 0.909, with it 0.904), and the
# other shapes worse by 0.004 at most.
STEERING = SteeringConfig(layers=(0, 4), steps=90, smallest_strength=0.2)


def turn(positions: torch.Tensor) -> torch.Tensor:
    """Turn the face to the right while alignment holds the eyes: the nose goes right, the outlines go left."""
    nose = shift((0.5, 0.74), (0.17, 0.2), (0.16, 0.0))
    left, right = (shift((x, 0.6), (0.12, 0.3), (-0.08, 0.0)) for x in (0.0, 1.0))
    return nose(positions) + left(positions) + right(positions)


# The measures "contrast" and "stripes" give no edit. The first mixes white chins and blazes, which have edits of their
# own; the second sharpens the detail that compensation restores, so it acts on the inversion otherwise than on the
# initial rendering.
APART = ("warmth", "brightness", "muzzle", "background", "stripes", "blaze")

COAT_EDITS: list[EditPlan[str]] = [
    EditPlan("warmth", "warmth", 1.0, "Ginger (positive) or grey (negative) coat", ("grey", "ginger")),
    EditPlan("lightness", "brightness", 1.0, "Light (positive) or dark (negative) coat", ("dark", "light")),
    EditPlan(
        "white_chin",
        "muzzle",
        1.2,
        "White chin under a dark forehead (positive), or an even coat (negative)",
        ("even coat", "white chin"),
    ),
    EditPlan(
        "blaze",
        "blaze",
        1.2,
        "White blaze between dark sides (positive), or an even coat (negative)",
        ("even coat", "white blaze"),
    ),
    EditPlan("background", "background", 1.5, "Light (positive) or dark (negative) surroundings", ("dark", "light")),
]

SHAPE_EDITS: list[EditPlan[Warp]] = [
    EditPlan("turn", turn, 2.2, "Face turned to the picture's right (positive) or left (negative)",
              ("left", "right"), reach=(-1.3, 1.3)),
    EditPlan("eye_size", magnify(EYES, radius=0.18, amount=0.8), 1.9, "Large (positive) or small (negative) eyes",
              ("small", "large"), reach=(-1.0, 1.6)),
    EditPlan("face_length", stretch((0.5, 0.406), (0.0, 0.45)), 1.2,
              "Long face with a low nose (positive), or a short, kitten-like one (negative)", ("short", "long"),
              reach=(-1.5, 1.6)),
    EditPlan("face_width", stretch((0.5, 0.5), (0.4, 0.0)), 1.25, "Wide (positive) or narrow (negative) face",
              ("narrow", "wide")),
]  # fmt: skip


def find_edits(generator: StyleGAN2Generator, samples: int = 4000) -> list[DirectionEdit]:
    """Find the bundled directions from samples of the generator alone; the same for the same generator.

    Args:
        generator: The generator, in float32.
        samples: Number of samples measured.

    Returns:
        Coat edits (all styles alike), then shape edits (their layers, one row per style).
    """
    found = sample_latents(generator, {name: MEASURES[name] for name in APART}, samples)
    steered = steer(generator, {plan.name: plan.cause for plan in SHAPE_EDITS}, found.w, STEERING)
    coats = [plan.edit(coat_direction(found, plan.cause), generator.num_styles) for plan in COAT_EDITS]
    shapes = [dataclasses.replace(plan, layers=STEERING.layers) for plan in SHAPE_EDITS]
    return coats + [plan.edit(steered[plan.name], generator.num_styles) for plan in shapes]


def coat_direction(found: LatentSamples, measure: str) -> torch.Tensor:
    """Direction [D] along which a measure rises, the others of `APART` held."""
    return score_direction(found, measure, apart_from=[name for name in APART if name != measure])


def reword(path: str | os.PathLike[str]) -> None:
    """Give the edits of a set, by name, the descriptions and ends that this module has for them.

    Args:
        path: A file that `write_edits` wrote; it is replaced.
    """
    plans: list[EditPlan[Any]] = [*COAT_EDITS, *SHAPE_EDITS]
    words = {plan.name: (plan.description, plan.ends) for plan in plans}
    edits, about = read_edits(path)
    for i, edit in enumerate(edits):
        if edit.name in words:
            description, ends = words[edit.name]
            edits[i] = dataclasses.replace(edit, description=description, ends=ends)
    write_edits(edits, path, **about)


def main() -> None:
    """Parse the command line and reword."""
    parser = argparse.ArgumentParser(description="Give the edits of cats64 the words of this version.")
    parser.add_argument("--words", type=Path, required=True, metavar="SET", help="the set, *.safetensors")
    reword(parser.parse_args().words)


if __name__ == "__main__":
    main()
