"""Training data: batches, whose images need no memory, and what is held out."""

from __future__ import annotations

import ctypes
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from testing.picture_folders import png, write_pictures

from sdic_plugin import SDICError
from sdic_plugin.images.cache import ImageSet, decode, load_images, open_images
from sdic_plugin.images.sources import open_source
from sdic_plugin.training.batches import BatchLoader
from sdic_plugin.training.config import TrainingConfig
from sdic_plugin.training.data import split_by_name, training_and_validation

SIZE = 16


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """Every test has a cache of its own."""
    monkeypatch.setenv("SDIC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path) -> Path:
    return write_pictures(tmp_path / "images")


def resident_memory() -> int:
    """Memory of this process that is not a mapped file, in bytes; what is free gets given back before."""
    if (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:  # glibc's
        trim(0)
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no RssAnon")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_memory_does_not_grow_with_the_number_of_images(tmp_path):
    path = tmp_path / "many.zip"
    content = png(0)
    with zipfile.ZipFile(path, "w") as file:
        for index in range(360):
            file.writestr(f"{index:03d}.png", content)
    used = [resident_memory() for _ in decode(open_source(path).files(), 256, None)]  # 70 MB of images
    assert used[-1] - used[60] < 30_000_000
    images = open_images(path, 256)
    loader = BatchLoader(images, TrainingConfig(data="unused", output="unused", batch_size=20))
    used = []
    for step in range(18):
        assert len(loader.take(step, 0)) == 20
        used.append(resident_memory())
    assert images._pixels.nbytes > 70_000_000
    assert used[-1] - used[3] < 20_000_000


def numbered(count: int) -> ImageSet:
    pixels = np.arange(count, dtype=np.uint8)[:, None, None, None].repeat(3, axis=1)
    return ImageSet(pixels, [f"{index:05d}.jpg" for index in range(count)])


def test_split_depends_on_the_names_alone():
    images = numbered(250)
    rest, held_out = split_by_name(images, 0.2)
    assert 30 < len(held_out) < 70
    assert sorted(rest.names + held_out.names) == images.names
    assert held_out.batch(range(len(held_out))).flatten(1)[:, 0].tolist() == [int(n[:5]) for n in held_out.names]
    _, fewer = split_by_name(images.subset(range(0, 250, 2)), 0.2)
    assert fewer.names == [name for name in held_out.names if int(name[:5]) % 2 == 0]
    assert held_out.subset([1]).names == [held_out.names[1]]
    assert held_out.subset([1]).batch([0]).flatten()[0] == int(held_out.names[1][:5])


@pytest.mark.filterwarnings("ignore:2 files")
def test_training_and_validation(folder, tmp_path, cache):
    def settings(**changes) -> TrainingConfig:
        return TrainingConfig(data=str(folder), output=str(tmp_path / "run"), validation_images=3, **changes)

    images, validation = training_and_validation(settings(), SIZE)
    assert len(images) == 9
    assert torch.equal(validation, images.batch(range(3)))
    images, validation = training_and_validation(settings(validation_share=0.4), SIZE)
    rest, held_out = split_by_name(open_images(folder, SIZE), 0.4)
    assert images.names == rest.names and 0 < len(rest) < 9
    assert torch.equal(validation, held_out.batch(range(min(3, len(held_out)))))
    images, validation = training_and_validation(settings(validation_share=0.4, validation=str(folder / "more")), SIZE)
    assert len(images) == 9
    assert torch.equal(validation, load_images(folder / "more", SIZE, limit=3))
    with pytest.raises(SDICError, match="validation_share 1e-09 leaves 9 images"):
        training_and_validation(settings(validation_share=1e-9), SIZE)
    elsewhere = tmp_path / "elsewhere"
    training_and_validation(settings(cache=str(elsewhere)), SIZE)
    assert len([path for path in elsewhere.iterdir() if path.is_dir()]) == 1


def test_loader_of_processes_and_micro_batches_shares_each_batch():
    config = TrainingConfig(data="unused", output="unused", batch_size=12, gradient_accumulation=2)
    images = torch.arange(40, dtype=torch.uint8)[:, None, None, None].expand(40, 3, 2, 2).clone()
    images[..., 1] += 100  # tells mirrored images
    alone = BatchLoader(images, TrainingConfig(data="unused", output="unused", batch_size=12))
    loaders = [BatchLoader(images, config, rank, 3) for rank in range(3)]
    for step in range(7):
        whole = alone.take(step, 0)
        parts = [loader.take(step, micro) for micro in range(2) for loader in loaders]
        assert torch.equal(torch.stack(parts, dim=1).flatten(0, 1), whole)
    assert not torch.equal(whole, whole.sort(dim=3).values)
