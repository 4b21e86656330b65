"""Rebuild the training pictures of the bundled `cats64` model from the public collection (`sdic data cats64`).

The pictures are not part of this package. The manifest beside this file lists, for every picture used, its name in the
rebuilt zips, the SHA-256 of its file and its split; the collection's files are recognised by their content, so neither
their names nor their folders matter.
"""

from __future__ import annotations

import csv
import hashlib
import os
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sdic_plugin.errors import READ_ERRORS, SDICError
from sdic_plugin.images.sources import read_file
from sdic_plugin.utils.files import check_output_folder

MANIFEST = Path(__file__).with_name("cats64_manifest.csv")
COLLECTION = "https://github.com/AnnikaV9/cat-dataset (MIT; the archive is on its releases page)"
SPLITS = ("train", "val")
MAX_FILE_BYTES = 1 << 20
"""Larger files are not read: the collection's pictures have a few kilobytes each."""

TAR_ENDINGS = (".tar", ".tar.gz", ".tar.bz2", ".tar.xz", ".tgz", ".tbz2", ".txz")


@dataclass(frozen=True)
class Cats64Summary:
    """What `rebuild_cats64` did.

    Attributes:
        archives: Split to the zip written for it.
        counts: Split to its number of pictures.
        files_read: Number of files compared with the manifest.
        unreadable: Files of the source that could not be read, with the reason.
    """

    archives: dict[str, Path]
    counts: dict[str, int]
    files_read: int
    unreadable: tuple[str, ...]


@dataclass(frozen=True)
class ManifestEntry:
    """One picture: its name in the zip ("train/00000.jpg"), the SHA-256 of its file, and its split."""

    name: str
    sha256: str
    split: str


def rebuild_cats64(source: str | Path, output: str | Path, manifest: Path = MANIFEST) -> Cats64Summary:
    """Write `cats64_train.zip` and `cats64_val.zip` from a local copy of the collection.

    The result depends on the manifest alone: members are stored without compression, in the manifest's order, with a
    fixed date. Nothing is written unless every picture was found.

    Args:
        source: The downloaded archive (.zip or .tar, compressed or not), or a folder that holds it or the pictures,
            however named and nested; archives are read in memory, never unpacked.
        output: Folder for the two zips; made if it does not exist.
        manifest: CSV file with the columns name, sha256, split.

    Returns:
        What was written, and which files of the source could not be read.

    Raises:
        SDICError: If the source does not exist or does not hold every picture of the manifest, or `output` is a file.
    """
    if not str(source).strip() or not str(output).strip():
        raise SDICError("The source or the output has an empty name: give the paths of two folders.")
    source, output = Path(source), Path(output)
    entries = read_manifest(manifest)
    if not source.exists():
        raise SDICError(f"{str(source)!r} does not exist; pass a folder or archive with the pictures of {COLLECTION}.")
    if os.path.isfile(output):
        raise SDICError(f"The output {str(output)!r} is a file; pass a folder for the two zips.")
    check_output_folder(output)
    reader = _SourceReader()
    wanted = {entry.sha256 for entry in entries}
    found: dict[str, bytes] = {}
    for content in reader.contents(source):
        digest = hashlib.sha256(content).hexdigest()
        if digest in wanted:
            found[digest] = content
    _check_complete(entries, found, source, reader)
    archives = _write_archives(entries, found, output)
    counts = {split: sum(entry.split == split for entry in entries) for split in archives}
    return Cats64Summary(archives, counts, reader.files_read, tuple(reader.unreadable))


def read_manifest(path: Path = MANIFEST) -> list[ManifestEntry]:
    """Read a manifest (columns name, sha256, split), in its order.

    Raises:
        SDICError: If the columns, a split or a checksum are not as they should be, or a name occurs twice.
    """
    with open(path, newline="", encoding="utf-8") as file:
        table = csv.DictReader(file)
        if table.fieldnames != ["name", "sha256", "split"]:
            raise SDICError(f"{path} has the columns {table.fieldnames} and name, sha256, split are needed.")
        entries = [ManifestEntry(row["name"], row["sha256"], row["split"]) for row in table]
    for entry in entries:
        if entry.split not in SPLITS or len(entry.sha256 or "") != 64:
            raise SDICError(f"{path} has the wrong {entry}; give a SHA-256 of 64 digits and a split of {SPLITS}.")
    if len({entry.name for entry in entries}) != len(entries):
        raise SDICError(f"{path} names a picture twice; give every picture its own name.")
    return entries


class _SourceReader:
    """Yields the content of every small file under a path, looking into archives, and notes what it could not read."""

    def __init__(self) -> None:
        self.files_read = 0
        self.unreadable: list[str] = []

    def contents(self, source: Path) -> Iterator[bytes]:
        for path in _files(source):
            try:
                yield from self._contents_of(path)
            except READ_ERRORS as error:
                self.unreadable.append(f"{path}: {error}")

    def _contents_of(self, path: Path) -> Iterator[bytes]:
        for name, read in _file_readers(path):
            try:
                content = read()
            except READ_ERRORS as error:  # one damaged member does not stop the others
                self.unreadable.append(f"{name}: {error}")
                continue
            self.files_read += 1
            yield content


def _files(source: Path) -> Iterator[Path]:
    if source.is_file():
        yield source
        return
    for folder, subfolders, names in os.walk(source):
        subfolders.sort()
        yield from (path for name in sorted(names) if (path := Path(folder, name)).is_file())


def _file_readers(path: Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Name and reading function of each small file in `path`: itself, or an archive's members."""
    name = path.name.lower()
    if name.endswith(".zip"):
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                if not member.is_dir() and member.file_size <= MAX_FILE_BYTES:
                    yield f"{path}/{member.filename}", partial(archive.read, member)
    elif name.endswith(TAR_ENDINGS):
        with tarfile.open(path, "r|*") as stream:
            for entry in stream:
                if entry.isfile() and entry.size <= MAX_FILE_BYTES and (file := stream.extractfile(entry)):
                    yield f"{path}/{entry.name}", file.read
    elif path.stat().st_size <= MAX_FILE_BYTES:
        yield str(path), partial(read_file, path, MAX_FILE_BYTES)


def _check_complete(
    entries: list[ManifestEntry], found: dict[str, bytes], source: Path, reader: _SourceReader
) -> None:
    missing = [entry for entry in entries if entry.sha256 not in found]
    if not missing:
        return
    bad = reader.unreadable
    broken = f"; {len(bad)} could not be read, first {bad[0]}" if bad else ""
    raise SDICError(
        f"{len(missing)} of {len(entries)} pictures are not among the {reader.files_read} files in {str(source)!r} "
        f"(the first: {missing[0].name}, SHA-256 {missing[0].sha256}{broken}); "
        f"get the whole collection from {COLLECTION} and pass its folder or archive."
    )


def _write_archives(entries: list[ManifestEntry], found: dict[str, bytes], output: Path) -> dict[str, Path]:
    """Write all archives beside their targets, then rename them, so that none is ever half-written."""
    output.mkdir(parents=True, exist_ok=True)
    targets = {split: output / f"cats64_{split}.zip" for split in SPLITS}
    with tempfile.TemporaryDirectory(dir=output, prefix=".cats64-") as temporary:
        for split, target in targets.items():
            with zipfile.ZipFile(Path(temporary, target.name), "w", zipfile.ZIP_STORED) as archive:
                for entry in entries:
                    if entry.split == split:
                        archive.writestr(_member(entry.name), found[entry.sha256])
        for target in targets.values():
            os.replace(Path(temporary, target.name), target)
    return targets


def _member(name: str) -> zipfile.ZipInfo:
    """Archive member without a date, or traces of the machine that wrote it."""
    member = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    member.create_system = 3
    member.external_attr = 0o644 << 16
    return member
