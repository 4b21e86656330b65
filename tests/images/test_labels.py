"""Figures by the photos' labels: what is read, what is refused, and that the figures are those of the photos named."""

from __future__ import annotations

import json
import re
import zipfile

import pytest
import torch
from PIL import Image

from sdic_plugin import SDICError
from sdic_plugin.commands.cli import main
from sdic_plugin.evaluation import evaluate
from sdic_plugin.evaluation.markdown import card_tables
from sdic_plugin.images.labels import read_labels

NAMES = ["a.png", "b.png", "c.png"]
TABLE = "file,age,group\nc.png,old,\nfolder/a.png,young,x\nb.png, old ,y\n"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "photos").mkdir()
    for index, name in enumerate(NAMES):
        Image.new("RGB", (64, 64), (80 * index, 90, 120)).save(tmp_path / "photos" / name)
    (tmp_path / "photos" / "labels.csv").write_text(TABLE, encoding="utf-8-sig")
    return tmp_path / "photos"


def packed(folder):
    archive = folder.parent / "photos.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in folder.iterdir():
            file.write(path, f"inside/{path.name}")
    return archive


def test_labels_come_in_the_order_of_the_images(folder):
    wanted = {"age": ["young", "old", "old"], "group": ["x", "y", ""]}
    for data in (folder, packed(folder)):
        assert read_labels(data, NAMES, ["age", "group"]) == wanted
    (folder / "second.csv").write_text("picture,age\nb.png,1\na.png,2\nc.png,3\n")
    assert read_labels(folder, NAMES, ["age"], folder / "second.csv") == {"age": ["2", "1", "3"]}


@pytest.mark.parametrize(
    ("table", "columns", "words"),
    [
        (TABLE, ["aeg"], "perhaps age was meant"),
        (TABLE, ["zzz"], "there are"),
        (TABLE.replace("b.png", "d.png"), ["age"], r"no row for the image 'b\.png', or"),
        (TABLE.partition("\n")[0], ["age"], r"'a\.png' and 2 others"),
        ("", ["age"], "no column"),
        ('file,age\n"a.png,1', ["age"], "no CSV table"),
        (b"\xff\xfe\x00", ["age"], "UTF-8"),
        (None, ["age"], "no table of labels"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_sentence(folder, table, columns, words):
    if table is None:
        (folder / "labels.csv").unlink()
    else:
        (folder / "labels.csv").write_bytes(table if isinstance(table, bytes) else table.encode())
    with pytest.raises(SDICError, match=words) as error:
        read_labels(folder, NAMES, columns)
    assert len(str(error.value).splitlines()) == 1


def test_other_places_are_refused(folder):
    with pytest.raises(SDICError, match=r"cannot be read \(.*no regular file"):
        read_labels(folder, NAMES, ["age"], folder / "none.csv")
    (folder / "second.csv").write_text(TABLE)
    for data in (folder, packed(folder)):
        with pytest.raises(SDICError, match="several tables"):
            read_labels(data, NAMES, ["age"])
    with pytest.raises(SDICError, match="no table"):
        read_labels("dataset:some/faces:train", NAMES, ["age"])


def test_images_of_one_name_in_two_folders_are_told_apart_or_refused(folder):
    names = ["left/a.png", "right/a.png"]
    (folder / "labels.csv").write_text("file,age\nright/a.png,2\nleft/a.png,1\n")
    assert read_labels(folder, names, ["age"]) == {"age": ["1", "2"]}
    (folder / "labels.csv").write_text("file,age\na.png,1\n")
    with pytest.raises(SDICError, match="or several that might be meant"):
        read_labels(folder, names, ["age"])
    (folder / "labels.csv").write_text("file,age\nx/a.png,1\ny/a.png,2\n")
    with pytest.raises(SDICError, match="or several that might be meant"):
        read_labels(folder, ["a.png"], ["age"])


def test_what_a_file_system_adds_is_no_table_and_a_damaged_zip_is_refused(folder):
    (folder / "._labels.csv").write_bytes(b"\0")
    archive = packed(folder)
    for data in (folder, archive):
        assert read_labels(data, ["a.png"], ["age"]) == {"age": ["young"]}
    content = bytearray(archive.read_bytes())
    start = content.find(b"c.png,old")
    content[start : start + 5] = b"xxxxx"  # no longer what its checksum says
    archive.write_bytes(content)
    with pytest.raises(SDICError, match=r"cannot be read \(.*CRC"):
        read_labels(archive, NAMES, ["age"])


def test_figures_of_a_group_are_those_of_its_photos_alone(cats64):
    photos = (torch.rand(5, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 255).byte()
    labels = {"coat": ["red", "", "red", "grey", "red"]}
    report = evaluate(cats64, photos, labels=labels)
    groups = {group.label: group for group in report.groups}
    assert [(group.label, group.count) for group in report.groups] == [("", 1), ("grey", 1), ("red", 3)]
    alone = evaluate(cats64, photos[[0, 2, 4]])
    assert groups["red"].figures["psnr"].mean == pytest.approx(alone.inversion_psnr.mean, abs=1e-3)
    assert groups["red"].figures["psnr_gain"].std == pytest.approx(alone.psnr_gain.std, abs=1e-3)
    cosine = sum(edit.cosine.mean for edit in alone.edits.values()) / len(alone.edits)
    assert groups["red"].figures["cosine"].mean == pytest.approx(cosine, abs=1e-3)
    line = next(line for line in card_tables(report).splitlines() if line.startswith("| red | 3 "))
    half = 1.96 * groups["red"].figures["psnr"].std / 3**0.5
    assert f"{groups['red'].figures['psnr'].mean:.2f} ± {half:.2f}" in line
    alone = next(line for line in card_tables(report).splitlines() if line.startswith("| grey | 1 "))
    assert "±" not in alone


def test_the_command_groups_by_columns(folder, capsys):
    out = folder.parent / "out"
    command = ["evaluate", "--data", str(folder), "--out", str(out)]
    assert main([*command, "--by", "age", "group"]) == 0
    report = json.loads((out / "evaluation.json").read_text(encoding="utf-8"))
    counts = {(group["column"], group["label"]): group["count"] for group in report["groups"]}
    assert counts == {("age", "old"): 2, ("age", "young"): 1, ("group", ""): 1, ("group", "x"): 1, ("group", "y"): 1}
    printed = capsys.readouterr().out
    assert "| age (mean ± 95 % interval) | photos |" in printed and re.search(r"\| – \| 1 \|", printed)
    assert main([*command, "--labels", str(folder / "labels.csv")]) == 2
    assert "name columns with --by" in capsys.readouterr().err
