"""Generator stage that goes on from a model at another resolution or width, or with a part of it frozen."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from testing.tiny_models import make_model, make_pipeline
from torch import nn

from sdic_plugin import SDICError, StyleGAN2Discriminator, StyleGAN2Generator
from sdic_plugin.checkpoints.components import has_component, load_component
from sdic_plugin.commands.cli import main
from sdic_plugin.models.fingerprint import generator_fingerprint
from sdic_plugin.models.layers import FIRFilter
from sdic_plugin.training.config import load_config
from sdic_plugin.training.generator import build_networks, train_generator
from sdic_plugin.training.generator_config import GeneratorTrainingConfig

CHANNELS = {"4": 8, "8": 8, "16": 8, "32": 8}
SIZES = {"resolution": 32, "style_width": 8, "mapping_layers": 2, "channels": CHANNELS}


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("SDIC_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Discs of many sizes."""
    path = tmp_path_factory.mktemp("data") / "images.zip"
    rows, columns = np.mgrid[:64, :64] - 31.5
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(16):
            disc = (rows**2 + columns**2 < (10 + i) ** 2)[..., None]
            pixels = np.where(disc, (220 - 3 * i, 140, 40), (30, 40 + 4 * i, 90)).astype(np.uint8)
            with archive.open(f"{i:02d}.png", "w") as file:
                Image.fromarray(pixels).save(file, format="PNG")
    return path


def settings(data, output, **changes) -> GeneratorTrainingConfig:
    values = {"steps": 4, "batch_size": 4, "log_every": 1, "sample_every": 4, "checkpoint_every": 4, "r1_every": 2}
    return GeneratorTrainingConfig(data=str(data), output=str(output), **{**values, **changes})


@pytest.fixture(scope="module")
def start(data, tmp_path_factory) -> Path:
    """A run of four steps from scratch, at 32 pixels."""
    output = tmp_path_factory.mktemp("start")
    return train_generator(settings(data, output / "run", **SIZES, cache=str(output / "cache"))).parent


def load_both(folder: Path) -> dict[str, nn.Module]:
    return {
        "generator": load_component(StyleGAN2Generator, folder, "generator"),
        "discriminator": load_component(StyleGAN2Discriminator, folder, "discriminator"),
    }


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    theirs = other.state_dict()
    return all(torch.equal(value, theirs[key]) for key, value in one.state_dict().items())


def difference(one: nn.Module, other: nn.Module) -> dict[str, float]:
    theirs = dict(other.named_parameters())
    return {key: (value - theirs[key]).abs().max().item() for key, value in one.named_parameters()}


# Growing and shrinking.


def test_run_goes_on_at_twice_its_resolution(data, start, tmp_path):
    changes = {"model": str(start), "resolution": 64, "checkpoint_every": 2}
    generator, discriminator = build_networks(settings(data, tmp_path, **changes))
    assert (generator.config.resolution, discriminator.config.resolution) == (64, 64)
    old = load_both(start / "model")["generator"]
    latents = torch.randn(2, 10, 8)
    with torch.no_grad():
        wanted = FIRFilter(gain=4.0).upsample(old(latents[:, :8]).image)
        torch.testing.assert_close(generator(latents).image, wanted, rtol=0, atol=1e-6)

    whole = train_generator(settings(data, tmp_path / "whole", **changes))
    trained = load_both(whole)
    assert trained["generator"].config.channels == {**CHANNELS, "64": 4} and trained["generator"].num_styles == 10
    assert trained["generator"].config.generator_id == generator_fingerprint(trained["generator"])
    for name, begun in (("generator", generator), ("discriminator", discriminator)):
        moved = difference(trained[name], begun)
        assert min(moved.values()) > 0 and np.isfinite(list(moved.values())).all(), name
    assert Image.open(tmp_path / "whole/samples/step_00000004.png").size == (8 * 64, 4 * 64)

    # Stopped after half of it, it goes on to the same weights.
    train_generator(settings(data, tmp_path / "parts", **{**changes, "steps": 2}))
    parts = train_generator(settings(data, tmp_path / "parts", **changes))
    assert all(same_weights(network, load_both(parts)[name]) for name, network in trained.items())
    # From the grown model on, the same setting changes nothing.
    again, _ = build_networks(settings(data, "out", model=str(parts), resolution=64))
    assert same_weights(again, trained["generator"])


def test_run_of_64_pixels_grows_twice_and_shrinks(data, tmp_path):
    make_model("generator", resolution=64).save_pretrained(tmp_path / "generator")
    judge = {"resolution": 64, "channels": {"4": 12, "8": 10, "16": 8, "32": 6, "64": 4}}
    make_model("discriminator", **judge).save_pretrained(tmp_path / "discriminator")
    changes = {"model": str(tmp_path), "steps": 1, "sample_every": 1}
    for resolution in (128, 256):
        folder = train_generator(settings(data, tmp_path / str(resolution), **changes, resolution=resolution))
        networks = load_both(folder)
        assert networks["generator"].config.resolution == networks["discriminator"].config.resolution == resolution
        assert networks["generator"].config.feature_resolution == 8
    with pytest.warns(UserWarning, match="makes 64 pixels: its finest blocks are left out for a resolution of 32"):
        folder = train_generator(settings(data, tmp_path / "32", **changes, resolution=32))
    networks = load_both(folder)
    assert networks["generator"].num_styles == 8 and len(networks["discriminator"].blocks) == 3


def test_pipeline_whose_generator_grows_keeps_what_still_fits(data, tmp_path):
    make_pipeline().save_pretrained(tmp_path / "pipeline")
    changes = {"model": str(tmp_path / "pipeline"), "resolution": 128, "steps": 1}
    with pytest.warns(UserWarning, match="has no discriminator"):
        folder = train_generator(settings(data, tmp_path / "run", **changes, feature_resolution=16))
    kept = {name: has_component(folder, name) for name in ("generator", "discriminator", "encoder", "dipn", "dicn")}
    assert kept == {"generator": True, "discriminator": True, "encoder": False, "dipn": True, "dicn": False}
    assert load_component(StyleGAN2Generator, folder, "generator").config.feature_resolution == 16
    # Where compensation will work touches no weight: a run may be resumed with another hook.
    before = load_both(folder)["generator"]
    with pytest.warns(UserWarning, match="has no discriminator"):
        folder = train_generator(settings(data, tmp_path / "run", **changes, feature_resolution=32))
    after = load_both(folder)["generator"]
    assert after.config.feature_resolution == 32 and same_weights(before, after)


# Widening.


def test_run_goes_on_wider(data, start, tmp_path):
    wide = {"16": 12, "32": 16}
    config = settings(data, tmp_path / "run", model=str(start), channels=wide, discriminator_channels={"32": 10})
    generator, discriminator = build_networks(config)
    assert generator.config.channels == {**CHANNELS, **wide}
    assert discriminator.config.channels == {**CHANNELS, "32": 10}
    before = load_both(start / "model")
    latents, images = torch.randn(2, 8, 8), torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(generator(latents).image, before["generator"](latents).image, rtol=0, atol=1e-5)
        torch.testing.assert_close(discriminator(images), before["discriminator"](images), rtol=0, atol=1e-4)
    folder = train_generator(config)
    assert load_both(folder)["generator"].config.channels == {**CHANNELS, **wide}


def test_discriminator_follows_the_generators_channels_unless_it_is_wider(data, start, tmp_path):
    both = {"model": str(start), "channels": {"32": 12, "64": 6}, "resolution": 64}
    _, discriminator = build_networks(settings(data, "out", **both))
    assert discriminator.config.channels == {**CHANNELS, "32": 12, "64": 6}
    (tmp_path / "generator").symlink_to(start / "model/generator")
    wide = StyleGAN2Discriminator(resolution=32, channels={**CHANNELS, "32": 20})
    wide.save_pretrained(tmp_path / "discriminator")
    _, discriminator = build_networks(settings(data, "out", **{**both, "model": str(tmp_path)}))
    assert discriminator.config.channels == {**CHANNELS, "32": 20, "64": 6}


# Transfer.


def test_frozen_blocks_stay_bit_by_bit(data, start, tmp_path):
    changes = {"model": str(start), "freeze_discriminator": 2, "checkpoint_every": 2}
    whole = load_both(train_generator(settings(data, tmp_path / "whole", **changes)))
    before = load_both(start / "model")
    moved = difference(whole["discriminator"], before["discriminator"])
    frozen = {name for name in moved if name.startswith(("from_rgb", "blocks.0", "blocks.1"))}
    assert len(frozen) == 12 and {name for name, distance in moved.items() if distance == 0} == frozen
    assert min(difference(whole["generator"], before["generator"]).values()) > 0

    train_generator(settings(data, tmp_path / "parts", **{**changes, "steps": 2}))
    parts = load_both(train_generator(settings(data, tmp_path / "parts", **changes)))
    assert all(same_weights(network, parts[name]) for name, network in whole.items())
    with pytest.raises(SDICError, match="started with freeze_discriminator = 2, but now it is 1"):
        train_generator(settings(data, tmp_path / "parts", **{**changes, "freeze_discriminator": 1}))


def test_gradients_reach_the_generator_through_frozen_blocks(data, start):
    generator, discriminator = build_networks(settings(data, "out", model=str(start), freeze_discriminator=3))
    discriminator(generator(torch.randn(4, 8, 8)).image).sum().backward()
    assert all(p.grad is None for p in (*discriminator.from_rgb.parameters(), *discriminator.blocks.parameters()))
    assert discriminator.score.weight.grad.any() and generator.blocks[0].constant.grad.any()


# What is refused.


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resolution": 48}, "resolution is 48, but must be a power of two from 8 to 2,048"),
        ({"resolution": 2048}, "The resolution is 2048, but networks are resized to a power of two from 8 to 1,024"),
        ({"channels": {"16": 4}}, "channels has 4 for 16 pixels, but the model's block has 8"),
        ({"discriminator_channels": {"16": 4}}, "channels has 4 for 16 pixels"),
        ({"feature_resolution": 64}, "feature_resolution is 64, but must be one of"),
        ({"freeze_discriminator": 4}, "freeze_discriminator is 4, but a discriminator of 32 pixels has 3 blocks"),
        ({"freeze_discriminator": 1, "resolution": 64}, "freeze_discriminator is 1, but other settings grow"),
        ({"freeze_discriminator": 1, "from_scratch": True, **SIZES}, "but the discriminator is new"),
        ({"freeze_discriminator": 9}, "freeze_discriminator is 9, but must be a whole number from 0 to 8"),
    ],
)
def test_what_the_model_cannot_become_is_refused(data, start, changes, message):
    with pytest.raises(SDICError, match=message):
        build_networks(settings(data, "out", **{"model": str(start), **changes}))


def test_a_new_discriminator_is_not_frozen(data, start, tmp_path):
    (tmp_path / "generator").symlink_to(start / "model/generator")
    with pytest.raises(SDICError, match="has no discriminator, and a new one has to learn"):
        build_networks(settings(data, "out", model=str(tmp_path), freeze_discriminator=1))


# The command.


def test_command_grows_what_it_is_given(data, start, tmp_path):
    options = ["--set", f"data={data}", "--set", "steps=1", "--set", "batch_size=4"]
    grown = [*options, "--set", "resolution=64", "--set", "channels={64 = 6}", "--set", f"output={tmp_path / 'run'}"]
    assert main(["train", "generator", "--from", str(start), *grown]) == 0
    config = json.loads((tmp_path / "run/model/generator/config.json").read_text())
    assert config["resolution"] == 64 and config["channels"]["64"] == 6
    assert main(["sample", "--model", str(tmp_path / "run"), "--count", "2", "--out", str(tmp_path / "samples")]) == 0


@pytest.mark.parametrize("recipe", ["cats64_generator", "cats64_generator_second"])
def test_recipes_of_the_bundled_generator_go_on_from_it(recipe):
    """With nothing changed, and at twice its resolution."""
    config = load_config(GeneratorTrainingConfig, recipe, ["data=a", "output=b", "model=cats64"])
    generator, discriminator = build_networks(config)
    assert generator.config.generator_id and generator.config.feature_resolution == 32
    assert (generator.config.resolution, discriminator.config.resolution) == (64, 64)
    grown, _ = build_networks(
        load_config(GeneratorTrainingConfig, recipe, ["data=a", "output=b", "model=cats64", "resolution=128"])
    )
    assert grown.config.feature_resolution == 32 and grown.config.channels["128"] == 16


def test_recipe_of_faces_grows_what_its_first_part_made():
    """The first part has the sizes of cats64."""
    config = load_config(GeneratorTrainingConfig, "faces128_generator", ["data=a", "output=b", "model=cats64"])
    generator, discriminator = build_networks(config)
    assert (generator.config.resolution, generator.config.feature_resolution) == (128, 64)
    assert generator.config.channels["128"] == discriminator.config.channels["128"] == 32
    count = sum(value.numel() for network in (generator, discriminator) for value in network.state_dict().values())
    assert 2 * count < 25e6  # bytes in float16
