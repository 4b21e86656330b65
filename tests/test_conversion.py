"""Conversion: reading files safely, recognising them, accounting for every key, writing whole folders or none."""

from __future__ import annotations

import argparse
import collections
import html
import io
import json
import os
import pickle
import re
import types
import zipfile
from pathlib import Path

import parity_weights
import pytest
import safetensors.torch
import torch
from torch import nn

from sdic_plugin import (
    DICN,
    DIPN,
    CheckpointError,
    E4EEncoder,
    SDICError,
    SDICPipeline,
    StyleGAN2Discriminator,
    StyleGAN2Generator,
)
from sdic_plugin.conversion import convert, format_report, generator_fingerprint, read_checkpoint, recognise
from sdic_plugin.conversion import output as output_module

WIDTH, STYLES = 32, 14
"""Style width and number of styles of the narrow checkpoints below, which have a 256-pixel generator."""


def sentence(error: pytest.ExceptionInfo, *wanted: str) -> None:
    """Check that a message is one sentence that holds some words."""
    message = str(error.value)
    assert message.endswith("."), message
    assert not re.search(r"\. [A-Z]|\n", message), message
    for word in wanted:
        assert word in message, message


# Narrow checkpoints in the published layouts.


@pytest.fixture(scope="session")
def sdic_state() -> dict[str, torch.Tensor]:
    return parity_weights.state_dict(parity_weights.narrow(parity_weights.published_shapes()))


@pytest.fixture(scope="session")
def small_generator() -> dict[str, torch.Tensor]:
    """A rosinality generator of 32 pixels with a channel table of its own: style width 24, 3 mapping layers."""
    channels = {4: 20, 8: 16, 16: 12, 32: 8}
    return parity_weights.generator_state(parity_weights.generator_shapes(32, channels, width=24, mapping=3))


@pytest.fixture(scope="session")
def small_discriminator() -> dict[str, torch.Tensor]:
    state = parity_weights.state_dict(parity_weights.discriminator_shapes(32, {4: 20, 8: 16, 16: 12, 32: 8}))
    return {key: value / 4 if key.endswith("kernel") else value for key, value in state.items()}


def only(state: dict[str, torch.Tensor], *prefixes: str) -> dict[str, torch.Tensor]:
    return {key: tensor for key, tensor in state.items() if key.startswith(prefixes)}


def published(state: dict, **entries: object) -> dict:
    return {"state_dict": state, "latent_avg": parity_weights.latent_avg(STYLES, WIDTH), **entries}


def save(content: object, path: Path, **options: object) -> Path:
    torch.save(content, path, **options)
    return path


def folder_files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


# Reading.


def test_published_options_are_read(tmp_path):
    content = {"opts": argparse.Namespace(encoder_type="Encoder4Editing", lr=1e-3, path=None), "x": torch.ones(2)}
    read = read_checkpoint(save(content, tmp_path / "a.pt"))
    assert read["opts"] == content["opts"]
    assert torch.equal(read["x"], content["x"])


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt", ".tar", ""])
def test_the_format_before_pytorch_1_6(tmp_path, suffix):
    content = {"state_dict": collections.OrderedDict(x=torch.arange(6.0).reshape(2, 3).T)}
    path = save(content, tmp_path / f"a{suffix}", _use_new_zipfile_serialization=False)
    assert torch.equal(read_checkpoint(path)["state_dict"]["x"], content["state_dict"]["x"])


@pytest.mark.parametrize("zipped", [True, False])
def test_files_saved_on_a_gpu(tmp_path, monkeypatch, zipped):
    monkeypatch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:3")
    path = save({"x": torch.ones(3)}, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    assert b"cuda:3" in path.read_bytes()
    read = read_checkpoint(path)["x"]
    assert read.device.type == "cpu"
    assert read.tolist() == [1, 1, 1]


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_safetensors_are_told_by_their_content(tmp_path, suffix):
    safetensors.torch.save_file({"x": torch.ones(3)}, tmp_path / f"a{suffix}")
    assert read_checkpoint(tmp_path / f"a{suffix}")["x"].tolist() == [1, 1, 1]


def text_file(text: bytes):
    return lambda path: path.write_bytes(text)


def cut(zipped: bool, keep: float):
    def write(path: Path) -> None:
        torch.save({"x": torch.randn(2000)}, path, _use_new_zipfile_serialization=zipped)
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * keep)])

    return write


def cut_safetensors(keep: int):
    def write(path: Path) -> None:
        path.write_bytes(safetensors.torch.save({"x": torch.randn(2000)})[:keep])

    return write


def archive(*members: str):
    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as file:
            for member in members:
                file.writestr(member, "content")

    return write


BAD_FILES = {
    "empty": ("a.pt", text_file(b""), ["empty", "download it again"]),
    "web page": ("a.pt", text_file(b"\n <!DOCTYPE html><html><body>Virus scan warning"), ["web page", "again"]),
    "web page, old": ("a.safetensors", text_file(b"<HTML><HEAD>"), ["web page", "again"]),
    "error page": ("a.pt", text_file(b'<?xml version="1.0"?><Error>'), ["web page", "again"]),
    "byte order mark": ("a.pkl", text_file("\ufeff<!doctype html>".encode()), ["web page", "again"]),
    "LFS": ("a.pt", text_file(b"version https://git-lfs.github.com/spec/v1\noid sha256:1"), ["git lfs pull"]),
    "text": ("a.pt", text_file(b"access denied"), ["no checkpoint", "access denied", ".safetensors"]),
    "noise": ("a.pt", text_file(bytes(range(40, 250))), ["no checkpoint"]),
    "zip, cut": ("a.pt", cut(True, 0.6), ["cut off", "download it again"]),
    "zip, cut at its end": ("a.pt", cut(True, 0.99), ["cut off", "download it again"]),
    "legacy, cut in the tensors": ("a.pt", cut(False, 0.6), ["damaged or cut off", "download it again"]),
    "legacy, cut in the pickle": ("a.pt", cut(False, 0.02), ["damaged or cut off", "download it again"]),
    "safetensors, cut": ("a.safetensors", cut_safetensors(4000), ["damaged or cut off", "download it again"]),
    "safetensors, cut in the header": ("a.safetensors", cut_safetensors(20), ["damaged or cut off"]),
    "safetensors, text": ("a.safetensors", text_file(b"not found at all"), ["damaged or cut off"]),
    "other archive": ("a.zip", archive("model/weights.pt", "readme.txt"), ["ZIP archive", "unpack"]),
    "TorchScript": ("a.pt", archive("a/data.pkl", "a/constants.pkl"), ["TorchScript"]),
    "tensor": ("a.pt", lambda path: torch.save(torch.ones(3), path), ["a Tensor rather than named weights"]),
    "list": ("a.pt", lambda path: torch.save([torch.ones(3)], path), ["a list rather than named weights"]),
    "numbered": ("a.pt", lambda path: torch.save({0: torch.ones(3)}, path), ["rather than named weights"]),
    "plain pickle": ("a.pt", lambda path: path.write_bytes(pickle.dumps({"x": 1}, 4)), ["torch.save"]),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files_get_a_plain_sentence(tmp_path, name):
    file, write, words = BAD_FILES[name]
    write(tmp_path / file)
    with pytest.raises(CheckpointError) as error:
        read_checkpoint(tmp_path / file)
    sentence(error, file, *words)
    with pytest.raises(CheckpointError):
        convert(tmp_path / file, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == [file]


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(CheckpointError) as error:
        read_checkpoint(tmp_path / "absent.pt")
    sentence(error, "no file", "absent.pt")
    with pytest.raises(CheckpointError) as error:
        read_checkpoint(tmp_path)
    sentence(error, "is a folder")


class Trap:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return open, (str(self.path), "w")


class LateTrap(Trap):
    """The same by way of `exec`, which needs no file name that looks like one."""

    def __reduce__(self) -> tuple:
        return exec, (f"import pathlib; pathlib.Path({str(self.path)!r}).touch()",)


def zip_with_pickle(content: bytes, path: Path) -> None:
    """Put another pickle into a checkpoint that `torch.save` wrote."""
    buffer = io.BytesIO()
    torch.save({"x": torch.ones(3)}, buffer)
    with zipfile.ZipFile(buffer) as source, zipfile.ZipFile(path, "w") as target:
        for member in source.namelist():
            target.writestr(member, content if member.endswith("data.pkl") else source.read(member))


@pytest.mark.parametrize("trap", [Trap, LateTrap])
@pytest.mark.parametrize("container", ["zip", "legacy", "pickle 2", "pickle 4", "rewritten zip"])
def test_nothing_in_a_file_is_ever_run(tmp_path, monkeypatch, trap, container):
    # Not even when the user's environment asks PyTorch to trust everything.
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    witness, path = tmp_path / "ran", tmp_path / "hostile.pt"
    content = {"state_dict": {"x": torch.ones(2)}, "opts": trap(witness)}
    if container in ("zip", "legacy"):
        torch.save(content, path, _use_new_zipfile_serialization=container == "zip")
    elif container == "rewritten zip":
        zip_with_pickle(pickle.dumps({"opts": trap(witness)}, 2), path)
    else:
        path.write_bytes(pickle.dumps({"opts": trap(witness)}, int(container[-1])))
    with pytest.raises(CheckpointError) as error:
        read_checkpoint(path)
    sentence(error, "refused", "exec" if trap is LateTrap else "io.open")
    assert not witness.exists()
    # The trap is real: trusting the file springs it.
    if container.startswith("pickle"):
        pickle.loads(path.read_bytes())
        assert witness.exists()


def test_only_namespaces_are_allowed_beside_tensors(tmp_path):
    for name, content in {
        "types.SimpleNamespace": types.SimpleNamespace(encoder_type="e4e"),
        "torch.nn.modules.linear.Linear": nn.Linear(2, 2),
        "pathlib": Path("/home"),
        "html.unescape": html.unescape,
    }.items():
        path = save({"state_dict": {}, "opts": content}, tmp_path / "a.pt")
        with pytest.raises(CheckpointError) as error:
            read_checkpoint(path)
        sentence(error, name, "refused")
    assert argparse.Namespace not in torch.serialization.get_safe_globals()


def test_nvlabs_pickles_are_named(tmp_path):
    for name, content in {
        "ffhq.pkl": pickle.dumps({"G_ema": [1.0]}, 3),
        "ffhq.pt": b"\x80\x03ctorch_utils.persistence\n_reconstruct_persistent_obj\nq\x00}\x85R.",
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError) as error:
            read_checkpoint(tmp_path / name)
        sentence(error, "NVlabs", "not supported yet", ".safetensors", "rosinality")


# Recognising.


def test_unknown_kinds_are_listed_with_the_known_ones(tmp_path):
    for content in (
        {"conv1.weight": torch.ones(2)},
        {"state_dict": {"conv1.weight": torch.ones(2)}},
        {"g_ema": {"conv1.weight": torch.ones(2)}},
        {"encoder.conv1.weight": torch.ones(2), "decoder.conv1.weight": torch.ones(2)},
    ):
        with pytest.raises(CheckpointError) as error:
            recognise(content, "a.pt")
        sentence(error, "a.pt", "conv1.weight", "SDIC", "e4e", "pSp", "rosinality")


@pytest.mark.parametrize(
    ("options", "encoder_type", "kind", "progressive"),
    [
        ({"encoder_type": "Encoder4Editing"}, None, "e4e", True),
        ({"encoder_type": "GradualStyleEncoder"}, None, "pSp", False),
        (argparse.Namespace(encoder_type="GradualStyleEncoder"), None, "pSp", False),
        (argparse.Namespace(encoder_type="GradualStyleEncoder"), "e4e", "e4e", True),
        ({"encoder_type": "Encoder4Editing"}, "psp", "pSp", False),
        (None, None, "e4e", True),
        (None, "psp", "pSp", False),
    ],
)
def test_encoder_type(sdic_state, options, encoder_type, kind, progressive):
    found = recognise(published(only(sdic_state, "encoder."), opts=options), "a.pt", encoder_type)
    assert (found.kind, found.parts["encoder"].progressive) == (kind, progressive)
    assert any("was assumed" in note for note in found.notes) == (options is None and encoder_type is None)


def test_unknown_encoder_type(sdic_state):
    with pytest.raises(CheckpointError) as error:
        recognise(published(only(sdic_state, "encoder.")), "a.pt", "restyle")
    sentence(error, "restyle", "psp")


@pytest.mark.parametrize("place", ["beside", "state_dict", "encoder", "DIP", "SAF", "decoder", "g_ema", "d"])
def test_unknown_keys_are_errors(tmp_path, sdic_state, small_generator, small_discriminator, place):
    stranger = {f"{place}.strange.weight": torch.ones(2)}
    if place == "beside":
        content = published(sdic_state, strange=1)
    elif place in ("g_ema", "d"):
        content = {"g_ema": dict(small_generator), "d": dict(small_discriminator)}
        content[place]["strange.weight"] = torch.ones(2)
    else:
        content = published({**sdic_state, **stranger})
    with pytest.raises(CheckpointError) as error:
        convert(save(content, tmp_path / "a.pt"), tmp_path / "out")
    sentence(error, "strange")
    assert not (tmp_path / "out").exists()


# Converting.


def flat_keys(content: dict) -> set[str]:
    """Keys of a rosinality file as the report names them."""
    return {
        f"{name}.{key}" if name != "state_dict" else key
        for name in ("state_dict", "g_ema", "d")
        for key in content.get(name, {})
    } | {name for name in content if name not in ("state_dict", "g_ema", "d", "latent_avg")}


@pytest.fixture(scope="module")
def converted_sdic(tmp_path_factory, sdic_state):
    """An SDIC file with everything that training may have stored, converted: content, folder, report."""
    folder = tmp_path_factory.mktemp("sdic")
    extras = {
        "lpips_loss.net.layers.0.weight": torch.randn(4, 3, 3, 3),
        "lpips_loss.lin.0.1.weight": torch.rand(1, 4, 1, 1),
        "id_loss.facenet.input_layer.0.weight": torch.randn(4, 3, 3, 3),
    }
    state = {f"module.{key}": tensor for key, tensor in {**sdic_state, **extras}.items()}
    options = argparse.Namespace(encoder_type="Encoder4Editing", exp_dir="/home/somebody/runs")
    content = published(state, opts=options, global_step=7, best_val_loss=0.5, optimizer={"state": {}, "lr": 1e-3})
    report = convert(save(content, folder / "sdic.pt"), folder / "out", license="mit")
    content["state_dict"] = {**sdic_state, **extras}
    return content, folder / "out", report


def test_sdic_becomes_a_pipeline(converted_sdic, sdic_state):
    _, folder, report = converted_sdic
    assert report.is_pipeline
    assert report.kinds == {"sdic.pt": "SDIC"}
    pipeline = SDICPipeline.from_pretrained(folder)
    encoder, generator = pipeline.encoder, pipeline.generator
    assert torch.equal(encoder.latent_avg, parity_weights.latent_avg(STYLES, WIDTH))
    assert torch.equal(encoder.heads[13].linear.weight, sdic_state["encoder.styles.13.linear.weight"])
    assert torch.equal(generator.blocks[6].conv.conv.weight, sdic_state["decoder.convs.11.conv.weight"][0])
    assert torch.equal(pipeline.dipn.matching[1].weight, sdic_state["DIP.desc.weight"])
    assert torch.equal(pipeline.dicn.latents.shift[3].weight, sdic_state["SAF.aff1d.att2.3.weight"])
    assert (generator.config.resolution, generator.config.style_width, generator.num_styles) == (256, WIDTH, STYLES)
    assert generator.config.channels == {
        "4": 32, "8": 32, "16": 32, "32": 32, "64": 32, "128": 16, "256": 8,
    }  # fmt: skip
    assert generator.config.feature_resolution == 64
    assert (encoder.config.stage_channels, encoder.config.stage_units) == ([4, 8, 16, 32], [3, 4, 14, 3])
    assert (generator.config.source, generator.config.license) == ("sdic.pt", "mit")


def test_every_key_is_used_or_dropped_by_name(converted_sdic):
    content, _, report = converted_sdic
    dropped = {entry.key: entry.reason for entry in report.dropped}
    networks = [part for part in report.components]
    assert sum(part.tensors for part in networks) + len(dropped) == len(flat_keys(content))
    assert dropped.keys() <= flat_keys(content)
    assert all(dropped.values())
    unused = ("DIP.stem_2.", "DIP.stem_4.", "DIP.spx.", "DIP.spx_2.", "DIP.spx_4.", "DIP.semantic.", "DIP.agg.")
    unused += ("DIP.hourglass_fusion.conv1_up.bn.", "SAF.aff1.", "SAF.aff2.", "SAF.conv1.", "SAF.aff1d.agg.")
    for key in content["state_dict"]:
        assert (key in dropped) == (key.startswith(unused) or key.endswith(".kernel")), key
    assert {"opts", "global_step", "best_val_loss", "optimizer"} <= dropped.keys()


def test_report_names_everything(converted_sdic):
    _, folder, report = converted_sdic
    text = format_report(report)
    for entry in report.dropped:
        assert re.search(rf"(^|\s){re.escape(entry.key)}(,|$)", text, re.MULTILINE), entry.key
    for word in ("sdic.pt: SDIC", str(folder), "E4EEncoder", "StyleGAN2Generator", "losses/lpips", "never used"):
        assert word in text
    assert max(map(len, text.splitlines())) <= 160


def test_loss_networks_are_kept(converted_sdic):
    content, folder, _ = converted_sdic
    lpips = safetensors.torch.load_file(folder / "losses" / "lpips.safetensors")
    identity = safetensors.torch.load_file(folder / "losses" / "identity.safetensors")
    assert lpips.keys() == {"net.layers.0.weight", "lin.0.1.weight"}
    assert identity.keys() == {"facenet.input_layer.0.weight"}
    assert torch.equal(lpips["lin.0.1.weight"], content["state_dict"]["lpips_loss.lin.0.1.weight"])


def test_output_holds_no_pickles_and_no_local_paths(converted_sdic):
    _, folder, _ = converted_sdic
    files = folder_files(folder)
    weights = {f"{name}/diffusion_pytorch_model.safetensors" for name in ("encoder", "dipn", "dicn", "generator")}
    losses = {"losses/lpips.safetensors", "losses/identity.safetensors"}
    configs = {f"{name}/config.json" for name in ("encoder", "dipn", "dicn", "generator")}
    assert files == weights | losses | configs | {"model_index.json"}
    for name in files:
        content = (folder / name).read_bytes()
        assert b"/home/somebody" not in content, name
        assert str(folder.parent).encode() not in content, name
    modes = {(folder / name).stat().st_mode & 0o777 for name in files}
    assert modes == {folder.stat().st_mode & 0o666}


def test_e4e_becomes_single_components(tmp_path, sdic_state):
    content = published(only(sdic_state, "encoder.", "decoder."), opts={"encoder_type": "GradualStyleEncoder"})
    content["discriminator_state_dict"] = {"mlp.0.weight": torch.ones(2)}
    report = convert(save(content, tmp_path / "psp.pt"), tmp_path / "out")
    assert not report.is_pipeline
    assert report.kinds == {"psp.pt": "pSp"}
    assert [part.name for part in report.components] == ["encoder", "generator"]
    assert "discriminator_state_dict" in {entry.key for entry in report.dropped}
    encoder = E4EEncoder.from_pretrained(tmp_path / "out" / "encoder")
    assert not encoder.config.progressive
    assert torch.equal(encoder.stages[2][3].norm2.bias, sdic_state["encoder.body.10.res_layer.4.bias"])
    assert StyleGAN2Generator.from_pretrained(tmp_path / "out" / "generator").config.feature_resolution == 64
    assert not (tmp_path / "out" / "model_index.json").exists()


def test_rosinality(tmp_path, small_generator, small_discriminator):
    content = {
        "g": {key: tensor + 1 for key, tensor in small_generator.items()},
        "g_ema": small_generator,
        "d": small_discriminator,
        "latent_avg": torch.arange(24.0)[None],
        "args": argparse.Namespace(path="/home/somebody"),
        "g_optim": {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": []},
        "d_optim": {},
        "ada_aug_p": 0.5,
        "iter": 10,
    }
    report = convert(save(content, tmp_path / "cats.pt"), tmp_path / "out", feature_resolution=16)
    generator = StyleGAN2Generator.from_pretrained(tmp_path / "out" / "generator")
    discriminator = StyleGAN2Discriminator.from_pretrained(tmp_path / "out" / "discriminator")
    assert generator.w_avg.tolist() == list(range(24))
    assert torch.equal(generator.blocks[1].up_conv.conv.weight, small_generator["convs.0.conv.weight"][0])
    assert torch.equal(discriminator.blocks[0].skip.weight, small_discriminator["convs.1.skip.1.weight"])
    assert generator.config.channels == {"4": 20, "8": 16, "16": 12, "32": 8}
    assert (generator.config.style_width, generator.config.mapping_layers) == (24, 3)
    assert generator.config.feature_resolution == 16
    dropped = {entry.key for entry in report.dropped}
    assert {"g", "args", "g_optim", "d_optim", "ada_aug_p", "iter"} <= dropped
    used = sum(part.tensors for part in report.components)
    kernels = [key for key in dropped if key.endswith(".kernel")]
    assert used + len(kernels) == len(small_generator) + len(small_discriminator)
    assert not report.notes
    assert discriminator(generator(torch.randn(2, 8, 24)).image).shape == (2, 1)


def test_bare_and_flat_generators_are_the_same(tmp_path, small_generator):
    average = torch.arange(24.0)
    files = {
        "nested.pt": {"g_ema": small_generator, "latent_avg": average},
        "bare.pt": {**small_generator, "latent_avg": average},
        "parallel.pt": {"g_ema": {f"module.{key}": x for key, x in small_generator.items()}, "latent_avg": average},
        "training.pt": {"g": small_generator, "latent_avg": average},
    }
    for name, content in files.items():
        save(content, tmp_path / name)
    flat = {f"g_ema.{key}": tensor.contiguous() for key, tensor in small_generator.items()} | {"latent_avg": average}
    safetensors.torch.save_file(flat, tmp_path / "flat.safetensors")
    weights = set()
    for name in [*files, "flat.safetensors"]:
        report = convert(tmp_path / name, tmp_path / f"out {name}")
        assert ("rosinality" in report.kinds[name]) and bool(report.notes) == (name == "training.pt")
        weights.add((tmp_path / f"out {name}" / "generator" / "diffusion_pytorch_model.safetensors").read_bytes())
    assert len(weights) == 1


def test_mean_w_is_estimated_where_the_file_has_none(tmp_path, small_generator):
    report = convert(save({"g_ema": small_generator}, tmp_path / "a.pt"), tmp_path / "out")
    generator = StyleGAN2Generator.from_pretrained(tmp_path / "out" / "generator")
    z = torch.randn(10_000, 24, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = generator.mapping(z).mean(dim=0)
    assert torch.allclose(generator.w_avg, expected, atol=1e-5)
    assert generator.w_avg.abs().max() > 0
    assert any("estimated" in note for note in report.notes)


def test_a_repeated_mean_latent_is_the_generators_mean_w(tmp_path, sdic_state):
    mean = torch.linspace(-1, 1, WIDTH)
    content = {"state_dict": only(sdic_state, "encoder.", "decoder."), "latent_avg": mean.repeat(STYLES, 1), "opts": {}}
    report = convert(save(content, tmp_path / "a.pt"), tmp_path / "out")
    assert torch.equal(StyleGAN2Generator.from_pretrained(tmp_path / "out" / "generator").w_avg, mean)
    assert not any("estimated" in note for note in report.notes)


def test_encoder_without_mean_latent(tmp_path, sdic_state):
    encoder = save({"state_dict": only(sdic_state, "encoder."), "opts": {}}, tmp_path / "encoder.pt")
    with pytest.raises(CheckpointError) as error:
        convert(encoder, tmp_path / "out")
    sentence(error, "latent_avg", "generator's own file")
    decoder = {key.removeprefix("decoder."): tensor for key, tensor in only(sdic_state, "decoder.").items()}
    mean = torch.linspace(-1, 1, WIDTH)
    generator = save({"g_ema": decoder, "latent_avg": mean}, tmp_path / "generator.pt")
    report = convert([encoder, generator], tmp_path / "out")
    assert torch.equal(E4EEncoder.from_pretrained(tmp_path / "out" / "encoder").latent_avg[5], mean)
    assert any("mean w of generator.pt" in note for note in report.notes)
    without = {"state_dict": only(sdic_state, "encoder."), "opts": {"start_from_latent_avg": False}}
    convert(save(without, tmp_path / "zero.pt"), tmp_path / "zero")
    assert not E4EEncoder.from_pretrained(tmp_path / "zero" / "encoder").latent_avg.any()


def test_several_files_are_merged_and_the_later_wins(tmp_path, sdic_state):
    first = save(published(only(sdic_state, "encoder.", "decoder."), opts={}), tmp_path / "e4e.pt")
    compensation = only(sdic_state, "DIP.", "SAF.")
    changed = {key: tensor + 1 if key == "decoder.input.input" else tensor for key, tensor in sdic_state.items()}
    second = save({"state_dict": {**compensation, **only(changed, "decoder.")}}, tmp_path / "sdic.pt")
    report = convert([first, second], tmp_path / "out")
    assert report.is_pipeline
    assert {part.name: part.file for part in report.components} == {
        "encoder": "e4e.pt", "generator": "sdic.pt", "dipn": "sdic.pt", "dicn": "sdic.pt",
    }  # fmt: skip
    assert "generator: taken from sdic.pt, not from e4e.pt" in report.notes
    constant = SDICPipeline.from_pretrained(tmp_path / "out").generator.blocks[0].constant
    assert torch.equal(constant, sdic_state["decoder.input.input"] + 1)
    replaced = [entry.key for entry in report.dropped if entry.file == "e4e.pt" and "instead" in entry.reason]
    assert set(replaced) == set(only(sdic_state, "decoder."))


def test_compensation_alone(tmp_path, sdic_state):
    convert(save({"state_dict": only(sdic_state, "DIP.")}, tmp_path / "a.pt"), tmp_path / "dipn")
    assert isinstance(DIPN.from_pretrained(tmp_path / "dipn" / "dipn"), DIPN)
    shapes = {key: shape for key, shape in parity_weights.published_shapes().items() if key.startswith("SAF.aff1d.")}
    state = {**only(sdic_state, "SAF."), **parity_weights.state_dict(shapes)}
    convert(save({"state_dict": state}, tmp_path / "b.pt"), tmp_path / "dicn")
    config = DICN.from_pretrained(tmp_path / "dicn" / "dicn").config
    assert (config.style_width, config.condition_size, config.num_styles) == (512, 64, 14)


def test_parts_that_do_not_fit_name_both_sides(tmp_path, sdic_state, small_generator):
    encoder = save(published(only(sdic_state, "encoder.", "DIP.", "SAF."), opts={}), tmp_path / "sdic.pt")
    generator = save({"g_ema": small_generator, "latent_avg": torch.zeros(24)}, tmp_path / "g.pt")
    with pytest.raises(SDICError) as error:
        convert([encoder, generator], tmp_path / "out")
    sentence(error)
    larger = {f"decoder.{k}": v for k, v in parity_weights.generator_shapes(512).items()}
    state = parity_weights.state_dict(parity_weights.narrow(larger))
    decoder = save({"g_ema": {k.removeprefix("decoder."): v for k, v in state.items()}}, tmp_path / "512.pt")
    with pytest.raises(CheckpointError) as error:
        convert([encoder, decoder], tmp_path / "out")
    sentence(error, "encoder", "generator", "number of styles", "14", "16")
    with pytest.raises(CheckpointError) as error:
        convert(save(published(sdic_state), tmp_path / "all.pt"), tmp_path / "out", feature_resolution=32)
    sentence(error, "feature resolution", "64 in the encoder", "32 in the generator")
    assert not (tmp_path / "out").exists()


def test_values_of_the_generator_need_one(tmp_path, sdic_state):
    file = save(published(only(sdic_state, "encoder."), opts={}), tmp_path / "e.pt")
    for name, value in {"feature_resolution": 64, "content_rows": [64, 448], "source": "us", "license": "mit"}.items():
        with pytest.raises(CheckpointError) as error:
            convert(file, tmp_path / "out", **{name: value})
        sentence(error, name, "generator")


def test_cars(tmp_path):
    shapes = parity_weights.narrow(parity_weights.published_shapes(512))
    state = parity_weights.state_dict({key: shape for key, shape in shapes.items() if key.startswith(("enc", "dec"))})
    content = {"state_dict": state, "latent_avg": parity_weights.latent_avg(16, WIDTH), "opts": {}}
    file = save(content, tmp_path / "cars.pt")
    plain = convert(file, tmp_path / "plain")
    wide = convert(file, tmp_path / "wide", content_rows=(64, 448), source="/data/models/cars.pt")
    assert any("content_rows 64 448" in note for note in plain.notes)
    assert not any("content_rows" in note for note in wide.notes)
    config = StyleGAN2Generator.from_pretrained(tmp_path / "wide" / "generator").config
    assert (config.resolution, config.content_rows, config.source) == (512, [64, 448], "cars.pt")
    with pytest.raises(SDICError, match="multiples of 8"):
        convert(file, tmp_path / "bad", content_rows=(60, 448))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_dtype_and_variant(tmp_path, small_generator, dtype):
    file = save({"g_ema": small_generator, "latent_avg": torch.zeros(24)}, tmp_path / "a.pt")
    convert(file, tmp_path / "full")
    convert(file, tmp_path / "half", dtype=dtype, variant="half")
    path = tmp_path / "half" / "generator" / "diffusion_pytorch_model.half.safetensors"
    stored = safetensors.torch.load_file(path)
    assert {tensor.dtype for tensor in stored.values()} == {getattr(torch, dtype)}
    ids = [json.loads((tmp_path / x / "generator" / "config.json").read_text())["generator_id"] for x in ("full", "half")]
    assert ids[0] == ids[1]
    assert re.fullmatch(r"[0-9a-f]{16}", ids[0])
    loaded = StyleGAN2Generator.from_pretrained(tmp_path / "half" / "generator", variant="half", torch_dtype=torch.float32)
    assert torch.allclose(loaded.blocks[0].constant, small_generator["input.input"], rtol=1e-2)


def test_dtype_errors(tmp_path, small_generator):
    file = save({"g_ema": small_generator, "latent_avg": torch.full((24,), 1e5)}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError) as error:
        convert(file, tmp_path / "out", dtype="float16")
    sentence(error, "w_avg", "cast to float16")
    with pytest.raises(CheckpointError) as error:
        convert(file, tmp_path / "out", dtype="int8")
    sentence(error, "int8", "float16")


def test_fingerprint_tells_latent_spaces_apart(tmp_path, small_generator):
    channels = {"4": 20, "8": 16, "16": 12, "32": 8}
    torch.manual_seed(0)
    generator = StyleGAN2Generator(32, 24, 3, channels, feature_resolution=8)
    before = generator_fingerprint(generator)
    with torch.no_grad():
        generator.blocks[3].conv.conv.weight += 1
        assert generator_fingerprint(generator) == before
        generator.mapping_network.layers[0].bias[0] += 1e-3
    assert generator_fingerprint(generator) != before


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
        (published({key: x for key, x in sdic_state.items() if ".body.2" not in key}), "stages"),
        (published({**sdic_state, "SAF.aff1d.sen.0.weight": torch.ones(3)}), "SAF.aff1d.sen.0.weight"[4:]),
        (published({**sdic_state, "SAF.aff1d.sen.0.weight": torch.ones(72, 146, 1)}), "style width of 32"),
        ({"state_dict": sdic_state, "latent_avg": torch.ones(3, 5)}, "[3, 5]"),
        ({"state_dict": sdic_state, "latent_avg": [1, 2]}, "latent_avg"),
        ({"state_dict": sdic_state, "latent_avg": torch.full((14, 32), torch.nan)}, "latent_avg"),
        ({"state_dict": {**sdic_state, "encoder.x": "text"}}, "encoder.x"),
        ({"g_ema": [1]}, "a list under 'g_ema'"),
        ({"g_ema": small_generator, "latent_avg": torch.ones(7)}, "[7]"),
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
    with pytest.raises(KeyboardInterrupt), output_module.replacing_folder(tmp_path / "deep" / "out") as folder:
        (folder / "half").write_text("x")
        raise KeyboardInterrupt
    assert not folder_files(tmp_path)


# The project's own generator.


@pytest.mark.skipif("SDIC_DATA" not in os.environ, reason="needs the data folder, SDIC_DATA")
def test_the_cat_generator(tmp_path):
    file = Path(os.environ["SDIC_DATA"]) / "cats64_generator.pt"
    report = convert(file, tmp_path / "out", license="mit")
    generator = StyleGAN2Generator.from_pretrained(tmp_path / "out" / "generator")
    source = torch.load(file, weights_only=True)
    assert torch.equal(generator.w_avg, source["latent_avg"])
    assert generator.config.channels == {"4": 256, "8": 256, "16": 128, "32": 64, "64": 32}
    assert (generator.config.mapping_layers, generator.config.style_width) == (4, 256)
    assert sum(part.tensors for part in report.components) + len(report.dropped) == len(source["g_ema"]) + len(source["d"])
    with torch.no_grad():
        w = generator.mapping(torch.randn(4, 256, generator=torch.Generator().manual_seed(0)), truncation=0.7)
        images = generator(generator.broadcast(w)).image
    # Cats, not noise: neighbouring pixels are alike, and the pictures differ.
    assert (images[..., 1:] - images[..., :-1]).abs().mean() < 0.3 * images.std()
    assert images.std(dim=0).mean() > 0.1
