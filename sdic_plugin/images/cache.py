"""Training images decoded and resized once, kept as bytes in a memory-mapped file.

A cache is a folder `<cache>/<key>` of `images.npy`, uint8 [N, 3, size, size], and `manifest.json` with the names of
the images and of the files that were skipped. The key is a hash of the source's fingerprint (path, and size and time
of every file), the size, the limit and this format, so a changed source makes a new cache; old ones are not removed.
It appears under its name only when it is complete. The first process builds it while others wait, whether or not they
belong to the same run.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from filelock import FileLock
from tqdm.auto import tqdm

from sdic_plugin.errors import READ_ERRORS, ImageError, SDICError, cut_middle
from sdic_plugin.images.processor import SDICImageProcessor
from sdic_plugin.images.sources import ImageFile, ImageSource, open_source
from sdic_plugin.utils.disk import is_disk_full

FORMAT = 1
"""Version of the cache's format; increased when the same source would give other bytes than before."""

WORKERS = min(8, (os.cpu_count() or 1) + 1)
IN_FLIGHT = 8 * WORKERS
"""Files that are read or decoded at the same time; bounds the memory."""


class ImageSet:
    """Images in a memory-mapped file; only those asked for are read.

    Attributes:
        names: Name of each image, such as its path in the folder or zip.
        size: Height and width in pixels.
    """

    def __init__(self, pixels: np.ndarray, names: Sequence[str], rows: np.ndarray | None = None) -> None:
        self._pixels, self._rows = pixels, np.arange(len(pixels)) if rows is None else rows
        self.names = names
        self.size = pixels.shape[2]

    def __len__(self) -> int:
        return len(self._rows)

    def batch(self, indices: torch.Tensor | Sequence[int]) -> torch.Tensor:
        """Return the images of these indices, uint8 [B, 3, size, size]."""
        return torch.from_numpy(self._pixels[self._rows[np.asarray(indices, dtype=np.int64)]])

    def subset(self, indices: Sequence[int]) -> ImageSet:
        """Return the images of these indices as a set of their own, which shares the file."""
        return ImageSet(self._pixels, [self.names[index] for index in indices], self._rows[list(indices)])


def cache_folder() -> Path:
    """Folder for caches where none is given: the environment's SDIC_CACHE, or sdic_plugin in the user's cache."""
    user = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("SDIC_CACHE") or Path(user, "sdic_plugin"))


def open_images(source: str | Path, size: int, limit: int | None = None, cache: str | Path | None = None) -> ImageSet:
    """Open the images of a source at a size; the first call decodes them, later ones map the result.

    Files that are no readable images are left out with a warning, from the cache too.

    Args:
        source: Folder, zip or data set (see `data_sources`).
        size: Height and width to crop and resize to, in pixels.
        limit: Number of files to look at, from the first on; None takes all.
        cache: Folder for caches; `cache_folder()` unless given.

    Raises:
        SDICError: If the source cannot be opened or holds no readable image, or the disk is full.
    """
    origin = open_source(source)
    identity = {"format": FORMAT, "size": size, "limit": limit, **origin.fingerprint()}
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:24]
    folder = Path(cache or cache_folder()) / key
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_suffix(".lock")):
            images = _open_cache(folder)
            if images is None:
                _build_cache(folder, origin, str(source), size, limit)
                images = _open_cache(folder)
    except OSError as error:
        if error.errno is None:  # not of the file system, such as a network's
            raise
        raise SDICError(_cannot_write(folder.parent, error)) from error
    assert images is not None
    return images


def _cannot_write(folder: Path, error: OSError) -> str:
    return unwritable_cache(folder, "is full" if is_disk_full(error) else f"cannot be written ({error.strerror})")


def unwritable_cache(folder: Path, problem: str) -> str:
    """Message for a cache folder that cannot be written to."""
    return (
        f"The folder {cut_middle(str(folder), 200)} for decoded images {problem}: make room, or name a folder "
        "on another disk with the setting `cache` or the environment variable SDIC_CACHE."
    )


def _open_cache(folder: Path) -> ImageSet | None:
    """Map a cache; None if there is none, or it is damaged."""
    if not folder.is_dir():
        return None
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        pixels = np.load(folder / "images.npy", mmap_mode="r")
        size = manifest["size"]
        if pixels.dtype != np.uint8 or pixels.shape != (len(manifest["names"]), 3, size, size):
            raise ValueError("the images are not those of the manifest")
    except (OSError, ValueError, KeyError, TypeError) as error:
        warnings.warn(f"The decoded images in {folder} are damaged ({error}) and are made anew.", stacklevel=3)
        return None
    warn_skipped(manifest["skipped"])
    return ImageSet(pixels, manifest["names"])


def _build_cache(folder: Path, origin: ImageSource, source: str, size: int, limit: int | None) -> None:
    temporary = folder.with_name(f"{folder.name}.tmp")  # nobody else writes there: the caller holds the lock
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        names, skipped = _write_images(temporary / "images.npy", origin, size, limit)
        if not names:
            raise SDICError(no_image(source, skipped))
        manifest = {"format": FORMAT, "source": source, "size": size, "names": names, "skipped": skipped}
        (temporary / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_images(path: Path, origin: ImageSource, size: int, limit: int | None) -> tuple[list[str], list[str]]:
    """Write the images one after the other, and the header, whose length does not depend on their number, twice."""
    names, skipped = [], []
    with open(path, "wb") as file:
        _write_header(file, 0, size)
        start = file.tell()
        for name, result in tqdm(decode(origin.files(), size, limit), desc="decoding images", unit="image", delay=5):
            if isinstance(result, str):
                skipped.append(f"{name}: {result}")
            else:
                file.write(result.tobytes())
                names.append(name)
        file.seek(0)
        _write_header(file, len(names), size)
        assert file.tell() == start
    return names, skipped


def _write_header(file: BinaryIO, count: int, size: int) -> None:
    header = {"descr": "|u1", "fortran_order": False, "shape": (count, 3, size, size)}
    np.lib.format.write_array_header_1_0(file, header)


def decode(
    files: Iterable[ImageFile], size: int | tuple[int, int], limit: int | None
) -> Iterator[tuple[str, np.ndarray | str]]:
    """Read, crop and resize image files in threads, in order; memory does not grow with their number.

    Yields:
        Name, and the image as uint8 [3, H, W] or the reason why it could not be read.
    """
    processor = SDICImageProcessor(*((size, size) if isinstance(size, int) else size))

    def decode_one(item: ImageFile) -> tuple[str, np.ndarray | str]:
        name, read = item
        try:
            image = processor.preprocess(read())[0]
        except (*READ_ERRORS, ImageError) as error:
            return name, " ".join(str(error).split())
        return name, (image * 127.5 + 127.5).round().to(torch.uint8).numpy()

    with ThreadPoolExecutor(WORKERS) as pool:
        pending: deque[Future[tuple[str, np.ndarray | str]]] = deque()
        for item in itertools.islice(files, limit):
            pending.append(pool.submit(decode_one, item))
            if len(pending) >= IN_FLIGHT:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def warn_skipped(skipped: list[str]) -> None:
    """Warn of files that are no readable images, once per machine where a run has several processes."""
    if skipped and os.environ.get("LOCAL_RANK", "0") == "0":
        warnings.warn(f"{len(skipped)} files were skipped: {'; '.join(skipped[:5])}", stacklevel=2)


def no_image(source: str | os.PathLike[str], skipped: list[str]) -> str:
    """Message for a source without a single readable image."""
    reason = f" ({len(skipped)} files could not be read, such as {skipped[0]})" if skipped else ""
    return f"The data {source} holds no readable image{reason}: give a folder or zip of pictures."


def load_images(source: str | os.PathLike[str], size: int | tuple[int, int], limit: int | None = None) -> torch.Tensor:
    """Decode every image of a source to uint8 [N, 3, H, W]; unreadable files are reported and skipped.

    For sets that fit in memory; `open_images` reads sets of any size, and decodes them only once.

    Args:
        source: Folder, zip or data set (see `data_sources`).
        size: Height and width to crop and resize to, in pixels, or the side of squares.
        limit: Number of files to look at, from the first on; None takes all.

    Raises:
        SDICError: If there is no readable image.
    """
    return load_named_images(source, size, limit)[1]


def load_named_images(
    source: str | os.PathLike[str], size: int | tuple[int, int], limit: int | None = None
) -> tuple[list[str], torch.Tensor]:
    """Return the names of the images as well, see `load_images`."""
    names, images, skipped = [], [], []
    for name, result in decode(open_source(source).files(), size, limit):
        if isinstance(result, str):
            skipped.append(f"{name}: {result}")
        else:
            names.append(name)
            images.append(torch.from_numpy(result))
    warn_skipped(skipped)
    if not images:
        raise SDICError(no_image(source, skipped))
    return names, torch.stack(images)
