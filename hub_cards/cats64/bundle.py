"""Assembles the bundled model `cats64` from a trained pipeline, with its edits, or those found from its generator.

Run: python -m hub_cards.cats64.bundle --model DIR --out DIR --photos cats64_val.zip

`--model` is what the last training wrote, see the guide to training in the docs. Weights are saved as float16
under the plain names. What cats look like to the model, so that other photos are warned of, is measured on every other
one of the held-out photos; `sdic_plugin.training.subject` measures it alone: the bundle's own was written by

    python -m sdic_plugin.training.subject --model sdic_plugin/bundled/cats64 --data cats64_val.zip --every-other
"""

from __future__ import annotations

import argparse
from pathlib import Path

from hub_cards.bundling import complete, name_generator, save_discriminator, save_half
from hub_cards.cats64.edits import find_edits
from hub_cards.sheets import edits_of_photo, edits_of_samples
from sdic_plugin.checkpoints.components import find_model, load_component
from sdic_plugin.images.sheets import save_sheet
from sdic_plugin.models import StyleGAN2Discriminator
from sdic_plugin.models.sampling import sample
from sdic_plugin.photos.photo import crop_photo, load_example
from sdic_plugin.pipeline.sdic import SDICPipeline

ALIGNMENT = {"left_eye": [0.284, 0.406], "right_eye": [0.727, 0.406]}
"""Eye centres measured on the mean image of the training set, fractions of width and height."""

SOURCE = "StyleGAN2 trained on cat faces of AnnikaV9/cat-dataset; encoder, DIPN and DICN trained with sdic_plugin"


def build_bundle(model: Path, output: Path, photos: Path | None = None) -> SDICPipeline:
    """Save a trained pipeline in float16, with edits found from its generator if it has none; returns it in float32.

    Args:
        model: Folder of the trained pipeline.
        output: Folder to write.
        photos: Held-out photos, every other one of which shows what the model's own kind is like; None for no check.
    """
    discriminator = load_component(StyleGAN2Discriminator, model, "discriminator").eval()
    trained = SDICPipeline.from_pretrained(model)
    pipe = SDICPipeline(**trained.components, alignment=ALIGNMENT)
    name_generator(pipe.generator, SOURCE, "apache-2.0")
    complete(pipe, trained.get_list_edits().values() or find_edits(pipe.generator), photos)
    save_half(pipe, output)
    save_discriminator(discriminator, output)
    return pipe


def save_pictures(pipe: SDICPipeline, folder: Path) -> None:
    """Write the card's pictures: random samples, and each edit at five strengths on samples and on a photo."""
    save_sheet(list(sample(pipe.generator, 48, truncation=0.7).images.split(12)), folder / "cats64_samples.png")
    save_sheet(edits_of_samples(pipe), folder / "cats64_edits.png")
    example = load_example("chelsea")
    inversion = pipe.invert(crop_photo(pipe, example.source, example.eyes)[0])
    save_sheet(edits_of_photo(pipe, inversion), folder / "cats64_chelsea_edits.png")


def main() -> None:
    """Parse the command line and build."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="folder of the trained pipeline")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--photos", type=Path, help="held-out photos, to measure what cats look like to the model")
    parser.add_argument("--pictures", type=Path, help="folder for the card's pictures")
    options = parser.parse_args()
    pipe = build_bundle(find_model(options.model), options.out, options.photos)
    if options.pictures is not None:
        save_pictures(pipe, options.pictures)


if __name__ == "__main__":
    main()
