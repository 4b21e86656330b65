"""Random pictures of a generator, as files and as sheets of style mixing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import save_file

from sdic_plugin.errors import SDICError
from sdic_plugin.images.reading import MAX_PIXELS
from sdic_plugin.images.sheets import grid, save_picture
from sdic_plugin.models import StyleGAN2Generator
from sdic_plugin.models.sampling import Samples, latents_of_seed, mix_styles, render
from sdic_plugin.utils.files import replacing_file
from sdic_plugin.utils.ranges import check_seeds, check_truncation

PICTURES = "pictures"
"""Folder of single samples."""


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

    The folder `pictures` gets nothing else, so that it can be trained on; what is there already stays.

    Args:
        samples: Pictures with their latents and seeds.
        folder: Made if needed; each file appears whole or not at all.
        metadata: What to note in the latents' file, such as the generator's id.

    Returns:
        The files.
    """
    drawn = ((image[None], latents[None]) for image, latents in zip(samples.images, samples.latents, strict=True))
    return _write(drawn, samples.seeds, folder, metadata)


def draw_samples(
    generator: StyleGAN2Generator,
    folder: Path,
    seeds: Sequence[int],
    truncation: float = 0.7,
    metadata: dict[str, str] | None = None,
) -> list[Path]:
    """Write what `save_samples` does of samples with these seeds, each picture as soon as it is drawn.

    Args:
        generator: As for `sdic_plugin.models.sampling.sample`, as are seeds and truncation.
        folder: As for `save_samples`.
        seeds: One given twice counts once.
        truncation: How far w may lie from its mean.
        metadata: As for `save_samples`.

    Returns:
        The files.

    Raises:
        SDICError: If there is no seed, a seed is out of range, or the truncation is no finite number.
    """
    check_truncation(truncation)
    seeds = check_seeds(seeds)
    latents = (latents_of_seed(generator, seed, truncation) for seed in seeds)
    return _write(((render(generator, each), each) for each in latents), seeds, folder, metadata)


def earlier_pictures(folder: Path, written: Iterable[Path]) -> list[Path]:
    """Pictures in `folder/pictures` that are not among those just written there."""
    return sorted(set((folder / PICTURES).glob("*.png")) - set(written))


def _write(
    drawn: Iterable[tuple[torch.Tensor, torch.Tensor]],
    seeds: Sequence[int],
    folder: Path,
    metadata: dict[str, str] | None,
) -> list[Path]:
    """Write pictures [1, 3, R, R] and their latents [1, num_styles, D] as they come; see `save_samples`."""
    files, latents, sheet = [], [], None
    for seed, (image, code) in zip(seeds, drawn, strict=True):
        picture = grid(image, 1)
        files.append(save_picture(picture, folder / PICTURES / f"seed_{seed}.png"))
        latents.append(code)
        sheet = _Sheet(len(seeds), picture.size) if sheet is None else sheet
        sheet.add(picture)
    assert sheet is not None  # there is a seed at least
    files.append(save_picture(sheet.picture, folder / "sheet.png"))
    path = folder / "latents.safetensors"
    with replacing_file(path) as temporary:
        save_file({"latents": torch.cat(latents), "seeds": torch.tensor(seeds)}, temporary, metadata=metadata)
    return [*files, path]


class _Sheet:
    """A square of pictures, which are shrunk where it would have more than `MAX_PIXELS`."""

    def __init__(self, count: int, size: tuple[int, int]) -> None:
        self._columns, self._added = math.ceil(math.sqrt(count)), 0
        rows = -(-count // self._columns)
        width, height = size
        scale = min(1.0, math.sqrt(MAX_PIXELS / (self._columns * rows * width * height)))
        self._cell = max(1, math.floor(width * scale)), max(1, math.floor(height * scale))
        self.picture = Image.new("RGB", (self._columns * self._cell[0], rows * self._cell[1]), "white")

    def add(self, picture: Image.Image) -> None:
        """Put the next picture in its place."""
        row, column = divmod(self._added, self._columns)
        if picture.size != self._cell:
            picture = picture.resize(self._cell, Image.Resampling.LANCZOS)
        self.picture.paste(picture, (column * self._cell[0], row * self._cell[1]))
        self._added += 1
