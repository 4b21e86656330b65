"""The edits of the bundled model `faces128`: which there are, how they are found, and how strong they are.

Most raise one score of random pictures while the others stay put: measures on pixels and landmarks, and the age that a
probe learnt from the labels of the training faces. The gender that another probe sees is among what stays put; of the
labels' groups nothing is used. Shapes without a measure are steered by warps of an aligned face.

Run, in the repository: python -m hub_cards.faces128.edits --model MODEL --data DIR --out FILE [--sheet PNG]

DIR holds faces128_train.zip. Prints how well each score can be told from latents, and a table of what each edit does
to every score.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from hub_cards.edit_plans import EditPlan
from hub_cards.faces128.measures import MEASURES
from sdic_plugin.checkpoints.components import find_model, load_component
from sdic_plugin.edits import DirectionEdit, write_edits
from sdic_plugin.edits.attributes import FitConfig, FitReport, fit_attributes
from sdic_plugin.edits.discovery import Measure, measure_latents, sample_latents
from sdic_plugin.edits.probes import Probe, measures_of_labels
from sdic_plugin.edits.sheets import contact_sheet
from sdic_plugin.edits.steering import SteeringConfig, Warp, magnify, steer, stretch
from sdic_plugin.models import StyleGAN2Generator
from sdic_plugin.utils.seeds import seeded_rng

EYES = ((0.309, 0.308), (0.69, 0.308))
"""Eye centres of an aligned face, fractions of width and height."""

LABELS = ("age", "gender=Female")
"""Columns of the training faces' labels that probes learn."""

STEERING = SteeringConfig(layers=(0, 5), steps=90, smallest_strength=0.2)
SHAPES, PAINT = (0, 7), (5, None)
"""Styles of coarse maps, which place things; and those of fine ones, which colour them."""


# How many units an edit is at strength 1, its default.
SCORE_EDITS: list[EditPlan[str]] = [
    EditPlan("smile", "face_smile", 2.0, "Smiling (positive) or serious (negative)", ("serious", "smiling"),
              SHAPES, ("teeth", "face_length")),
    EditPlan("age", "age", 2.0, "Older (positive) or younger (negative)", ("younger", "older"), None, ("fringe",)),
    EditPlan("turn", "face_turn", 2.0, "Head turned to the picture's right (positive) or left (negative)",
              ("left", "right"), SHAPES, ("side_light",)),
    EditPlan("nod", "face_nod", 2.0, "Head lowered (positive) or raised (negative)", ("raised", "lowered"), SHAPES,
              ("fringe", "beard")),
    EditPlan("glasses", "glasses", 2.0, "Glasses (positive), or none (negative)", ("none", "glasses"), SHAPES,
              ("open_eyes",)),
    EditPlan("eyes", "open_eyes", 2.0, "Open (positive) or narrowed (negative) eyes", ("narrowed", "open"), SHAPES),
    EditPlan("fringe", "fringe", 2.0, "Hair low on the forehead (positive), or a bare forehead (negative)",
              ("bare forehead", "low hair")),
    EditPlan("beard", "beard", 2.0, "Beard or a shaded chin (positive), or a light one (negative)",
              ("light chin", "beard"), None, ("Female",)),
    EditPlan("side_light", "side_light", 2.0, "Light from the picture's right (positive) or left (negative)",
              ("from the left", "from the right"), PAINT),
    EditPlan("brightness", "brightness", 1.5, "Brightly (positive) or dimly (negative) lit", ("dim", "bright"), PAINT,
              ("background",)),
    EditPlan("warmth", "warmth", 1.5, "Warm (positive) or cool (negative) colours", ("cool", "warm"), PAINT),
    EditPlan("background", "background", 2.0, "Light (positive) or dark (negative) surroundings", ("dark", "light")),
]  # fmt: skip

WARP_EDITS: list[EditPlan[Warp]] = [
    EditPlan("eye_size", magnify(EYES, radius=0.13, amount=0.6), 1.5, "Large (positive) or small (negative) eyes",
             ("small", "large")),
    EditPlan("face_width", stretch((0.5, 0.45), (0.3, 0.0)), 1.25, "Wide (positive) or narrow (negative) face",
             ("narrow", "wide")),
]  # fmt: skip


def measures_of_faces(
    photos: Path, generator: StyleGAN2Generator, labels: Sequence[str] = LABELS
) -> tuple[list[Probe], dict[str, Measure]]:
    """Return the scores of samples by name, and how well those learnt from the labels of photos (a zip) do."""
    probes, learnt = measures_of_labels(photos, labels, resolution=generator.config.resolution)
    return probes, {**MEASURES, **learnt}


def find_edits(
    generator: StyleGAN2Generator, measures: Mapping[str, Measure], samples: int = 6000
) -> tuple[list[DirectionEdit], list[FitReport]]:
    """Find the directions from samples of the generator; the same for the same generator.

    Args:
        generator: The generator, in float32.
        measures: Those of `MEASURES`, and a probe per label, by name.
        samples: Number of samples measured.

    Returns:
        The edits in the order above, and how well each score could be told from held-out latents.
    """
    found = sample_latents(generator, dict(measures), samples)
    left_alone = {
        plan.cause: [name for name in measures if name not in (plan.cause, *plan.moves_along)] for plan in SCORE_EDITS
    }
    fitted, reports = fit_attributes(found.w, found.scores, left_alone, FitConfig(ridge=0.01))
    directions = {edit.name: edit.direction for edit in fitted}
    steered = steer(generator, {plan.name: plan.cause for plan in WARP_EDITS}, found.w, STEERING)
    warped = [dataclasses.replace(plan, layers=STEERING.layers) for plan in WARP_EDITS]
    made = [(plan, directions[plan.cause]) for plan in SCORE_EDITS] + [(plan, steered[plan.name]) for plan in warped]
    return [plan.with_default_one().edit(found, generator.num_styles) for plan, found in made], reports


@torch.no_grad()
def effects(
    generator: StyleGAN2Generator,
    edits: Sequence[DirectionEdit],
    measures: Mapping[str, Measure],
    count: int = 200,
    truncation: float = 0.7,
) -> dict[str, dict[str, float]]:
    """Measure what edits do: by edit and score, the mean difference between default strength and its negative.

    Differences are in standard deviations of the score among the samples, and halved: for one default strength.

    Args:
        generator: The generator.
        edits: That fit it.
        measures: By name.
        count: Samples that are edited.
        truncation: Of the samples.
    """
    z = torch.randn(count, generator.config.style_width, generator=seeded_rng(1))
    w = generator.broadcast(generator.mapping(z, truncation=truncation))
    unedited = measure_latents(generator, w, measures)
    found = {}
    for edit in edits:
        ends = [
            measure_latents(generator, edit.apply(w, torch.full([count], sign * edit.default_strength)), measures)
            for sign in (-1, 1)
        ]
        found[edit.name] = {
            name: ((ends[1][name] - ends[0][name]).nanmean() / 2 / spread(unedited[name])).item() for name in measures
        }
    return found


def spread(values: torch.Tensor) -> torch.Tensor:
    """Standard deviation of the values that are numbers."""
    return values[torch.isfinite(values)].std()


def effects_table(found: Mapping[str, Mapping[str, float]]) -> str:
    """A row per edit, a column per score; what an edit is named after stands out by its size."""
    names = list(next(iter(found.values())))
    rows = [["edit", *names], ["---"] * (len(names) + 1)]
    rows += [[f"`{edit}`", *(f"{row[name]:+.2f}" for name in names)] for edit, row in found.items()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> None:
    """Parse the command line and find."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="folder with the generator")
    parser.add_argument("--data", type=Path, required=True, help="folder with faces128_train.zip")
    parser.add_argument("--out", type=Path, required=True, help="file to write, *.safetensors")
    parser.add_argument("--samples", type=int, default=6000)
    parser.add_argument("--sheet", type=Path, help="picture of the edits on samples, to write")
    options = parser.parse_args()
    generator = load_component(StyleGAN2Generator, find_model(options.model), "generator").eval().requires_grad_(False)
    probes, measures = measures_of_faces(options.data / "faces128_train.zip", generator)
    for probe in probes:
        print(f"{probe.name}: correlation {probe.correlation:.2f} on held-out photos, learnt from {probe.count}")
    edits, reports = find_edits(generator, measures, options.samples)
    for report in reports:
        print(f"{report.name}: correlation {report.correlation:.2f} on held-out samples")
    write_edits(edits, options.out, generator.config.generator_id)
    if options.sheet is not None:
        contact_sheet(generator, edits, seeds=(0, 1, 2), multiples=(-2, -1, 0, 1, 2)).save(options.sheet)
    print(effects_table(effects(generator, edits, measures)))


if __name__ == "__main__":
    main()
