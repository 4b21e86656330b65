"""What the bundled models have in common: whole pipelines in float16 under the plain names, a discriminator beside."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from pathlib import Path

from sdic_plugin.checkpoints.folder import strip_local_path
from sdic_plugin.edits import Edit
from sdic_plugin.images.cache import load_images
from sdic_plugin.models import StyleGAN2Discriminator, StyleGAN2Generator
from sdic_plugin.models.fingerprint import generator_fingerprint
from sdic_plugin.pipeline.sdic import SDICPipeline


def name_generator(generator: StyleGAN2Generator, source: str, license: str) -> None:
    """Note in a generator's config what it is, by which edits know it, where it is from, and its licence."""
    if generator.config.generator_id is None:
        generator.register_to_config(generator_id=generator_fingerprint(generator))
    generator.register_to_config(source=source, license=license)


def complete(pipe: SDICPipeline, edits: Iterable[Edit], photos: Path | None) -> None:
    """Add a trained pipeline's edits, and what its subject looks like on every other held-out photo, if any.

    Edits that say nothing else were found in the generator here: they share its source and licence.
    """
    config = pipe.generator.config
    for edit in edits:
        edit.source, edit.license = edit.source or config.source, edit.license or config.license
        pipe.add_edit(edit)
    if photos is not None:
        pipe.learn_subject(load_images(photos, pipe.encoder.config.image_size)[::2])


def save_half(pipe: SDICPipeline, output: Path) -> None:
    """Save a copy of a pipeline in float16, with its edits, alignment and subject; it stays as it is."""
    networks = {name: copy.deepcopy(network) for name, network in pipe.components.items()}
    for network in networks.values():
        if network is not None:
            network.half()
    half = SDICPipeline(**networks, alignment=pipe.config.alignment, subject=pipe.config.get("subject"))
    half.with_edits(pipe.get_list_edits()).save_pretrained(output)


def save_discriminator(discriminator: StyleGAN2Discriminator, output: Path) -> None:
    """Save a discriminator in float16 beside the pipeline: for training, and as a perceptual network."""
    discriminator.half().save_pretrained(output / "discriminator")
    strip_local_path(output / "discriminator" / "config.json")
