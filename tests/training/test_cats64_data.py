"""Rebuilding the training pictures from a local copy of the collection, by content."""

from __future__ import annotations

import csv
import hashlib
import io
import os
import tarfile
import zipfile
from collections import Counter
from pathlib import Path

import pytest

from sdic_plugin.errors import SDICError
from sdic_plugin.training.datasets import cats64
from sdic_plugin.training.datasets.cats64 import MANIFEST, read_manifest, rebuild_cats64

PICTURES = {
    "train/00000.jpg": b"first picture",
    "train/00001.jpg": b"second picture",
    "val/00000.jpg": b"third picture",
}


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    path = tmp_path / "manifest.csv"
    write_manifest(path, [(name, hashlib.sha256(data).hexdigest(), name[:-10]) for name, data in PICTURES.items()])
    return path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Pictures spread over nested folders, a zip and a tarball, under other names, with other files between them."""
    folder = tmp_path / "source"
    (folder / "a" / "b").mkdir(parents=True)
    first, second, third = PICTURES.values()
    (folder / "a" / "b" / "cat.1.jpeg").write_bytes(second)
    (folder / "README.txt").write_text("not a picture")
    with zipfile.ZipFile(folder / "a" / "more.ZIP", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/y/z.jpg", third)
        archive.writestr("x/y/other.jpg", b"another cat")
    with tarfile.open(folder / "cats.tar.gz", "w:gz") as archive:
        archive.addfile(tar_member("cats/9.jpg", len(first)), io.BytesIO(first))
    return folder


def tar_member(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size = size
    return member


def write_manifest(path: Path, rows: list[tuple[str, ...]], columns=("name", "sha256", "split")) -> None:
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])


def test_zips_hold_every_picture_under_its_manifest_name(source, manifest, tmp_path):
    output = tmp_path / "new" / "out"
    summary = rebuild_cats64(source, output, manifest)
    assert summary.counts == {"train": 2, "val": 1}
    assert summary.files_read == 5
    assert summary.unreadable == ()
    assert summary.archives == {split: output / f"cats64_{split}.zip" for split in ("train", "val")}
    contents = {}
    for path in summary.archives.values():
        with zipfile.ZipFile(path) as archive:
            assert all(member.compress_type == zipfile.ZIP_STORED for member in archive.infolist())
            contents |= {name: archive.read(name) for name in archive.namelist()}
    assert contents == PICTURES
    assert list(contents) == list(PICTURES)  # the manifest's order
    assert sorted(path.name for path in output.iterdir()) == ["cats64_train.zip", "cats64_val.zip"]


def test_result_depends_on_the_manifest_only(source, manifest, tmp_path):
    first = rebuild_cats64(source, tmp_path / "one", manifest)
    second = rebuild_cats64(tmp_path / "one", tmp_path / "two", manifest)  # from our own zips
    for split in ("train", "val"):
        assert first.archives[split].read_bytes() == second.archives[split].read_bytes()


def test_source_may_be_the_archive_itself(manifest, tmp_path):
    path = tmp_path / "cats.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for index, data in enumerate(PICTURES.values()):
            archive.writestr(f"{index}", data)
    assert rebuild_cats64(path, tmp_path / "out", manifest).files_read == 3


def test_missing_pictures_are_counted_and_nothing_is_written(source, manifest, tmp_path):
    (source / "a" / "more.ZIP").unlink()
    (source / "cats.tar.gz").write_bytes(b"truncated")
    output = tmp_path / "out"
    words = r"2 of 3 pictures are not among the 2 files.*train/00000.jpg.*1 could not be read.*cats.tar.gz.*AnnikaV9"
    with pytest.raises(SDICError, match=words):
        rebuild_cats64(source, output, manifest)
    assert not output.exists()


def test_damaged_member_does_not_hide_the_others(source, manifest, tmp_path):
    path = source / "a" / "damaged.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("bad", b"BADBADBAD")
        archive.writestr("good", b"a good one")
    path.write_bytes(path.read_bytes().replace(b"BADBADBAD", b"BADXXXBAD"))
    summary = rebuild_cats64(source, tmp_path / "out", manifest)
    assert summary.files_read == 6
    assert len(summary.unreadable) == 1
    assert "damaged.zip/bad" in summary.unreadable[0]


def test_names_inside_archives_never_become_paths(source, manifest, tmp_path):
    first, _, third = PICTURES.values()
    (source / "cats.tar.gz").unlink()
    (source / "a" / "more.ZIP").unlink()
    with zipfile.ZipFile(source / "slip.zip", "w") as archive:
        archive.writestr("../../slipped.jpg", first)
    with tarfile.open(source / "slip.tar", "w") as archive:
        archive.addfile(tar_member("../../../slipped.jpg", len(third)), io.BytesIO(third))
    rebuild_cats64(source, tmp_path / "out", manifest)
    assert not list(tmp_path.rglob("slipped*"))
    with zipfile.ZipFile(tmp_path / "out" / "cats64_train.zip") as archive:
        assert archive.namelist() == ["train/00000.jpg", "train/00001.jpg"]


def test_large_files_are_not_read(source, manifest, tmp_path, monkeypatch):
    monkeypatch.setattr(cats64, "MAX_FILE_BYTES", len(PICTURES["train/00001.jpg"]) - 1)
    with pytest.raises(SDICError, match="1 of 3 pictures are not among the 4 files"):
        rebuild_cats64(source, tmp_path / "out", manifest)


def test_failed_write_leaves_the_old_zips_alone(source, manifest, tmp_path, monkeypatch):
    output = tmp_path / "out"
    output.mkdir()
    (output / "cats64_train.zip").write_bytes(b"old")

    def fail(name: str) -> zipfile.ZipInfo:
        if name.startswith("val/"):
            raise OSError("disk full")
        return zipfile.ZipInfo(name)

    monkeypatch.setattr(cats64, "_member", fail)
    with pytest.raises(OSError, match="disk full"):
        rebuild_cats64(source, output, manifest)
    assert {path.name: path.read_bytes() for path in output.iterdir()} == {"cats64_train.zip": b"old"}


def test_wrong_places(source, manifest, tmp_path):
    with pytest.raises(SDICError, match=r"nowhere' does not exist.*AnnikaV9"):
        rebuild_cats64(tmp_path / "nowhere", tmp_path / "out", manifest)
    with pytest.raises(SDICError, match="is a file; pass a folder"):
        rebuild_cats64(source, manifest, manifest)


@pytest.mark.parametrize(
    ("rows", "columns", "words"),
    [
        ([("a", "0" * 64, "train")], ("file", "sha256", "split"), "has the columns"),
        ([("a", "0" * 64, "test")], ("name", "sha256", "split"), "split='test'"),
        ([("a", "0" * 63, "val")], ("name", "sha256", "split"), "64 digits"),
        ([("a", "0" * 64, "val")] * 2, ("name", "sha256", "split"), "names a picture twice"),
    ],
)
def test_wrong_manifest(tmp_path, rows, columns, words):
    write_manifest(tmp_path / "m.csv", rows, columns)
    with pytest.raises(SDICError, match=words):
        read_manifest(tmp_path / "m.csv")


def test_committed_manifest_is_complete():
    entries = read_manifest(MANIFEST)
    assert Counter(entry.split for entry in entries) == {"train": 8500, "val": 500}
    assert len({entry.sha256 for entry in entries}) == 9000
    assert [entry.name for entry in entries if entry.split == "val"] == [f"val/{i:05}.jpg" for i in range(500)]
    assert [entry.name for entry in entries if entry.split == "train"] == [f"train/{i:05}.jpg" for i in range(8500)]


@pytest.mark.skipif("SDIC_DATA" not in os.environ, reason="SDIC_DATA does not name the data folder")
def test_rebuilt_zips_hold_the_pictures_of_the_real_ones(tmp_path):
    data = Path(os.environ["SDIC_DATA"])
    summary = rebuild_cats64(data, tmp_path)
    assert summary.counts == {"train": 8500, "val": 500}
    for split, path in summary.archives.items():
        with zipfile.ZipFile(path) as ours, zipfile.ZipFile(data / f"cats64_{split}.zip") as theirs:
            assert ours.namelist() == theirs.namelist()
            assert all(ours.read(name) == theirs.read(name) for name in ours.namelist())
