"""The generator of the stages that do not train it."""

from __future__ import annotations

from pathlib import Path

from sdic_plugin.checkpoints.components import load_component
from sdic_plugin.errors import SDICError
from sdic_plugin.models import StyleGAN2Generator


def load_generator(model: Path) -> StyleGAN2Generator:
    """Load the generator of a model that encoder, compensation or transport are trained for.

    Raises:
        CheckpointError: If there is none, or it is damaged.
        SDICError: If only some rows of its images are the picture, for training knows square photos alone.
    """
    generator = load_component(StyleGAN2Generator, model, "generator")
    rows = generator.config.content_rows
    if rows is not None:
        raise SDICError(
            f"Of this generator's {generator.config.resolution} rows, {rows[0]} to {rows[1]} are the picture "
            "(content_rows), and training knows square photos alone: convert the generator without content rows, and "
            "train on photos that were made square as its own training pictures were."
        )
    return generator
