"""What a training step computes at the published size of 1024 pixels, counted without computing it.

Run: python -m sdic_plugin.benchmarks.large_model_cost [--channels 128] [--looks 2]

Of the stages of compensation and transport. Networks and images exist as shapes alone (PyTorch's "meta" device), so
that any machine counts them. A step is counted forward and backward, as `sdic train` takes it; what a machine makes of
it is told by `training_cost`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch

from sdic_plugin.evaluation.macs import count_macs
from sdic_plugin.models import DICN, DIPN, E4EEncoder, FeatureTransport, StyleGAN2Generator
from sdic_plugin.training.compensated import compensate, encode, render_edited
from sdic_plugin.training.transport import make_pairs

BATCH = 2
"""Images in a counted step; its parts grow with their number."""


def published_networks(
    looks: int, channels: int
) -> tuple[StyleGAN2Generator, E4EEncoder, DIPN, DICN, FeatureTransport]:
    """Build the published networks, DICN with second looks, and a transport, of shapes alone.

    Args:
        looks: Second looks, of two blocks each.
        channels: Width of their blocks, and of the transport's four.
    """
    with torch.device("meta"):
        generator, encoder, dipn = StyleGAN2Generator(), E4EEncoder(), DIPN()
        dicn = DICN(second_look_blocks=2 if looks else 0, second_look_channels=channels, second_looks=max(looks, 1))
        transport = FeatureTransport(generator.feature_channels, 4, channels)
    for network in (generator, encoder):
        network.requires_grad_(False)
    return generator, encoder, dipn, dicn, transport


def count_steps(looks: int, channels: int) -> dict[str, float]:
    """Multiply-accumulates of each stage's step, 10⁹ per image, by the stage's name."""
    generator, encoder, dipn, dicn, transport = published_networks(looks, channels)
    photos = torch.zeros(BATCH, 3, encoder.config.image_size, encoder.config.image_size, device="meta")
    latents = torch.zeros(BATCH, generator.num_styles, generator.config.style_width, device="meta")

    def compensation() -> None:
        encoded = encode(photos, encoder, generator)
        compensate(photos, encoded, generator, dipn, dicn).inversion.sum().backward()

    def dicn_alone() -> None:
        dipn.requires_grad_(False)
        compensation()

    def moving() -> None:
        pairs = make_pairs(generator, latents, latents, encoder.config.image_size)
        with torch.no_grad():
            encoded = encode(pairs.photo, encoder, generator)
            compensated = compensate(pairs.photo, encoded, generator, dipn, dicn)
        render_edited(compensated, latents, generator, transport)[0].sum().backward()

    stages: dict[str, Callable[[], None]] = {
        "compensation": compensation,
        "compensation, DICN alone": dicn_alone,
        "transport": moving,
    }
    return {name: count_macs(step) / BATCH / 1e9 for name, step in stages.items()}


def main() -> None:
    """Parse the command line and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--channels", type=int, default=128, help="width of the second looks and of the transport")
    parser.add_argument("--looks", type=int, default=2, help="second looks, 0 for the published DICN")
    options = parser.parse_args()
    if options.channels < 1 or options.looks < 0:
        parser.error(f"--channels {options.channels} --looks {options.looks}: give a width from 1 on, looks from 0 on")
    print("| stage | GMAC per image |\n| --- | --- |")
    for name, macs in count_steps(options.looks, options.channels).items():
        print(f"| {name} | {macs:,.0f} |")


if __name__ == "__main__":
    main()
