"""Conversion of damaged weights, and output that appears as a whole or not at all."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import safetensors.torch
import torch
from testing.checkpoints import folder_files, published, save, sentence
from testing.tiny_models import make_pipeline

from sdic_plugin import CheckpointError, SDICPipeline, StyleGAN2Discriminator
from sdic_plugin.checkpoints.folder import PIPELINE_CLASS
from sdic_plugin.checkpoints.output import MODEL, NETWORK_CLASSES, ONNX, REMOTE_CODE, WEB, check_output
from sdic_plugin.commands.cli import main
from sdic_plugin.conversion import convert
from sdic_plugin.conversion.export import onnx, web
from sdic_plugin.models import ALL_COMPONENTS
from sdic_plugin.utils.files import replacing_folder

# Damaged weights.


def spoil(state: dict, key: str, value: float) -> dict:
    tensor = state[key].clone()
    tensor.view(-1)[-1] = value
    return {**state, key: tensor}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    "key", ["encoder.body.3.res_layer.4.running_var", "DIP.desc.bias", "SAF.att.1.weight", "decoder.noises.noise_3"]
)
def test_values_that_are_not_finite_are_named(tmp_path, sdic_state, key, value):
    with pytest.raises(CheckpointError) as error:
        convert(save(published(spoil(sdic_state, key, value)), tmp_path / "a.pt"), tmp_path / "out")
    sentence(error, key, "NaN or infinite")


def test_other_damage_is_named(tmp_path, sdic_state, small_generator):
    missing = {key: tensor for key, tensor in sdic_state.items() if key != "decoder.convs.3.activate.bias"}
    cases = [
        (published(missing), "blocks.2.conv.bias"),
        (published({**sdic_state, "DIP.desc.bias": torch.ones(5)}), "[5]"),
        (published({**sdic_state, "encoder.input_layer.0.weight": torch.ones(4, 6, 3, 3)}), "ReStyle"),
        (published({key: x for key, x in sdic_state.items() if not re.search(r"body\.2[123]", key)}), "stages"),
        (published({**sdic_state, "SAF.aff1d.sen.0.weight": torch.ones(3)}), "aff1d.sen.0.weight"),
        (published({**sdic_state, "SAF.aff1d.sen.0.weight": torch.ones(72, 146, 1)}), "style width of 32"),
        ({"state_dict": sdic_state, "latent_avg": torch.ones(3, 5)}, "[3, 5]"),
        ({"state_dict": sdic_state, "latent_avg": [1, 2]}, "latent_avg"),
        ({"state_dict": sdic_state, "latent_avg": torch.full((14, 32), torch.nan)}, "latent_avg"),
        ({"state_dict": {**sdic_state, "encoder.x": "text"}}, "encoder.x"),
        ({"g_ema": [1]}, "a list under 'g_ema'"),
        ({"g_ema": {0: torch.ones(2)}}, "0 as a key in 'g_ema'"),
        ({"state_dict": {0: torch.ones(2)}}, "0 as a key in 'state_dict'"),
        ({"g_ema": small_generator, "latent_avg": torch.ones(7)}, "[7]"),
        ({"g_ema": small_generator, "latent_avg": torch.arange(192.0).reshape(8, 24)}, "[8, 24]"),
        ({"state_dict": {**small_generator, "opts.weight": torch.ones(2)}}, "opts.weight"),
        ({"g_ema": {k: v for k, v in small_generator.items() if "to_rgbs" not in k}}, "to_rgbs"),
        ({"g_ema": {**small_generator, "to_rgbs.0.upsample.kernel": torch.ones(4, 4)}}, "[1, 3, 3, 1]"),
    ]
    for content, word in cases:
        with pytest.raises(CheckpointError) as error:
            convert(save(content, tmp_path / "a.pt"), tmp_path / "out")
        sentence(error, word)
        assert not (tmp_path / "out").exists()


def test_norm_counters_may_be_missing(tmp_path, sdic_state):
    state = {key: x for key, x in sdic_state.items() if not key.endswith("num_batches_tracked")}
    assert convert(save(published(state), tmp_path / "a.pt"), tmp_path / "out").is_pipeline


# Writing.


@pytest.fixture
def generator_file(tmp_path, small_generator) -> Path:
    return save({"g_ema": small_generator, "latent_avg": torch.zeros(24)}, tmp_path / "g.pt")


def test_output_folder_is_not_overwritten_unasked(tmp_path, generator_file):
    output = tmp_path / "out"
    output.mkdir()
    convert(generator_file, output)
    before = folder_files(output)
    with pytest.raises(CheckpointError) as error:
        convert(generator_file, output)
    sentence(error, "not empty", "overwrit")
    (output / "generator" / "stale.safetensors").touch()
    convert(generator_file, output, overwrite=True)
    assert folder_files(output) == before


def test_what_no_conversion_wrote_is_never_removed(tmp_path, generator_file):
    before = generator_file.read_bytes()
    with pytest.raises(CheckpointError) as error:
        convert(generator_file, tmp_path, overwrite=True)
    sentence(error, "g.pt", "not overwritten")
    assert generator_file.read_bytes() == before


def test_the_source_of_a_conversion_is_never_removed(tmp_path, small_generator):
    output = tmp_path / "models"
    output.mkdir()
    source = output / "g.safetensors"
    safetensors.torch.save_file({key: x.contiguous() for key, x in small_generator.items()}, source)
    before = source.read_bytes()
    for made in (False, True):
        if made:
            convert(source, tmp_path / "made")
            (tmp_path / "made" / "generator").rename(output / "generator")
        with pytest.raises(CheckpointError) as error:
            convert(source, output, overwrite=True)
        sentence(error, "g.safetensors", "is to be read", "not overwritten")
    assert source.read_bytes() == before


OWN_FOLDERS = {
    "weights": (MODEL, {"mine.safetensors": "weights", "a/config.json": '{"_class_name": "UNet2DModel"}'}),
    "Python files": (REMOTE_CODE, {"thesis.py": "print(1)", "README.md": "Mine."}),
    "a model": (REMOTE_CODE, {"model_index.json": '{"_class_name": "SDICPipeline"}'}),
    "networks": (ONNX, {"net.onnx": "graph", "sdic.json": "{}"}),
    "a web site": (WEB, {"index.html": "<html>", "site.json": '{"format": "hugo"}'}),
    "damaged": (WEB, {"index.html": "<html>", "site.json": "no JSON"}),
}


@pytest.mark.parametrize("name", OWN_FOLDERS)
def test_a_folder_that_is_not_signed_is_not_replaced(tmp_path, name):
    kind, files = OWN_FOLDERS[name]
    for path, text in files.items():
        (tmp_path / "out" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "out" / path).write_text(text)
    with pytest.raises(CheckpointError) as error:
        check_output(tmp_path / "out", overwrite=True, kind=kind)
    sentence(error, kind.writer, kind.sign, "not overwritten")


def test_signs_name_all_classes():
    assert PIPELINE_CLASS == SDICPipeline.__name__
    assert set(NETWORK_CLASSES) == {cls.__name__ for cls in (*ALL_COMPONENTS.values(), StyleGAN2Discriminator)}
    assert onnx.FORMAT.startswith("sdic-onnx-") and web.FORMAT.startswith("sdic-web-")


def test_parts_with_their_alignment_are_replaced(tmp_path, generator_file):
    for overwrite in (False, True):
        convert(generator_file, tmp_path / "out", alignment={"rule": "ffhq"}, overwrite=overwrite)
    assert "parts.json" in folder_files(tmp_path / "out")


@pytest.mark.parametrize("name", ["remote-code", "onnx", "web"])
def test_an_export_does_not_replace_its_model(tmp_path, capsys, name):
    make_pipeline().save_pretrained(tmp_path / "model")
    before = folder_files(tmp_path)
    command = ["export", name, "--model", str(tmp_path / "model"), "--out", str(tmp_path / "model"), "--overwrite"]
    assert main(command) == 2
    assert "which is to be read" in capsys.readouterr().err
    assert folder_files(tmp_path) == before


def test_impossible_outputs(tmp_path, monkeypatch, generator_file):
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError) as error:
        convert(generator_file, tmp_path / "file")
    sentence(error, "is a file")
    with pytest.raises(CheckpointError) as error:
        convert(generator_file, tmp_path / "file" / "out")
    sentence(error, "could not be written")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(CheckpointError) as error:
        convert(generator_file, ".")
    sentence(error, "folder you are in")
    with pytest.raises(CheckpointError) as error:
        convert([], tmp_path / "out")
    sentence(error, "No checkpoint was given")


def fail_on_call(number: int, function):
    calls = []

    def wrapped(*args: object, **kwargs: object):
        calls.append(args)
        if len(calls) == number:
            raise OSError(28, "No space left on device")
        return function(*args, **kwargs)

    return wrapped


@pytest.mark.parametrize("replace", [False, True])
def test_a_failed_save_leaves_no_trace(tmp_path, monkeypatch, small_generator, small_discriminator, replace):
    file = save({"g_ema": small_generator, "d": small_discriminator}, tmp_path / "g.pt")
    output = tmp_path / "out"
    if replace:
        convert(file, output)
        (output / "generator" / "extra.safetensors").touch()
    before = folder_files(tmp_path)
    monkeypatch.setattr(safetensors.torch, "save_file", fail_on_call(2, safetensors.torch.save_file))
    with pytest.raises(CheckpointError) as error:
        convert(file, output, overwrite=replace)
    sentence(error, "could not be written", "No space left")
    assert folder_files(tmp_path) == before
    assert {path.name for path in tmp_path.iterdir()} == ({"g.pt", "out"} if replace else {"g.pt"})


def test_a_failed_rename_restores_the_previous_output(tmp_path, monkeypatch, generator_file):
    output = tmp_path / "out"
    convert(generator_file, output)
    before = folder_files(tmp_path)
    rename = Path.rename
    monkeypatch.setattr(Path, "rename", fail_on_call(2, rename))
    with pytest.raises(CheckpointError) as error:
        convert(generator_file, output, overwrite=True)
    sentence(error, "could not be written")
    assert folder_files(tmp_path) == before


def test_an_interruption_leaves_no_trace(tmp_path):
    with pytest.raises(KeyboardInterrupt), replacing_folder(tmp_path / "deep" / "out") as folder:
        (folder / "half").write_text("x")
        raise KeyboardInterrupt
    assert not folder_files(tmp_path)
