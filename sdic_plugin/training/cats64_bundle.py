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
from sdic_plugin.edits.discovery import MEASURES, principal_directions, sample_latents, score_direction
from sdic_plugin.loading import strip_local_path
from sdic_plugin.models import DICN, DIPN, E4EEncoder, StyleGAN2Discriminator, StyleGAN2Generator
from sdic_plugin.pipeline import SDICPipeline
from sdic_plugin.training.components import load_component
from sdic_plugin.training.samples import save_sheet

ALIGNMENT = {"left_eye": [0.284, 0.406], "right_eye": [0.727, 0.406]}
"""Eye centres measured on the mean image of the training set, fractions of width and height."""

SOURCE = "StyleGAN2 trained on cat faces of AnnikaV9/cat-dataset; encoder, DIPN and DICN trained with sdic_plugin"

# Measure, name of the edit, default strength, description. The measure "contrast" gives no edit: boldness acts on the
# detail that compensation restores, so it changes the inversion otherwise than the initial rendering.
MEASURED_EDITS = [
    ("warmth", "warmth", 1.5, "Ginger (positive) or grey (negative) coat"),
    ("brightness", "lightness", 1.0, "Light (positive) or dark (negative) coat"),
    ("muzzle", "white_chin", 1.5, "White chin under a dark forehead (positive), or an even coat (negative)"),
]


DARK_FACE_COMPONENT = 3
"""Number of the principal component of w that turns a white blaze into a dark face, found by looking."""


def find_edits(generator: StyleGAN2Generator, samples: int = 4000) -> list[DirectionEdit]:
    """Find the bundled directions; strength 1 is one standard deviation of the samples.

    Most raise one measure on pixels while the others stay put; `dark_face` is a principal component, named after what
    it shows, with the sign that darkens.
    """
    found = sample_latents(generator, MEASURES, samples)
    directions = {
        name: score_direction(found, measure, apart_from=[other for other in MEASURES if other != measure])
        for measure, name, _, _ in MEASURED_EDITS
    }
    component = principal_directions(found)[DARK_FACE_COMPONENT]
    brighter = torch.dot(component, score_direction(found, "brightness")) > 0
    directions["dark_face"] = -component if brighter else component
    described = {name: (strength, description) for _, name, strength, description in MEASURED_EDITS}
    described["dark_face"] = (1.5, "Dark face (positive), or a white blaze (negative)")
    return [
        DirectionEdit(
            name=name,
            default_strength=described[name][0],
            strength_range=(-3.0, 3.0),
            description=described[name][1],
            tensors={"direction": direction},
        )
        for name, direction in directions.items()
    ]


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
    strip_local_path(output / "discriminator" / "config.json")
    return pipe


@torch.no_grad()
def save_pictures(pipe: SDICPipeline, folder: Path) -> None:
    """Write the card's pictures: random samples, and each edit at five strengths on samples."""
    generator, width = pipe.generator, pipe.generator.config.style_width

    def samples(seed: int, count: int, truncation: float) -> torch.Tensor:
        z = torch.randn(count, width, generator=torch.Generator().manual_seed(seed))
        return generator.broadcast(generator.mapping(z, truncation))

    rows = generator(samples(0, 48, 0.7)).image.split(12)
    save_sheet(list(rows), folder / "cats64_samples.png")
    cats = samples(1, 3, 0.7)
    strengths = (-3.0, -1.5, 0.0, 1.5, 3.0)
    sheet = []
    for name in pipe.get_list_edits():
        renderings = [generator(pipe.apply_edits(cats, {name: strength})).image for strength in strengths]
        sheet.append(torch.stack(renderings, dim=1).flatten(0, 1))
    save_sheet(sheet, folder / "cats64_edits.png")


def main() -> None:
    """Parse the command line and build."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("base", "encoder", "compensation", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--pictures", type=Path, help="folder for the card's pictures")
    options = parser.parse_args()
    pipe = build_bundle(options.base, options.encoder, options.compensation, options.out)
    if options.pictures is not None:
        save_pictures(pipe, options.pictures)


if __name__ == "__main__":
    main()
