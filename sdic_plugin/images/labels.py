"""Labels of photos from a CSV file, by whose values figures are grouped: whether a model serves everybody alike."""

from __future__ import annotations

import csv
import difflib
import io
import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from sdic_plugin.errors import SDICError, cut_middle, listed, shorten

FILE_COLUMN = "file"
"""Column that names the image; without one of this name, it is the first."""

LARGEST = 64 * 2**20
"""Largest file of labels, in bytes."""


def read_labels(
    data: str | os.PathLike[str],
    names: Sequence[str],
    columns: Sequence[str],
    path: str | os.PathLike[str] | None = None,
) -> dict[str, list[str]]:
    """Read the labels of images.

    Args:
        data: Folder or zip of the images, whose only CSV file is taken if `path` is None.
        names: Of the images, with or without folders.
        columns: Columns to read.
        path: CSV file, in UTF-8, whose first row names the columns. Its column "file", else the first, names images.

    Returns:
        By column, a label for each name, in their order; "" where a cell is empty.

    Raises:
        SDICError: If there is no such file, column or row.
    """
    place, text = (str(path), _read_file(Path(path))) if path is not None else _read_beside(Path(data))
    place = cut_middle(place, 200)
    try:
        table = csv.DictReader(io.StringIO(text), strict=True)
        header = list(table.fieldnames or [])
        rows = list(table)
    except csv.Error as error:
        raise SDICError(f"The labels in {place} are no CSV table ({error}): mend the file.") from error
    for column in columns:
        if column not in header:
            near = difflib.get_close_matches(column, header, n=1)
            advice = f"perhaps {near[0]} was meant" if near else f"there are {listed(header)}"
            raise SDICError(f"The labels in {place} have no column {shorten(column)}: {advice}.")
    key = FILE_COLUMN if FILE_COLUMN in header else header[0]
    by_name = {PurePosixPath(row[key] or "").name: row for row in rows}
    missing = [name for name in names if PurePosixPath(name).name not in by_name]
    if missing:
        others = f" and {len(missing) - 1} others" if len(missing) > 1 else ""
        raise SDICError(
            f"The labels in {place} have no row for the image {shorten(missing[0])}{others}: its column {key!r} must "
            "name every image."
        )
    found = [by_name[PurePosixPath(name).name] for name in names]
    return {column: [(row[column] or "").strip() for row in found] for column in columns}


def positions(labels: Sequence[str]) -> Mapping[str, list[int]]:
    """Indices of the photos by label, the labels in alphabetical order."""
    found: dict[str, list[int]] = {label: [] for label in sorted(set(labels))}
    for index, label in enumerate(labels):
        found[label].append(index)
    return found


def _read_file(path: Path) -> str:
    if not path.is_file():
        raise SDICError(f"The labels {cut_middle(str(path), 200)} are no file: name a CSV file with --labels.")
    if path.stat().st_size > LARGEST:
        raise SDICError(
            f"The labels {cut_middle(str(path), 200)} are larger than {LARGEST} bytes: give fewer columns."
        )
    return _decode(path.read_bytes(), str(path))


def _read_beside(data: Path) -> tuple[str, str]:
    """Place and text of the only CSV file in a folder or zip."""
    if data.is_dir():
        found = sorted(path for path in data.iterdir() if path.suffix.lower() == ".csv")
        names = [path.name for path in found]
    elif zipfile.is_zipfile(data):
        with zipfile.ZipFile(data) as archive:
            members = [item for item in archive.infolist() if item.filename.lower().endswith(".csv")]
            names = [item.filename for item in members]
            if len(members) == 1 and members[0].file_size <= LARGEST:
                place = f"{data}/{names[0]}"
                return place, _decode(archive.read(members[0]), place)
    else:
        names = []
    if data.is_dir() and len(names) == 1:
        return str(found[0]), _read_file(found[0])
    number = "several tables" if len(names) > 1 else "no table"
    raise SDICError(
        f"The data {cut_middle(str(data), 200)} hold {number} of labels (.csv) that can be read: name one with "
        "--labels FILE."
    )


def _decode(content: bytes, place: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SDICError(f"The labels in {cut_middle(place, 200)} are no text in UTF-8: save them as such.") from error
