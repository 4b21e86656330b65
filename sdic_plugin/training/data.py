"""Training images: a folder or a zip, decoded once, held in memory as bytes, drawn in an order that resumes."""

from __future__ import annotations

import io
import warnings
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from sdic_plugin.errors import ImageError, SDICError
from sdic_plugin.image_processor import SDICImageProcessor, load_image

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}


def iterate_files(source: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the name and bytes of every image file in a folder (recursively) or zip, sorted by name.

    Raises:
        SDICError: If the source is neither a folder nor a zip.
    """
    if source.is_dir():
        for path in sorted(p for p in source.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file()):
            yield str(path.relative_to(source)), path.read_bytes()
    elif zipfile.is_zipfile(source):
        with zipfile.ZipFile(source) as archive:
            names = sorted(name for name in archive.namelist() if Path(name).suffix.lower() in IMAGE_SUFFIXES)
            for name in names:
                yield name, archive.read(name)
    else:
        raise SDICError(f"The data {source} is neither a folder nor a zip file: give one that holds the images.")


def load_images(source: str | Path, size: int, limit: int | None = None) -> torch.Tensor:
    """Decode every image of a folder or zip to uint8 [N, 3, size, size]; unreadable files are reported and skipped.

    Raises:
        SDICError: If there is no readable image.
    """
    processor = SDICImageProcessor(size, size)

    def decode(item: tuple[str, bytes]) -> torch.Tensor | str:
        try:
            image = processor.preprocess(load_image(io.BytesIO(item[1]).getvalue()))[0]
        except ImageError as error:
            return f"{item[0]}: {error}"
        return (image * 127.5 + 127.5).round().to(torch.uint8)

    with ThreadPoolExecutor(4) as pool:
        items = iterate_files(Path(source))
        if limit is not None:
            items = (item for item, _ in zip(items, range(limit), strict=False))
        results = list(pool.map(decode, items))
    images = [result for result in results if isinstance(result, torch.Tensor)]
    bad = [result for result in results if isinstance(result, str)]
    if bad:
        warnings.warn(f"{len(bad)} files were skipped: {'; '.join(bad[:5])}", stacklevel=2)
    if not images:
        raise SDICError(f"The data {source} holds no readable image: give a folder or zip of pictures.")
    return torch.stack(images)


def to_range(images: torch.Tensor) -> torch.Tensor:
    """Map uint8 [B, 3, H, W] to float32 in [-1, 1]."""
    return images.float() / 127.5 - 1


def step_rng(seed: int, step: int, stream: int = 0) -> torch.Generator:
    """Return the random generator of one step; all randomness comes from (seed, step), so a run resumes exactly."""
    state = np.random.SeedSequence([seed, step, stream]).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(state[0]) << 32 | int(state[1]))


def batch_indices(count: int, batch_size: int, seed: int, step: int) -> torch.Tensor:
    """Return the images of a step: an endless sequence of shuffled epochs, cut into batches."""
    start = step * batch_size
    indices = []
    for epoch in range(start // count, (start + batch_size - 1) // count + 1):
        order = torch.randperm(count, generator=step_rng(seed, epoch, stream=1))
        first = max(start - epoch * count, 0)
        indices.append(order[first : start + batch_size - epoch * count])
    return torch.cat(indices)


def flip_at_random(images: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """Mirror each image [B, 3, H, W] with probability one half."""
    flip = torch.rand(len(images), generator=rng) < 0.5
    return torch.where(flip[:, None, None, None], images.flip(3), images)
