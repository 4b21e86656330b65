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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from hub_cards.faces128.measures import MEASURES
from sdic_plugin.checkpoints.components import find_model, load_component
from sdic_plugin.edits import DirectionEdit, write_edits
from sdic_plugin.edits.attributes import FitConfig, FitReport, fit_attributes
from sdic_plugin.edits.discovery import Measure, sample_latents
from sdic_plugin.edits.probes import measures_of_labels
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


@dataclass(frozen=True)
class ScoreEdit:
    """A direction along which one score rises; strength 1 is one standard deviation of the samples.

    Attributes:
        name: Name of the edit.
        score: What rises: a key of `MEASURES`, or a label.
        default_strength: A strength that shows the edit clearly.
        description: One sentence for people.
        ends: What both ends lead to.
        layers: First and one-past-last style that change; None for all, None as second for all from the first on.
        moves_along: Scores that belong to what the edit is, and are not held.
        reach: Smallest and largest sensible strength, in multiples of the default.
    """

    name: str
    score: str
    default_strength: float
    description: str
    ends: tuple[str, str]
    layers: tuple[int, int | None] | None = None
    moves_along: tuple[str, ...] = ()
    reach: tuple[float, float] = (-2.0, 2.0)


@dataclass(frozen=True)
class WarpEdit:
    """A direction that does what a warp does; strength 1 stands for the warp given. Attributes as of `ScoreEdit`."""

    name: str
    warp: Warp
    default_strength: float
    description: str
    ends: tuple[str, str]
    reach: tuple[float, float] = (-2.0, 2.0)


SCORE_EDITS = [
    ScoreEdit("smile", "face_smile", 2.0, "Smiling (positive) or serious (negative)", ("serious", "smiling"),
              SHAPES, ("teeth", "face_length")),
    ScoreEdit("age", "age", 2.0, "Older (positive) or younger (negative)", ("younger", "older"), None, ("fringe",)),
    ScoreEdit("turn", "face_turn", 2.0, "Head turned to the picture's right (positive) or left (negative)",
              ("left", "right"), SHAPES, ("side_light",)),
    ScoreEdit("nod", "face_nod", 2.0, "Head lowered (positive) or raised (negative)", ("raised", "lowered"), SHAPES,
              ("fringe", "beard")),
    ScoreEdit("glasses", "glasses", 2.0, "Glasses (positive), or none (negative)", ("none", "glasses"), SHAPES,
              ("open_eyes",)),
    ScoreEdit("eyes", "open_eyes", 2.0, "Open (positive) or narrowed (negative) eyes", ("narrowed", "open"), SHAPES),
    ScoreEdit("fringe", "fringe", 2.0, "Hair low on the forehead (positive), or a bare forehead (negative)",
              ("bare forehead", "low hair")),
    ScoreEdit("beard", "beard", 2.0, "Beard or a shaded chin (positive), or a light one (negative)",
              ("light chin", "beard"), None, ("Female",)),
    ScoreEdit("side_light", "side_light", 2.0, "Light from the picture's right (positive) or left (negative)",
              ("from the left", "from the right"), PAINT),
    ScoreEdit("brightness", "brightness", 1.5, "Brightly (positive) or dimly (negative) lit", ("dim", "bright"), PAINT,
              ("background",)),
    ScoreEdit("warmth", "warmth", 1.5, "Warm (positive) or cool (negative) colours", ("cool", "warm"), PAINT),
    ScoreEdit("background", "background", 2.0, "Light (positive) or dark (negative) surroundings", ("dark", "light")),
]  # fmt: skip

WARP_EDITS = [
    WarpEdit("eye_size", magnify(EYES, radius=0.13, amount=0.6), 1.5, "Large (positive) or small (negative) eyes",
             ("small", "large")),
    WarpEdit("face_width", stretch((0.5, 0.45), (0.3, 0.0)), 1.25, "Wide (positive) or narrow (negative) face",
             ("narrow", "wide")),
]  # fmt: skip


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
        edit.score: [name for name in measures if name not in (edit.score, *edit.moves_along)] for edit in SCORE_EDITS
    }
    fitted, reports = fit_attributes(found.w, found.scores, left_alone, FitConfig(ridge=0.01))
    directions = {edit.name: edit.direction for edit in fitted}
    steered = steer(generator, {edit.name: edit.warp for edit in WARP_EDITS}, found.w, STEERING)
    edits = [_edit(edit, directions[edit.score], _layers(edit, generator)) for edit in SCORE_EDITS]
    return edits + [_edit(edit, steered[edit.name], STEERING.layers) for edit in WARP_EDITS], reports


def _layers(edit: ScoreEdit, generator: StyleGAN2Generator) -> tuple[int, int] | None:
    if edit.layers is None:
        return None
    first, last = edit.layers
    return first, generator.num_styles if last is None else last


def _edit(edit: ScoreEdit | WarpEdit, direction: torch.Tensor, layers: tuple[int, int] | None) -> DirectionEdit:
    lowest, highest = edit.reach
    return DirectionEdit(
        name=edit.name,
        layers=layers,
        default_strength=edit.default_strength,
        strength_range=(lowest * edit.default_strength, highest * edit.default_strength),
        description=edit.description,
        tensors={"direction": direction},
        ends=edit.ends,
    )


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
    unedited = score(generator, w, measures)
    found = {}
    for edit in edits:
        ends = [
            score(generator, edit.apply(w, torch.full([count], sign * edit.default_strength)), measures)
            for sign in (-1, 1)
        ]
        found[edit.name] = {
            name: ((ends[1][name] - ends[0][name]).nanmean() / 2 / spread(unedited[name])).item() for name in measures
        }
    return found


def score(
    generator: StyleGAN2Generator, latents: torch.Tensor, measures: Mapping[str, Measure]
) -> dict[str, torch.Tensor]:
    """Scores of rendered W+ latents [N, num_styles, D], by name, each [N]."""
    parts: dict[str, list[torch.Tensor]] = {name: [] for name in measures}
    for part in latents.split(32):
        images = (generator(part).image / 2 + 0.5).clamp(0, 1)
        for name, measure in measures.items():
            parts[name].append(measure(images).cpu())
    return {name: torch.cat(values) for name, values in parts.items()}


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
    probes, learnt = measures_of_labels(
        options.data / "faces128_train.zip", LABELS, resolution=generator.config.resolution
    )
    for probe in probes:
        print(f"{probe.name}: correlation {probe.correlation:.2f} on held-out photos, learnt from {probe.count}")
    measures = {**MEASURES, **learnt}
    edits, reports = find_edits(generator, measures, options.samples)
    for report in reports:
        print(f"{report.name}: correlation {report.correlation:.2f} on held-out samples")
    write_edits(edits, options.out, generator.config.generator_id)
    if options.sheet is not None:
        contact_sheet(generator, edits, seeds=(0, 1, 2), multiples=(-2, -1, 0, 1, 2), cell_size=96).save(options.sheet)
    print(effects_table(effects(generator, edits, measures)))


if __name__ == "__main__":
    main()
