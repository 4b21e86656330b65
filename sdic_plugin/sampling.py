"""Random pictures of a generator: one seed is one picture, in whatever company it is drawn.

Seeds are drawn and rendered one by one, so that neither the latents nor a single rounding depends on the others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.torch import save_file

from sdic_plugin.atomic import replacing_file
from sdic_plugin.errors import SDICError, shorten
from sdic_plugin.image_processor import SDICImageProcessor
from sdic_plugin.models import StyleGAN2Generator
from sdic_plugin.seeds import seeded_rng

LARGEST_SEED = 2**63 - 1
LARGEST_TRUNCATION = 100
MOST_SAMPLES = 100_000
"""They are all in memory at once."""


@dataclass(frozen=True)
class Samples:
    """Random pictures.

    Attributes:
        seeds: The seed of each.
        images: [N, 3, R, R], float32, about [-1, 1], on the CPU.
        latents: W+, [N, num_styles, D], float32, on the CPU.
    """

    seeds: list[int]
    images: torch.Tensor
    latents: torch.Tensor


def sample(
    generator: StyleGAN2Generator,
    count: int = 16,
    seed: int = 0,
    truncation: float = 0.7,
    seeds: Sequence[int] | None = None,
) -> Samples:
    """Draw random pictures.

    Args:
        generator: The generator.
        count: Number of pictures; their seeds follow on `seed`.
        seed: First seed, from 0 on.
        truncation: Strength of the variety: 1 as trained, 0 the mean picture.
        seeds: The seeds themselves, instead of `count` and `seed`; one given twice counts once.

    Returns:
        The pictures with their W+ latents; the same for a seed whatever else is drawn.

    Raises:
        SDICError: If there is no seed, a seed is out of range, or the truncation is no finite number.
    """
    check_truncation(truncation)
    seeds = check_seeds(range(seed, seed + count) if seeds is None else seeds)
    latents = torch.cat([latents_of_seed(generator, each, truncation) for each in seeds])
    return Samples(seeds, render(generator, latents), latents)


def check_truncation(truncation: float) -> None:
    """Raise SDICError unless a truncation is a number with which there is something to see."""
    if not abs(truncation) <= LARGEST_TRUNCATION:
        raise SDICError(
            f"truncation is {truncation}, but must be a finite number of at most {LARGEST_TRUNCATION}, such as 0.7."
        )


def check_seeds(seeds: Sequence[int]) -> list[int]:
    """Return the seeds, each once, in their order.

    Raises:
        SDICError: If there is none, one is out of range, or they are more than `MOST_SAMPLES`.
    """
    if not seeds:
        raise SDICError("No picture was asked for: give a count of at least 1, or at least one seed.")
    # A range may be longer than `len` can say.
    if seeds[0] + MOST_SAMPLES <= seeds[-1] if isinstance(seeds, range) else len(seeds) > MOST_SAMPLES:
        raise SDICError(f"More than {MOST_SAMPLES} pictures were asked for: draw them in several folders.")
    for seed in seeds:
        if not 0 <= seed <= LARGEST_SEED:
            raise SDICError(f"The seed {shorten(seed)} is out of range: give a whole number from 0 to 2^63 - 1.")
    return list(dict.fromkeys(seeds))


@torch.no_grad()
def latents_of_seed(generator: StyleGAN2Generator, seed: int, truncation: float = 1.0) -> torch.Tensor:
    """Draw the W+ latents of one seed, [1, num_styles, D], float32, on the CPU."""
    z = torch.randn(1, generator.config.style_width, generator=seeded_rng(seed))
    return generator.broadcast(generator.mapping(z.to(generator.device), truncation)).float().cpu()


@torch.no_grad()
def render(generator: StyleGAN2Generator, latents: torch.Tensor) -> torch.Tensor:
    """Render W+ latents [N, num_styles, D] with the generator's fixed noise, one by one: [N, 3, R, R] on the CPU."""
    return torch.cat([generator(each[None].to(generator.device)).image.float().cpu() for each in latents])


def mix_styles(base: torch.Tensor, other: torch.Tensor, layers: tuple[int, int]) -> torch.Tensor:
    """Give every base latent the styles of every other one in some layers (StyleGAN's style mixing).

    Args:
        base: W+ of the rows, [A, num_styles, D].
        other: W+ of the columns, [B, num_styles, D].
        layers: First and one-past-last layer that come from `other`.

    Returns:
        W+, [A, B, num_styles, D].

    Raises:
        SDICError: If the layers are not within the generator's.
    """
    first, last = layers
    if not 0 <= first < last <= base.shape[1]:
        raise SDICError(
            f"The layers {first}:{last} cannot be mixed, as this generator has {base.shape[1]}: give FIRST:LAST with "
            f"0 <= FIRST < LAST <= {base.shape[1]}."
        )
    mixed = base[:, None].repeat(1, len(other), 1, 1)
    mixed[:, :, first:last] = other[None, :, first:last]
    return mixed


def grid(images: torch.Tensor, columns: int) -> Image.Image:
    """Lay images [N, 3, H, W] in [-1, 1] out in rows of `columns`; what is missing in the last row stays white."""
    missing = -len(images) % columns
    height, width = images.shape[2:]
    cells = torch.cat([images, images.new_ones(missing, 3, height, width)])
    sheet = cells.reshape(-1, columns, 3, height, width).permute(2, 0, 3, 1, 4).reshape(3, -1, columns * width)
    return SDICImageProcessor(*sheet.shape[1:]).postprocess(sheet[None], "pil")[0]


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
        samples: The samples.
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


def save_picture(picture: Image.Image, path: Path, metadata: Mapping[str, str] | None = None) -> Path:
    """Write a PNG, with metadata as its text, whole or not at all, and return its path."""
    texts = PngInfo()
    for key, text in (metadata or {}).items():
        texts.add_text(key, text)
    with replacing_file(path) as temporary:
        picture.save(temporary, format="PNG", pnginfo=texts)
    return path


def parse_seeds(text: str) -> list[int]:
    """Read "1,2,5" or "0-15" (both ends included), or a mixture.

    Raises:
        SDICError: If the text is something else.
    """
    seeds: list[int] = []
    try:
        for part in text.split(","):
            first, separator, last = part.partition("-")
            seeds += check_seeds(range(int(first), int(last if separator else first) + 1))
    except SDICError:
        raise
    except ValueError as error:
        raise SDICError(
            f"The seeds {shorten(text)} cannot be read: write numbers such as 1,2,5 or a range such as 0-15."
        ) from error
    return seeds


def parse_layers(text: str) -> tuple[int, int]:
    """Read "A:B".

    Raises:
        SDICError: If the text is something else, or leaves no layer.
    """
    first, separator, last = text.partition(":")
    if not separator or not (first.strip().isdecimal() and last.strip().isdecimal()) or len(text) > 100:
        raise SDICError(f"The layers {shorten(text)} cannot be read: write FIRST:LAST, such as 4:10.")
    if int(first) >= int(last):
        raise SDICError(
            f"The layers {shorten(text)} are none: write FIRST:LAST, LAST one past the last, such as 4:10."
        )
    return int(first), int(last)
