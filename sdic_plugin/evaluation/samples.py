"""Random pictures of a generator, as files and as sheets of style mixing."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import save_file

from sdic_plugin.errors import SDICError
from sdic_plugin.images.sheets import grid, save_picture
from sdic_plugin.models import StyleGAN2Generator
from sdic_plugin.models.sampling import Samples, mix_styles, render
from sdic_plugin.utils.files import replacing_file


def mixing_sheet(
    generator: StyleGAN2Generator, samples: Samples, layers: tuple[int, int] | None = None
) -> Image.Image:
    """Draw the style mixing of the first half of the samples (rows) with the second half (columns).

    The samples themselves stand at the left and on top.

    Args:
        generator: The generator that drew the samples.
        samples: At least two.
        layers: First and one-past-last layer that come from the columns; None for the finer half.

    Raises:
        SDICError: If there are too few samples, or the layers are not the generator's.
    """
    half = len(samples.latents) // 2
    if half < 1:
        raise SDICError("Style mixing needs two pictures or more, but one was drawn: give a larger count.")
    rows, columns = samples.latents[:half], samples.latents[half:]
    mixed = mix_styles(rows, columns, layers or (generator.num_styles // 2, generator.num_styles))
    lines = [torch.cat([torch.ones_like(samples.images[:1]), samples.images[half:]])]
    for image, latents in zip(samples.images[:half], mixed, strict=True):
        lines.append(torch.cat([image[None], render(generator, latents)]))
    return grid(torch.cat(lines), len(columns) + 1)


def save_samples(samples: Samples, folder: Path, metadata: dict[str, str] | None = None) -> list[Path]:
    """Write `pictures/seed_N.png` per sample, `sheet.png`, and `latents.safetensors` (keys "latents" and "seeds").

    The folder `pictures` holds nothing else, so that it can be trained on.

    Args:
        samples: Pictures with their latents and seeds.
        folder: Made if needed; each file appears whole or not at all.
        metadata: What to note in the latents' file, such as the generator's id.

    Returns:
        The files.
    """
    single = folder / "pictures"
    pictures = {single / f"seed_{seed}.png": grid(samples.images[i, None], 1) for i, seed in enumerate(samples.seeds)}
    pictures[folder / "sheet.png"] = grid(samples.images, math.ceil(math.sqrt(len(samples.images))))
    for path, picture in pictures.items():
        save_picture(picture, path)
    latents = folder / "latents.safetensors"
    with replacing_file(latents) as temporary:
        tensors = {"latents": samples.latents.contiguous(), "seeds": torch.tensor(samples.seeds)}
        save_file(tensors, temporary, metadata=metadata)
    return [*pictures, latents]
