"""Random samples: one seed is one picture, files on disk, style mixing, and the `sdic sample` command."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from testing.tiny_models import make_model

from sdic_plugin import SDICError, StyleGAN2Generator
from sdic_plugin.commands.cli import main
from sdic_plugin.commands.parsing import parse_layers, parse_seeds
from sdic_plugin.evaluation.samples import mixing_sheet, save_samples
from sdic_plugin.images.sheets import grid
from sdic_plugin.models.sampling import mix_styles, sample


@pytest.fixture(scope="module")
def generator():
    return make_model("generator")


@pytest.fixture(scope="module")
def folder(generator, tmp_path_factory):
    """A folder with nothing but a generator."""
    path = tmp_path_factory.mktemp("model")
    generator.save_pretrained(path / "generator")
    return path


def test_a_seed_is_one_picture_in_any_company(generator):
    several, alone = sample(generator, count=4, seed=3), sample(generator, seeds=[9, 5])
    assert several.seeds == [3, 4, 5, 6]
    assert torch.equal(several.images[2], alone.images[1])
    assert torch.equal(several.latents[2], alone.latents[1])
    assert not torch.equal(several.latents[0], several.latents[1])
    assert several.images.shape == (4, 3, 64, 64) and several.latents.shape == (4, 10, 16)
    assert sample(generator, seeds=[1, 2, 1]).seeds == [1, 2]


def test_no_seed_is_special_to_a_network_that_was_initialised_with_it():
    torch.manual_seed(0)
    channels = {"4": 4, "8": 4}
    generator = StyleGAN2Generator(
        resolution=8, style_width=64, mapping_layers=2, channels=channels, feature_resolution=8
    )
    generator.estimate_w_avg(2000, seed=12345)
    distances = (sample(generator, count=64, truncation=1.0).latents[:, 0] - generator.w_avg).norm(dim=1)
    assert distances[0] < 1.4 * distances.median()


def test_latents_render_to_the_picture_and_truncation_pulls_to_the_mean(generator):
    drawn, mean = sample(generator, count=2, truncation=1.0), sample(generator, count=2, truncation=0.0)
    with torch.no_grad():
        torch.testing.assert_close(generator(drawn.latents).image, drawn.images)
    assert torch.equal(mean.images[0], mean.images[1])
    torch.testing.assert_close(mean.latents[0, 0], generator.w_avg)
    half = sample(generator, count=2, truncation=0.5)
    torch.testing.assert_close(half.latents, (drawn.latents + mean.latents) / 2)


def test_mixing_takes_the_layers_from_the_columns():
    base, other = torch.zeros(2, 10, 3), torch.ones(4, 10, 3) * torch.arange(1, 5)[:, None, None]
    mixed = mix_styles(base, other, (4, 10))
    assert mixed.shape == (2, 4, 10, 3)
    assert not mixed[:, :, :4].any()
    assert torch.equal(mixed[1, :, 4:], other[:, 4:])
    with pytest.raises(SDICError, match=r"3:11 cannot be mixed, as this generator has 10"):
        mix_styles(base, other, (3, 11))


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


def test_grid_fills_the_last_row_with_white():
    sheet = np.asarray(grid(-torch.ones(5, 3, 4, 6), 3))
    assert sheet.shape == (8, 18, 3)
    assert (sheet[4:, 12:] == 255).all() and (sheet[4:, :12] == 0).all() and (sheet[:4] == 0).all()


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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 0}, "at least 1"),
        ({"seeds": []}, "at least one seed"),
        ({"seeds": [-1]}, "The seed -1 is out of range"),
        ({"seeds": [2**63]}, "out of range"),
        ({"truncation": float("nan")}, "truncation is nan"),
    ],
)
def test_senseless_options_are_refused(generator, options, message):
    with pytest.raises(SDICError, match=message):
        sample(generator, **options)


def test_parsers():
    assert parse_seeds("1,2,5") == [1, 2, 5] and parse_seeds("7,0-3") == [7, 0, 1, 2, 3]
    assert parse_layers("4:10") == (4, 10)
    for text in ("", "a", "1;2", "1,", "-3"):
        with pytest.raises(SDICError, match="cannot be read"):
            parse_seeds(text)
    for text in ("4", "4:", "a:b", "-1:3"):
        with pytest.raises(SDICError, match="cannot be read"):
            parse_layers(text)


def test_command(folder, generator, tmp_path, capsys):
    out = tmp_path / "out"
    options = ["sample", "--model", str(folder), "--out", str(out)]
    assert main([*options, "--count", "4", "--seed", "2", "--mixing", "--mix-layers", "2:6"]) == 0
    assert "7 files written" in capsys.readouterr().out
    assert sorted(p.name for p in out.rglob("*.*")) == [
        "latents.safetensors", "mixing.png", "seed_2.png", "seed_3.png", "seed_4.png", "seed_5.png", "sheet.png",
    ]  # fmt: skip
    expected = mixing_sheet(generator, sample(generator, count=4, seed=2), (2, 6))
    assert np.array_equal(np.asarray(Image.open(out / "mixing.png")), np.asarray(expected))
    with safe_open(out / "latents.safetensors", framework="pt") as file:
        assert file.metadata()["truncation"] == "0.7"

    assert main([*options, "--seeds", "3", "--truncation", "1"]) == 0
    assert main([*options, "--seeds", "3", "--mixing"]) == 2
    assert "two pictures or more" in capsys.readouterr().err
    assert main(["sample", "--model", str(tmp_path), "--out", str(out)]) == 2
    assert "no 'generator' component" in capsys.readouterr().err


def test_bundled_model_by_name(tmp_path):
    assert main(["sample", "--model", "cats64", "--count", "1", "--out", str(tmp_path)]) == 0
    picture = np.asarray(Image.open(tmp_path / "pictures/seed_0.png")).astype(float)
    assert picture.shape == (64, 64, 3) and picture.std() > 20
