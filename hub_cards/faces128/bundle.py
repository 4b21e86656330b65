"""Assembles what is bundled of `faces128`: for now its generator and discriminator, from which the rest is trained.

Run, in the repository: python -m hub_cards.faces128.bundle --model RUN/model --out sdic_plugin/bundled/faces128

Weights are saved as float16. RUN is the last part of the generator's training, see the card.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from sdic_plugin.checkpoints.components import find_model, load_component
from sdic_plugin.checkpoints.folder import strip_local_path
from sdic_plugin.errors import SDICError
from sdic_plugin.models import StyleGAN2Discriminator, StyleGAN2Generator
from sdic_plugin.models.fingerprint import generator_fingerprint

SOURCE = (
    "StyleGAN2 trained on faces of FairFace (Kärkkäinen and Joo, WACV 2021; CC BY 4.0), from the generator of cats64, "
    "with sdic_plugin"
)
LICENSE = "cc-by-4.0"
LARGEST = 25_000_000
"""Bytes of both networks' weights together, at most."""


def build_bundle(model: Path, output: Path) -> int:
    """Save generator and discriminator of a trained model in float16; returns their size in bytes.

    Raises:
        SDICError: If they are too large to travel with the package.
    """
    generator = load_component(StyleGAN2Generator, model, "generator").eval()
    discriminator = load_component(StyleGAN2Discriminator, model, "discriminator").eval()
    size = 2 * sum(value.numel() for network in (generator, discriminator) for value in network.state_dict().values())
    if size > LARGEST:
        raise SDICError(
            f"Generator and discriminator of {model} have {size / 1e6:.1f} MB in float16, but at most "
            f"{LARGEST / 1e6:.0f} MB shall travel with the package: train narrower ones."
        )
    generator.register_to_config(generator_id=generator_fingerprint(generator), source=SOURCE, license=LICENSE)
    for name, network in (("generator", generator.half()), ("discriminator", discriminator.half())):
        network.save_pretrained(output / name)
        strip_local_path(output / name / "config.json")
    return size


def main() -> None:
    """Parse the command line and build."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="folder of the trained generator and discriminator")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    options = parser.parse_args()
    size = build_bundle(find_model(options.model), options.out)
    print(f"{options.out}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
