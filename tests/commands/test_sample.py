"""`sdic sample`: seeds and layers as they are written, files, and models by folder or name."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from testing.tiny_models import make_model

from sdic_plugin import SDICError
from sdic_plugin.commands.cli import main
from sdic_plugin.commands.parsing import parse_layers, parse_seeds
from sdic_plugin.evaluation.samples import mixing_sheet
from sdic_plugin.models.sampling import sample


@pytest.fixture(scope="module")
def generator():
    return make_model("generator")


@pytest.fixture(scope="module")
def folder(generator, tmp_path_factory):
    """A folder with nothing but a generator."""
    path = tmp_path_factory.mktemp("model")
    generator.save_pretrained(path / "generator")
    return path


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

    capsys.readouterr()
    assert main([*options, "--seeds", "3", "--truncation", "1"]) == 0
    assert "also holds 3 pictures of before" in capsys.readouterr().err.replace("\n", " ")
    assert main([*options, "--seeds", "3", "--mixing"]) == 2
    assert "two pictures or more" in capsys.readouterr().err
    assert main(["sample", "--model", str(tmp_path), "--out", str(out)]) == 2
    assert "no 'generator' component" in capsys.readouterr().err


def test_bundled_model_by_name(tmp_path):
    assert main(["sample", "--model", "cats64", "--count", "1", "--out", str(tmp_path)]) == 0
    picture = np.asarray(Image.open(tmp_path / "pictures/seed_0.png")).astype(float)
    assert picture.shape == (64, 64, 3) and picture.std() > 20
