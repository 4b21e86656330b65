"""Assembles the bundled model `cats64` from trained networks, with edits found from its generator.

Run: python -m sdic_plugin.training.cats64_bundle --base DIR --encoder DIR --compensation DIR --out DIR

`--base` is what `sdic convert cats64_generator.pt` wrote; `--encoder` and `--compensation` are the outputs of the two
training recipes `cats64_encoder` and `cats64_compensation`. Weights are saved as float16 under the plain file names.
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path

import torch

from sdic_plugin.conversion.fingerprint import generator_fingerprint
from sdic_plugin.edits import DirectionEdit
from sdic_plugin.edits.discovery import MEASURES, sample_latents, score_direction
from sdic_plugin.models import DICN, DIPN, E4EEncoder, StyleGAN2Discriminator, StyleGAN2Generator
from sdic_plugin.pipeline import SDICPipeline
from sdic_plugin.training.components import load_component

ALIGNMENT = {"left_eye": [0.284, 0.406], "right_eye": [0.727, 0.406]}
"""Eye centres measured on the mean image of the training set, fractions of width and height."""

SOURCE = "StyleGAN2 trained on cat faces of AnnikaV9/cat-dataset; encoder, DIPN and DICN trained with sdic_plugin"

# Measure, name of the edit, default strength, description.
EDITS = [
    ("warmth", "warmth", 1.5, "Ginger (positive) or grey (negative) coat"),
    ("brightness", "lightness", 1.0, "Light (positive) or dark (negative) coat"),
    ("contrast", "contrast", 1.5, "Bold (positive) or faint (negative) markings"),
    ("muzzle", "white_muzzle", 1.5, "White (positive) or dark (negative) muzzle"),
]


def find_edits(generator: StyleGAN2Generator, samples: int = 4000) -> list[DirectionEdit]:
    """Find the bundled directions; strength 1 raises a measure by one standard deviation, the others stay put."""
    found = sample_latents(generator, MEASURES, samples)
    edits = []
    for measure, name, strength, description in EDITS:
        direction = score_direction(found, measure, apart_from=[other for other in MEASURES if other != measure])
        edits.append(
            DirectionEdit(
                name=name,
                default_strength=strength,
                strength_range=(-3.0, 3.0),
                description=description,
                tensors={"direction": direction},
            )
        )
    return edits


def build_bundle(base: Path, encoder: Path, compensation: Path, output: Path) -> SDICPipeline:
    """Assemble, find edits, and save in float16; returns the pipeline in float32."""
    generator = load_component(StyleGAN2Generator, base, "generator")
    if generator.config.generator_id is None:
        generator.register_to_config(generator_id=generator_fingerprint(generator))
    generator.register_to_config(source=SOURCE, license="apache-2.0")
    pipe = SDICPipeline(
        encoder=load_component(E4EEncoder, encoder, "encoder").eval(),
        dipn=load_component(DIPN, compensation, "dipn").eval(),
        dicn=load_component(DICN, compensation, "dicn").eval(),
        generator=generator.eval(),
        alignment=ALIGNMENT,
    )
    for edit in find_edits(pipe.generator):
        pipe.add_edit(edit)
    half = SDICPipeline(
        **{name: copy.deepcopy(component).half() for name, component in pipe.components.items()}, alignment=ALIGNMENT
    )
    half._edits = pipe.get_list_edits()
    half.save_pretrained(output)
    load_component(StyleGAN2Discriminator, base, "discriminator").half().save_pretrained(output / "discriminator")
    return pipe


def main() -> None:
    """Parse the command line and build."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("base", "encoder", "compensation", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    options = parser.parse_args()
    torch.manual_seed(0)
    build_bundle(options.base, options.encoder, options.compensation, options.out)


if __name__ == "__main__":
    main()
