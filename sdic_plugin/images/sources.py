"""Where training images come from: a folder, a zip, or a data set of the library `datasets`.

A data set is written `dataset:NAME[@REVISION][:SPLIT]`, NAME being a Hub id or a local folder: `dataset:user/cats`,
`dataset:user/cats:validation`, `dataset:user/cats@1a2b3c:train[:1000]`, `dataset:./parquet_folder`. The split is
"train" unless given. With `dataset-streaming:` in its place the files are not kept on disk: the images are decoded
while they are downloaded, and only their resized copies stay (see `image_cache`).
"""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from sdic_plugin.errors import READ_ERRORS, SDICError, cut_middle, short_reason

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".jfif", ".png", ".webp", ".avif", ".bmp", ".tif", ".tiff"}
DATASET = re.compile(r"dataset(?P<streaming>-streaming)?:(?P<name>.+?)(?::(?P<split>\w[\w.+]*(?:\[[^\]]*\])?))?")
IMAGE_COLUMN_NAMES = ("image", "img", "images", "picture", "photo", "jpg", "png", "webp")

LARGEST_FILE = 2**28
"""Largest picture file that is read, or unpacked from a zip, in bytes."""

ImageFile = tuple[str, Callable[[], bytes]]
"""Name of an image file, the same on every machine, and the function that reads it (from any thread)."""


class ImageSource(Protocol):
    """A place that holds image files."""

    def fingerprint(self) -> dict[str, Any]:
        """What identifies the content, as JSON: it changes when a file is added, removed or written anew."""

    def files(self) -> Iterator[ImageFile]:
        """Yield every image file, always in the same order; reading one may fail, listing them may not."""


def open_source(source: str | os.PathLike[str]) -> ImageSource:
    """Find out what a source is.

    Args:
        source: Folder or zip with images, or a data set as in this module's text. Nothing is read but a zip's end.

    Raises:
        SDICError: If it is none of these, or the library `datasets` is needed and not installed.
    """
    match = DATASET.fullmatch(str(source))
    if match:
        name, _, revision = match["name"].partition("@")
        return HubDataset(name, match["split"] or "train", revision or None, match["streaming"] is not None)
    path = Path(source)
    if not str(source).strip():
        raise SDICError("The data has an empty name, but a folder or zip file is needed: give its path.")
    if os.path.isdir(path):
        return Folder(path)
    if _is_zip(path):
        return Zip(path)
    raise SDICError(
        f"The data {cut_middle(str(source), 200)} is neither a folder nor a zip file: give one that holds the images, "
        "or a data set as dataset:NAME:SPLIT."
    )


def read_file(path: Path, largest: int = LARGEST_FILE) -> bytes:
    """Read a file of a bounded size.

    Raises:
        OSError: If it is larger, or no regular file: a device or a pipe has no end.
    """
    if not os.path.isfile(path):
        raise OSError("it is no regular file")
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > largest:
            raise OSError(f"it has {size} bytes, and at most {largest} are read")
        return file.read(size)


@dataclass(frozen=True)
class Folder:
    """Image files in a folder and the folders in it, by name."""

    path: Path

    def _paths(self) -> list[Path]:
        try:
            return sorted(p for p in self.path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
        except OSError as error:
            raise SDICError(
                f"The folder {cut_middle(str(self.path), 200)} cannot be listed ({short_reason(error)}): check its "
                "permissions."
            ) from error

    def fingerprint(self) -> dict[str, Any]:
        """Path, and the name, size and time of change of each file."""
        return {"folder": str(self.path.resolve()), "files": _stamps(self._paths(), self.path)}

    def files(self) -> Iterator[ImageFile]:
        """Yield the files with their paths in the folder as names."""
        for path in self._paths():
            yield path.relative_to(self.path).as_posix(), partial(read_file, path)


@dataclass(frozen=True)
class Zip:
    """Image files in a zip, by name; none is ever unpacked to disk."""

    path: Path

    def fingerprint(self) -> dict[str, Any]:
        """Path, size and time of change of the zip."""
        return {"zip": str(self.path.resolve()), "files": _stamps([self.path], self.path.parent)}

    def files(self) -> Iterator[ImageFile]:
        """Yield the members with their paths in the zip as names."""
        try:
            archive = zipfile.ZipFile(self.path)  # not closed here: threads still read from it after the last name
        except READ_ERRORS as error:
            raise SDICError(f"The zip {self.path} cannot be opened ({error}): copy or pack it again.") from error
        for name in sorted(name for name in archive.namelist() if Path(name).suffix.lower() in IMAGE_SUFFIXES):
            yield name, partial(_read_member, archive, name)


@dataclass(frozen=True)
class HubDataset:
    """The image column of a data set of the library `datasets`, on the Hub or in a local folder.

    Attributes:
        name: Hub id, or local folder.
        split: Its split, such as "train" or "train[:1000]".
        revision: Commit or tag on the Hub, or None for the newest.
        streaming: Whether to read it without keeping its files.
    """

    name: str
    split: str = "train"
    revision: str | None = None
    streaming: bool = False

    def fingerprint(self) -> dict[str, Any]:
        """Name, split and revision; of a local folder its files too.

        Without a revision, a Hub data set that was read once is taken to stay as it is, so that a run resumes on the
        same images and needs no network.
        """
        stamps = {}
        if os.path.isdir(self.name):
            folder = Path(self.name).resolve()
            stamps = {"files": _stamps(sorted(p for p in folder.rglob("*") if p.is_file()), folder)}
        name = str(folder) if stamps else self.name
        return {"dataset": name, "split": self.split, "revision": self.revision, **stamps}

    def files(self) -> Iterator[ImageFile]:
        """Yield the images as the data set stores them; a row without a file name is named after its number."""
        rows = self._load()
        column = _image_column(rows, self.name)
        images = rows.select_columns([column]).cast_column(column, _library().Image(decode=False))
        for index, row in enumerate(images):
            cell = row[column] or {}
            yield _row_name(cell.get("path"), Path(self.name), index), partial(_read_cell, cell)

    def _load(self) -> Any:
        datasets = _library()
        try:
            return datasets.load_dataset(self.name, split=self.split, revision=self.revision, streaming=self.streaming)
        except Exception as error:  # whatever the builder of that format raises
            reason = " ".join(str(error).split())[:300]
            raise SDICError(
                f"The data set {self.name!r}, split {self.split!r}, cannot be loaded ({reason}): give a Hub id or a "
                "local folder, and one of its splits, as dataset:NAME:SPLIT."
            ) from error


def _is_zip(path: Path) -> bool:
    try:  # is_zipfile would read a device without end
        return os.path.isfile(path) and zipfile.is_zipfile(path)
    except READ_ERRORS:  # a damaged table of contents
        return False


def _read_member(archive: zipfile.ZipFile, name: str) -> bytes:
    size = archive.getinfo(name).file_size
    if size > LARGEST_FILE:
        raise OSError(f"it unpacks to {size} bytes, and at most {LARGEST_FILE} are read")
    return archive.read(name)


def _library() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise SDICError(
            "A data set was given, but the library `datasets` is not installed: run "
            "pip install 'sdic-plugin[train]', or give a folder or zip."
        ) from error
    return datasets


def _image_column(rows: Any, name: str) -> str:
    """Find the column that holds images: by its type, else by its name."""
    features = rows.features
    if features is None:  # a stream does not always know its columns before its first row
        rows = rows._resolve_features()
        features = rows.features
    images = [column for column, kind in features.items() if isinstance(kind, _library().Image)]
    named = [column for column in IMAGE_COLUMN_NAMES if column in features]
    if not images and not named:
        raise SDICError(f"The data set {name!r} has the columns {list(features)}, but one with images is needed.")
    return (images or named)[0]


def _row_name(path: str | None, folder: Path, index: int) -> str:
    """Name a row after its file, without what depends on the machine."""
    if not path:
        return f"{index:08d}"
    if folder.is_dir() and Path(path).is_relative_to(folder.resolve()):
        return Path(path).relative_to(folder.resolve()).as_posix()
    return PurePosixPath(path).name


def _read_cell(cell: dict[str, Any]) -> bytes:
    if cell.get("bytes") is not None:
        return cell["bytes"]
    if not cell.get("path"):
        raise OSError("the row is empty")
    path = str(cell["path"])
    if "://" in path:  # a stream's file
        from datasets.download.streaming_download_manager import xopen

        with xopen(path, "rb") as file:
            return file.read()
    return read_file(Path(path))


def _stamps(paths: list[Path], folder: Path) -> list[tuple[str, int, int]]:
    stats = ((path, path.stat()) for path in paths)
    return [(path.relative_to(folder).as_posix(), stat.st_size, stat.st_mtime_ns) for path, stat in stats]
