"""Assembles what is bundled of `faces128`: its generator and discriminator, or the whole pipeline with its edits.

Run, in the repository: python -m hub_cards.faces128.bundle --model RUN/model --out sdic_plugin/bundled/faces128
                        [--edits FILE] [--photos faces128_val.zip]

RUN is the last part of a training, see the card: of the generator's, or of the pipeline's. FILE is what
`hub_cards.faces128.edits` found. What faces look like to the model, so that other photos are warned of, is measured on
every other one of the held-out photos. Weights are saved as float16.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from hub_cards.bundling import complete, name_generator, save_discriminator, save_half
from sdic_plugin.checkpoints.components import find_model, has_component, load_component
from sdic_plugin.checkpoints.folder import strip_local_path
from sdic_plugin.edits import Edit, read_edits
from sdic_plugin.edits.loader import check_generator
from sdic_plugin.errors import SDICError
from sdic_plugin.images.face_alignment import FFHQTemplate
from sdic_plugin.models import StyleGAN2Discriminator, StyleGAN2Generator
from sdic_plugin.pipeline.sdic import SDICPipeline

ALIGNMENT = FFHQTemplate(eye_scale=1.3, mouth_scale=1.2, shift=0.5)
"""How the training faces were cut."""

SOURCE = (
    "StyleGAN2 trained on faces of FairFace (Kärkkäinen and Joo, WACV 2021; CC BY 4.0), from the generator of cats64, "
    "with sdic_plugin"
)
LICENSE = "cc-by-4.0"
NOTICE = """# Whose data these weights come from

The weights in this folder are licensed under the Creative Commons Attribution 4.0 International licence (CC BY 4.0,
https://creativecommons.org/licenses/by/4.0/). They were trained with sdic_plugin on 14,802 aligned photographs of
adults of FairFace: Kimmo Kärkkäinen and Jungseock Joo, "FairFace: Face Attribute Dataset for Balanced Race, Gender,
and Age for Bias Measurement and Mitigation", WACV 2021, https://github.com/joojs/fairface, CC BY 4.0. The photographs
were cropped and resized. Wherever the weights go, this notice goes with them.
"""
"""Travels with the weights, as the licence of the photographs asks."""

LARGEST, LARGEST_WHOLE = 25_000_000, 33_000_000
"""Bytes of the weights of generator and discriminator, and of all networks, at most: cats64 travels beside them."""


def build_bundle(model: Path, output: Path, edits: Path | None = None, photos: Path | None = None) -> int:
    """Save a trained model's networks in float16: the whole pipeline where there is one, or what its training needs.

    Args:
        model: Folder of the trained model, with its discriminator.
        output: Folder to write.
        edits: Edits for a whole pipeline, instead of those it has.
        photos: Held-out photos, every other one of which shows what faces are like; None for no check.

    Returns:
        Size of the weights, in bytes.

    Raises:
        SDICError: If they are too large to travel with the package, or the edits are another generator's.
    """
    discriminator = load_component(StyleGAN2Discriminator, model, "discriminator").eval()
    if not has_component(model, "encoder"):
        generator = load_component(StyleGAN2Generator, model, "generator").eval()
        size = _checked_size([generator, discriminator], LARGEST, model)
        generator.register_to_config(generator_id=None)
        name_generator(generator, SOURCE, LICENSE)
        generator.half().save_pretrained(output / "generator")
        strip_local_path(output / "generator" / "config.json")
    else:
        trained = SDICPipeline.from_pretrained(model)
        pipe = SDICPipeline(**trained.components, alignment=ALIGNMENT.to_dict())
        networks = [network for network in pipe.components.values() if network is not None]
        size = _checked_size([*networks, discriminator], LARGEST_WHOLE, model)
        name_generator(pipe.generator, SOURCE, LICENSE)
        own = trained.get_list_edits().values() if edits is None else _read(edits, pipe.generator)
        complete(pipe, own, photos)
        save_half(pipe, output)
    save_discriminator(discriminator, output)
    (output / "NOTICE.md").write_text(NOTICE, encoding="utf-8")
    return size


def _checked_size(networks: Sequence[nn.Module], most: int, model: Path) -> int:
    size = 2 * sum(value.numel() for network in networks for value in network.state_dict().values())
    if size > most:
        raise SDICError(
            f"The {len(networks)} networks of {model} have {size / 1e6:.1f} MB in float16, but at most "
            f"{most / 1e6:.0f} MB shall travel with the package: train narrower ones."
        )
    return size


def _read(path: Path, generator: StyleGAN2Generator) -> list[Edit]:
    edits, about = read_edits(path)
    check_generator(path.name, about.get("generator_id"), generator.config.generator_id)
    return edits


def main() -> None:
    """Parse the command line and build."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="folder of the trained networks")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--edits", type=Path, help="file of the edits, *.safetensors")
    parser.add_argument("--photos", type=Path, help="held-out photos, to measure what faces look like to the model")
    options = parser.parse_args()
    size = build_bundle(find_model(options.model), options.out, options.edits, options.photos)
    print(f"{options.out}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
