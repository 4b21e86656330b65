"""The card of the faces that `faces128` was trained on: what the Hub reads of it, what it must say, its counts."""

from __future__ import annotations

import re
import zipfile

from huggingface_hub import DatasetCard
from PIL import Image

from hub_cards.faces128 import dataset

TEXT = dataset.CARD.read_text(encoding="utf-8")


def test_the_hub_can_read_it():
    data = DatasetCard(TEXT, ignore_metadata_errors=False).data
    assert data.license == "cc-by-4.0" and data.size_categories == ["10K<n<100K"]
    assert data.task_categories == ["unconditional-image-generation", "image-to-image"]
    assert data.pretty_name and not re.search(r"\bNone\b|\n\n\n|/home/|/tmp/|!\[", TEXT)


def test_it_says_whose_the_data_are():
    first = TEXT.split("\n# ")[1].split("\n## ")[0]
    assert (
        "**These data are not ours.**" in first and "FairFace" in first and "We do not publish the pictures" in first
    )
    assert "make no edit of `group`" in TEXT and "WACV" in TEXT.split("## Licence")[1]


def test_its_counts_are_those_of_the_data(data_folder):
    counts = [dataset.count_labels(data_folder / name) for name in dataset.ZIPS]
    assert f"\n\n{dataset.counts_table(dataset.ZIPS, counts)}\n\n" in TEXT
    for column in dataset.COLUMNS:
        assert [each[column].total() for each in counts] == [each[""]["pictures"] for each in counts]


def test_labels_are_counted(tmp_path):
    rows = ["file,age,gender,group", "a.png,20-29,Male,A_B", "b.png,20-29,Female,C", "c.png,30-39,Female,C"]
    Image.new("RGB", (8, 8)).save(tmp_path / "face.png")
    with zipfile.ZipFile(tmp_path / "faces.zip", "w") as archive:
        archive.writestr("faces.csv", "\n".join(rows))
        for row in rows[1:]:
            archive.write(tmp_path / "face.png", row.split(",")[0])
    table = dataset.counts_table(["faces.zip"], [dataset.count_labels(tmp_path / "faces.zip")])
    assert table.splitlines()[2:] == [
        "| pictures | 3 |", "| `age`: 20-29 | 2 |", "| `age`: 30-39 | 1 |", "| `gender`: Female | 2 |",
        "| `gender`: Male | 1 |", "| `group`: C | 2 |", "| `group`: A / B | 1 |",
    ]  # fmt: skip
