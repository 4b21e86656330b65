"""Pictures of folders, zips and data sets, and the cache of what was decoded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from testing.picture_folders import png, write_pictures

from sdic_plugin import SDICError
from sdic_plugin.images.cache import load_images, open_images
from sdic_plugin.images.sources import HubDataset, open_source
from sdic_plugin.training.data import gather

SIZE = 16


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """Every test has a cache of its own, and no network."""
    monkeypatch.setenv("SDIC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hub")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path) -> Path:
    return write_pictures(tmp_path / "images")


@pytest.fixture
def archive(folder) -> Path:
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as file:
        for each in sorted(folder.rglob("*.*")):
            file.write(each, each.relative_to(folder))
    return path


NAMES = ["0.png", "2.png", "4.png", "6.png", "8.png", *(f"more/{index}.png" for index in (1, 3, 5, 7))]


# ------------------------------------------------------------------------------------------------ folders and zips


@pytest.mark.parametrize("kind", ["folder", "archive"])
def test_cached_images_are_those_that_are_loaded(folder, archive, kind, recwarn):
    source = {"folder": folder, "archive": archive}[kind]
    loaded = load_images(source, SIZE)
    for _ in range(2):  # decoded, then mapped
        images = open_images(source, SIZE)
        assert images.names == NAMES
        assert torch.equal(images.batch(range(9)), loaded)
    assert images.batch(torch.tensor([8, 0, 8])).shape == (3, 3, SIZE, SIZE)
    assert torch.equal(gather(images, [8, 0, 8]), gather(loaded, [8, 0, 8]))
    assert (len(images), images.size, loaded.dtype) == (9, SIZE, torch.uint8)
    said = [str(warning.message) for warning in recwarn if "files were skipped" in str(warning.message)]
    assert said
    assert all("2 files were skipped: 5_page.png: " in each and "6_cut.png: " in each for each in said)


def test_second_opening_reads_no_picture(folder, cache):
    with pytest.warns(UserWarning, match="skipped"):
        open_images(folder, SIZE)
    (built,) = [path for path in cache.iterdir() if path.is_dir()]
    before = (built / "images.npy").stat()
    with pytest.warns(UserWarning, match="skipped"):
        open_images(folder, SIZE)
    assert (built / "images.npy").stat().st_ino == before.st_ino
    assert [path.suffix for path in cache.iterdir() if path != built] == [".lock"]
    assert np.load(built / "images.npy", mmap_mode="r").shape == (9, 3, SIZE, SIZE)
    assert json.loads((built / "manifest.json").read_text())["names"] == NAMES


@pytest.mark.filterwarnings("ignore:2 files")
@pytest.mark.parametrize("change", ["added", "removed", "rewritten"])
def test_changed_folder_is_read_again(folder, change):
    first = open_images(folder, SIZE)
    if change == "added":
        (folder / "9.png").write_bytes(png(9))
    elif change == "removed":
        (folder / "0.png").unlink()
    else:
        os.utime(folder / "0.png", ns=(0, 0))
        (folder / "0.png").write_bytes(png(77))
    second = open_images(folder, SIZE)
    assert torch.equal(second.batch(range(len(second))), load_images(folder, SIZE))
    assert len(second) != len(first) or not torch.equal(second.batch([0]), first.batch([0]))


@pytest.mark.filterwarnings("ignore:2 files")
def test_sizes_and_limits_have_caches_of_their_own(folder):
    assert open_images(folder, SIZE).batch([0]).shape[-1] == SIZE
    assert open_images(folder, 8).batch([0]).shape[-1] == 8
    assert open_images(folder, SIZE, limit=3).names == [*NAMES[:2], "4.png"]
    assert len(open_images(folder, SIZE)) == 9


@pytest.mark.filterwarnings("ignore:2 files")
@pytest.mark.parametrize("file", ["images.npy", "manifest.json"])
def test_damaged_cache_is_made_anew(folder, cache, file):
    expected = open_images(folder, SIZE).batch(range(9))
    (built,) = [path for path in cache.iterdir() if path.is_dir()]
    os.truncate(built / file, 150)
    with pytest.warns(UserWarning, match="are damaged .* and are made anew"):
        assert torch.equal(open_images(folder, SIZE).batch(range(9)), expected)


def test_damaged_member_of_a_zip_is_skipped(tmp_path):
    path = tmp_path / "images.zip"
    with zipfile.ZipFile(path, "w") as file:
        for index in range(3):
            file.writestr(f"{index}.png", png(index))
    content = path.read_bytes()
    start = content.index(png(1)) + 100
    path.write_bytes(content[:start] + b"damaged" + content[start + 7 :])
    with pytest.warns(UserWarning, match=r"1 files were skipped: 1.png: .*CRC"):
        assert open_images(path, SIZE).names == ["0.png", "2.png"]


def test_source_without_images_leaves_no_cache(tmp_path, cache):
    (tmp_path / "empty").mkdir()
    with pytest.raises(SDICError, match="holds no readable image: give a folder or zip"):
        open_images(tmp_path / "empty", SIZE)
    assert [path for path in cache.iterdir() if path.suffix != ".lock"] == []
    with pytest.raises(SDICError, match="neither a folder nor a zip file"):
        open_images(tmp_path / "missing", SIZE)


OPEN = """
import sys
from sdic_plugin.images.cache import open_images
print(len(open_images(sys.argv[1], int(sys.argv[2]))))
"""


@pytest.mark.slow
def test_processes_that_come_together_build_one_cache(tmp_path, cache):
    path = tmp_path / "many.zip"
    with zipfile.ZipFile(path, "w") as file:
        for index in range(60):
            file.writestr(f"{index:03d}.png", png(index))
    command = [sys.executable, "-c", OPEN, str(path), "32"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    processes = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) for _ in range(2)]
    assert [int(process.communicate()[0]) for process in processes] == [60, 60]
    assert sorted(path.suffix for path in cache.iterdir()) == ["", ".lock"]


def test_cache_that_cannot_be_written_is_named(folder, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(
        SDICError, match=r"The folder .*file for decoded images cannot be written.*`cache`.*SDIC_CACHE"
    ):
        open_images(folder, SIZE, cache=tmp_path / "file")


# ------------------------------------------------------------------------------------------------ data sets


def write_parquet(folder: Path, encode: Callable[[int], dict], features: datasets.Features | None) -> Path:
    folder.mkdir()
    rows = [{"label": index, "photo": encode(index)} for index in range(6)]
    rows[4]["photo"] = {"bytes": b"<html>", "path": "4.png"}
    datasets.Dataset.from_list(rows, features=features).to_parquet(folder / "train.parquet")
    return folder


@pytest.mark.parametrize("prefix", ["dataset", "dataset-streaming"])
@pytest.mark.parametrize("typed", [True, False])
def test_parquet_data_set(tmp_path, prefix, typed):
    features = datasets.Features({"label": datasets.Value("int64"), "photo": datasets.Image()}) if typed else None
    path = write_parquet(tmp_path / "set", lambda i: {"bytes": png(i), "path": f"{i}.png"}, features)
    for _ in range(2):
        with pytest.warns(UserWarning, match=r"1 files were skipped: 4\.png"):
            images = open_images(f"{prefix}:{path}", SIZE)
    assert images.names == ["0.png", "1.png", "2.png", "3.png", "5.png"]
    (tmp_path / "files").mkdir()
    for index in (0, 1, 2, 3, 5):
        (tmp_path / "files" / f"{index}.png").write_bytes(png(index))
    assert torch.equal(images.batch(range(5)), load_images(tmp_path / "files", SIZE))


@pytest.mark.parametrize("prefix", ["dataset", "dataset-streaming"])
def test_folder_data_set_with_splits(tmp_path, prefix):
    for split, indices in (("train", (0, 1)), ("test", (2, 3, 4))):
        (tmp_path / "set" / split).mkdir(parents=True)
        for index in indices:
            (tmp_path / "set" / split / f"{index}.png").write_bytes(png(index))
    images = open_images(f"{prefix}:{tmp_path / 'set'}:test", SIZE)
    assert images.names == ["test/2.png", "test/3.png", "test/4.png"]
    assert torch.equal(images.batch(range(3)), load_images(tmp_path / "set" / "test", SIZE))
    assert len(open_images(f"{prefix}:{tmp_path / 'set'}", SIZE)) == 2
    with pytest.raises(SDICError, match="split 'validation', cannot be loaded"):
        open_images(f"{prefix}:{tmp_path / 'set'}:validation", SIZE)
    (tmp_path / "set/test/2.png").write_bytes(png(99))
    changed = open_images(f"{prefix}:{tmp_path / 'set'}:test", SIZE)
    assert torch.equal(changed.batch([0])[0], load_images(tmp_path / "set" / "test", SIZE)[0])


def test_data_set_without_images_names_its_columns(tmp_path):
    (tmp_path / "set").mkdir()
    datasets.Dataset.from_dict({"text": ["a"], "label": [1]}).to_parquet(tmp_path / "set" / "train.parquet")
    with pytest.raises(SDICError, match=r"columns \['text', 'label'\], but one with images is needed"):
        open_images(f"dataset:{tmp_path / 'set'}", SIZE)


def test_data_set_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(SDICError, match=r"The data set '.*/missing', split 'train', cannot be loaded"):
        open_images(f"dataset:{tmp_path}/missing", SIZE)


def test_missing_library_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(SDICError, match=r"`datasets` is not installed: run pip install 'sdic-plugin\[train\]'"):
        open_images(f"dataset:{tmp_path}", SIZE)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("dataset:user/cats", HubDataset("user/cats")),
        ("dataset:user/cats:test", HubDataset("user/cats", "test")),
        ("dataset:user/cats@v1.0:train[:10%]", HubDataset("user/cats", "train[:10%]", "v1.0")),
        ("dataset:./some/folder:train+test", HubDataset("./some/folder", "train+test")),
        ("dataset-streaming:user/cats@abc", HubDataset("user/cats", "train", "abc", streaming=True)),
    ],
)
def test_how_data_sets_are_written(source, expected):
    assert open_source(source) == expected
