"""Samples as files, and a sheet of their mixtures."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from testing.tiny_models import make_model

from sdic_plugin import SDICError
from sdic_plugin.evaluation import samples as samples_module
from sdic_plugin.evaluation.samples import draw_samples, mixing_sheet, save_samples
from sdic_plugin.images.sheets import grid
from sdic_plugin.models.sampling import sample


@pytest.fixture(scope="module")
def generator():
    return make_model("generator")


def test_mixing_sheet_shows_samples_and_mixtures(generator):
    samples = sample(generator, count=5)
    sheet = mixing_sheet(generator, samples)
    assert sheet.size == (4 * 64, 3 * 64)
    pixels = np.asarray(sheet)
    assert (pixels[:64, :64] == 255).all()

    def cell(row: int, column: int) -> np.ndarray:
        return pixels[64 * row : 64 * row + 64, 64 * column : 64 * column + 64]

    assert np.array_equal(cell(0, 1), np.asarray(grid(samples.images[2:3], 1)))
    assert np.array_equal(cell(1, 0), np.asarray(grid(samples.images[:1], 1)))
    # All layers from the column: the column's own picture; none but the last: nearly the row's.
    full = np.asarray(mixing_sheet(generator, samples, (0, 10)))
    assert np.array_equal(full[64:128, 64:128], cell(0, 1))
    assert not np.array_equal(cell(1, 1), cell(0, 1)) and not np.array_equal(cell(1, 1), cell(1, 0))
    with pytest.raises(SDICError, match="two pictures or more"):
        mixing_sheet(generator, sample(generator, count=1))


def test_files(generator, tmp_path):
    samples = sample(generator, count=3, seed=8)
    files = save_samples(samples, tmp_path / "new" / "folder", {"truncation": "0.7"})
    names = sorted(path.name for path in (tmp_path / "new/folder").rglob("*.*"))
    assert names == ["latents.safetensors", "seed_10.png", "seed_8.png", "seed_9.png", "sheet.png"]
    assert sorted(path.name for path in files) == names
    with safe_open(files[-1], framework="pt") as file:
        assert file.metadata() == {"truncation": "0.7"}
        assert torch.equal(file.get_tensor("latents"), samples.latents)
        assert file.get_tensor("seeds").tolist() == [8, 9, 10]
    picture = Image.open(tmp_path / "new/folder/pictures/seed_9.png")
    expected = ((samples.images[1] / 2 + 0.5).clamp(0, 1) * 255).round().permute(1, 2, 0).numpy()
    assert np.array_equal(np.asarray(picture), expected.astype(np.uint8))


def test_pictures_are_written_as_they_are_drawn(generator, tmp_path, monkeypatch):
    drawn, render = [], samples_module.render

    def noting_render(generator, latents):
        assert len(list((tmp_path / "one").rglob("seed_*.png"))) == len(drawn)
        drawn.append(latents)
        return render(generator, latents)

    monkeypatch.setattr(samples_module, "render", noting_render)
    draw_samples(generator, tmp_path / "one", [4, 2, 4, 9], 0.5)
    assert len(drawn) == 3
    save_samples(sample(generator, truncation=0.5, seeds=[4, 2, 9]), tmp_path / "all")
    files = sorted(path.relative_to(tmp_path / "all") for path in (tmp_path / "all").rglob("*.*"))
    assert [(tmp_path / "one" / file).read_bytes() for file in files] == [
        (tmp_path / "all" / file).read_bytes() for file in files
    ]


def test_a_sheet_of_more_pixels_than_can_be_read_is_shrunk(generator, tmp_path, monkeypatch):
    samples = sample(generator, count=3)
    save_samples(samples, tmp_path)
    whole = Image.open(tmp_path / "sheet.png")
    assert np.array_equal(np.asarray(whole), np.asarray(grid(samples.images, 2)))
    monkeypatch.setattr(samples_module, "MAX_PIXELS", 64 * 64)
    save_samples(samples, tmp_path)
    assert Image.open(tmp_path / "sheet.png").size == (64, 64)
    assert Image.open(tmp_path / "pictures/seed_0.png").size == (64, 64)
