"""Export to other tools' formats."""

from __future__ import annotations

import pytest
import torch
from testing import parity_weights
from testing.checkpoints import SMALL_CHANNELS, SMALL_WIDTH, save
from testing.tiny_models import make_model

from sdic_plugin import StyleGAN2Discriminator, StyleGAN2Generator
from sdic_plugin.commands.cli import main
from sdic_plugin.conversion import convert
from sdic_plugin.conversion.export import export_rosinality


def test_what_came_from_rosinality_goes_back_bitwise(tmp_path, small_generator, small_discriminator):
    average = torch.randn(SMALL_WIDTH)
    content = {"g_ema": small_generator, "d": small_discriminator, "latent_avg": average}
    convert(save(content, tmp_path / "a.pt"), tmp_path / "ours")
    assert main(["export", "rosinality", "--model", str(tmp_path / "ours"), "--out", str(tmp_path / "b.pt")]) == 0
    found = torch.load(tmp_path / "b.pt", weights_only=True)
    assert found.keys() == content.keys()
    assert torch.equal(found["latent_avg"], average)
    for name in ("g_ema", "d"):
        assert found[name].keys() == content[name].keys()
        for key, tensor in content[name].items():
            if not key.endswith(".kernel"):
                assert torch.equal(found[name][key], tensor), key


def test_a_file_is_only_replaced_when_asked(tmp_path, capsys):
    make_model("generator").save_pretrained(tmp_path / "ours" / "generator")
    (tmp_path / "mine.pt").write_text("mine")
    command = ["export", "rosinality", "--model", str(tmp_path / "ours"), "--out", str(tmp_path / "mine.pt")]
    assert main(command) == 2
    assert "mine.pt' already: name another one, or give --overwrite" in capsys.readouterr().err
    assert (tmp_path / "mine.pt").read_text() == "mine"
    assert main([*command, "--overwrite"]) == 0
    assert "g_ema" in torch.load(tmp_path / "mine.pt", weights_only=True)


def test_fir_kernels_are_those_that_rosinality_registers(tmp_path):
    """Upsampling filters carry the gain 4, those of the discriminator do not."""
    export_rosinality(make_model("generator"), tmp_path / "a.pt", make_model("discriminator"))
    found = torch.load(tmp_path / "a.pt", weights_only=True)
    kernels = {key: tensor for key, tensor in found["g_ema"].items() if key.endswith("kernel")}
    assert {key: tensor.sum().item() for key, tensor in kernels.items()} == dict.fromkeys(kernels, 4.0)
    assert all(tensor.sum() == 1 for key, tensor in found["d"].items() if key.endswith("kernel"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_our_own_networks_survive_the_way_there_and_back(tmp_path, dtype):
    generator, discriminator = make_model("generator"), make_model("discriminator")
    export_rosinality(generator.to(dtype), tmp_path / "a.pt", discriminator)
    convert(tmp_path / "a.pt", tmp_path / "ours", feature_resolution=8)
    for cls, name, ours in (
        (StyleGAN2Generator, "generator", generator),
        (StyleGAN2Discriminator, "discriminator", discriminator),
    ):
        back = cls.from_pretrained(tmp_path / "ours" / name).state_dict()
        assert back.keys() == ours.state_dict().keys()
        assert all(torch.equal(back[key], tensor.float()) for key, tensor in ours.state_dict().items())


def test_a_failed_export_leaves_no_file(tmp_path):
    generator = make_model("generator")
    with torch.no_grad():
        generator.w_avg.fill_(1)
        generator.blocks[1].conv.bias[0] = torch.nan
    with pytest.raises(ValueError, match=r"blocks\.1\.conv\.bias"):
        export_rosinality(generator, tmp_path / "a.pt")
    assert list(tmp_path.iterdir()) == []


def test_every_key_of_the_published_size_is_there():
    from sdic_plugin.conversion.export.rosinality import rosinality_generator

    channels = {str(size): width for size, width in SMALL_CHANNELS.items()}
    generator = StyleGAN2Generator(
        resolution=32, style_width=24, mapping_layers=3, channels=channels, feature_resolution=8
    )
    shapes = {key: list(tensor.shape) for key, tensor in rosinality_generator(generator).items()}
    assert shapes == parity_weights.generator_shapes(32, SMALL_CHANNELS, width=24, mapping=3)
