"""Labels of photos from a CSV file, by whose values figures are grouped: whether a model serves everybody alike."""

from __future__ import annotations

import csv
import difflib
import io
import os
import zipfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath

from sdic_plugin.errors import READ_ERRORS, SDICError, cut_middle, listed, short_reason, shorten
from sdic_plugin.images.sources import read_file

Row = Mapping[str, str | None]

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
    found = _rows_of(names, [(row[key] or "", row) for row in rows])
    missing = [name for name, row in zip(names, found, strict=True) if row is None]
    if missing:
        others = f" and {len(missing) - 1} others" if len(missing) > 1 else ""
        raise SDICError(
            f"The labels in {place} have no row for the image {shorten(missing[0])}{others}, or several that might be "
            f"meant: its column {key!r} must name every image, with its folder where two have one name."
        )
    return {column: [((row or {})[column] or "").strip() for row in found] for column in columns}


def _rows_of(names: Sequence[str], rows: Sequence[tuple[str, Row]]) -> list[Row | None]:
    """Find each image's row by its path, else by its file name alone, if no other image or row has the same."""
    by_path = dict(rows)
    by_name: dict[str, list[Row]] = {}
    for path, row in rows:
        by_name.setdefault(PurePosixPath(path).name, []).append(row)
    count = Counter(PurePosixPath(name).name for name in names)
    found: list[Row | None] = []
    for name in names:
        alone = by_name.get(PurePosixPath(name).name, [])
        fits = len(alone) == 1 and count[PurePosixPath(name).name] == 1
        found.append(by_path.get(name, alone[0] if fits else None))
    return found


def positions(labels: Sequence[str]) -> Mapping[str, list[int]]:
    """Indices of the photos by label, the labels in alphabetical order."""
    found: dict[str, list[int]] = {label: [] for label in sorted(set(labels))}
    for index, label in enumerate(labels):
        found[label].append(index)
    return found


def _read_file(path: Path) -> str:
    try:
        return _decode(read_file(path, LARGEST), str(path))
    except OSError as error:
        raise SDICError(
            f"The labels {cut_middle(str(path), 200)} cannot be read ({short_reason(error)}): name a CSV file as "
            "`labels`."
        ) from error


def _read_beside(data: Path) -> tuple[str, str]:
    """Place and text of the only CSV file in a folder or zip."""
    found: list[str] = []
    try:
        if data.is_dir():
            found = _tables(path.name for path in data.iterdir())
            if len(found) == 1:
                return str(data / found[0]), _read_file(data / found[0])
        elif os.path.isfile(data) and zipfile.is_zipfile(data):
            with zipfile.ZipFile(data) as archive:
                found = _tables(archive.namelist())
                if len(found) == 1 and archive.getinfo(found[0]).file_size <= LARGEST:
                    place = f"{data}/{found[0]}"
                    return place, _decode(archive.read(found[0]), place)
    except READ_ERRORS as error:
        raise SDICError(
            f"The labels in {cut_middle(str(data), 200)} cannot be read ({short_reason(error)}): name a CSV file as "
            "`labels`."
        ) from error
    number = "several tables" if len(found) > 1 else "no table"
    raise SDICError(
        f"The data {cut_middle(str(data), 200)} hold {number} of labels (.csv) that can be read: name one as `labels`."
    )


def _tables(names: Iterable[str]) -> list[str]:
    """CSV files among names; those that begin with a dot are a file system's own."""
    return sorted(
        name for name in names if name.lower().endswith(".csv") and not PurePosixPath(name).name.startswith(".")
    )


def _decode(content: bytes, place: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SDICError(f"The labels in {cut_middle(place, 200)} are no text in UTF-8: save them as such.") from error
