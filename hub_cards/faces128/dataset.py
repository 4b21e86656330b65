"""Renews the counts in the card of the faces that `faces128` was trained on, which are FairFace's.

Run, in the repository: python -m hub_cards.faces128.dataset --data DIR

DIR holds faces128_train.zip and faces128_val.zip, each with its labels (faces.csv).
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from hub_cards.renewing import ROOT, replace_table
from sdic_plugin.errors import SDICError
from sdic_plugin.images.labels import read_labels
from sdic_plugin.images.sources import open_source

CARD = ROOT / "hub_cards" / "faces128" / "dataset.md"
ZIPS = ("faces128_train.zip", "faces128_val.zip")
COLUMNS = ("age", "gender", "group")

Counts = Mapping[str, Counter[str]]
"""Number of pictures by label, by column; and of all pictures, as the column ""."""


def count_labels(data: Path) -> Counts:
    """Count the labels of a zip of pictures."""
    names = [name for name, _ in open_source(data).files()]
    labels = read_labels(data, names, COLUMNS)
    return {"": Counter({"pictures": len(names)}), **{column: Counter(labels[column]) for column in COLUMNS}}


def counts_table(names: Sequence[str], counts: Sequence[Counts]) -> str:
    """Write the counts of several zips side by side as a table in Markdown; the most frequent labels come first."""
    lines = [f"|  | {' | '.join(f'`{name}`' for name in names)} |", f"| --- |{' --- |' * len(names)}"]
    for column in ("", *COLUMNS):
        values = sum((each[column] for each in counts), Counter[str]())
        order = sorted(values) if column == "age" else [label for label, _ in values.most_common()]
        for label in order:
            head = f"`{column}`: {label.replace('_', ' / ')}" if column else label
            lines.append(f"| {head} | {' | '.join(f'{each[column][label]:,}' for each in counts)} |")
    return "\n".join(lines)


def main() -> None:
    """Parse the command line and renew."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with both zips of faces")
    folder = parser.parse_args().data
    for name in ZIPS:
        if not (folder / name).is_file():
            raise SDICError(f"{folder} has no {name}: name the folder that holds the faces.")
    replace_table(CARD, "counts", counts_table(ZIPS, [count_labels(folder / name) for name in ZIPS]))


if __name__ == "__main__":
    try:
        main()
    except SDICError as error:
        sys.exit(f"faces128_dataset: {error}")
