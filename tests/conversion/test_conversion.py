"""Conversion: files recognised by their keys, every key accounted for, all sizes inferred from the shapes."""

from __future__ import annotations

import argparse
import json
import os
import re
from pathlib import Path

import pytest
import safetensors.torch
import torch
from testing import checkpoints, parity_weights
from testing.checkpoints import STYLES, WIDTH, folder_files, only, published, save, sentence

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
from sdic_plugin.checkpoints.folder import read_parts_settings
from sdic_plugin.commands.cli import main
from sdic_plugin.conversion import convert, format_report, generator_fingerprint, recognise
from sdic_plugin.utils.seeds import seeded_rng

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
def converted_sdic(tmp_path_factory):
    """An SDIC file with everything that training may have stored, converted: content, folder, report."""
    folder, sdic_state = tmp_path_factory.mktemp("sdic"), checkpoints.sdic_state()
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
    assert sum(part.tensors for part in report.components) + len(dropped) == len(flat_keys(content))
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
        "parallel beside.pt": {**{f"module.{key}": x for key, x in small_generator.items()}, "latent_avg": average},
        "wrapped.pt": {"state_dict": small_generator, "latent_avg": average},
        "counted.pt": {"g_ema": small_generator, "latent_avg": average, "step": 5, "iteration": 5, "epoch": 1},
        "bare counted.pt": {**small_generator, "latent_avg": average, "step": 5},
        "repeated.pt": {"g_ema": small_generator, "latent_avg": average.repeat(8, 1)},
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
    z = torch.randn(10_000, 24, generator=seeded_rng(0))
    with torch.no_grad():
        expected = generator.mapping(z).mean(dim=0)
    assert torch.allclose(generator.w_avg, expected, atol=1e-5)
    assert generator.w_avg.abs().max() > 0
    assert any("estimated" in note for note in report.notes)


def test_fixed_noise_is_drawn_where_the_file_has_none(tmp_path, small_generator):
    """As in rosinality's own files, which are older than fixed noise."""
    state = {key: tensor for key, tensor in small_generator.items() if not key.startswith("noises.")}
    file = save({"g_ema": state, "latent_avg": torch.zeros(24)}, tmp_path / "550000.pt")
    report = convert(file, tmp_path / "out")
    assert report.notes == ["550000.pt has no fixed noise, so it was drawn with seed 0"]
    convert(file, tmp_path / "again")
    first, again = (StyleGAN2Generator.from_pretrained(tmp_path / name / "generator") for name in ("out", "again"))
    assert torch.equal(first.blocks[3].up_conv.noise, again.blocks[3].up_conv.noise)
    assert 0.9 < first.blocks[3].conv.noise.std() < 1.1
    part = {**state, "noises.noise_0": small_generator["noises.noise_0"]}
    with pytest.raises(CheckpointError) as error:
        convert(save({"g_ema": part}, tmp_path / "part.pt"), tmp_path / "part")
    sentence(error, "blocks.1.conv.noise")


def test_a_repeated_mean_latent_is_the_generators_mean_w(tmp_path, sdic_state):
    mean = torch.linspace(-1, 1, WIDTH)
    content = {
        "state_dict": only(sdic_state, "encoder.", "decoder."),
        "latent_avg": mean.repeat(STYLES, 1),
        "opts": {},
    }
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
    sentence(error, "image_size is 256", "feature_resolution 32", "reduces sizes by 4")
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
    for rows, words in {(60, 448): "multiples of 8", (64, 448, 1): "two numbers"}.items():
        with pytest.raises(SDICError, match=words):
            convert(file, tmp_path / "bad", content_rows=rows)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_dtype_and_variant(tmp_path, small_generator, dtype):
    file = save({"g_ema": small_generator, "latent_avg": torch.zeros(24)}, tmp_path / "a.pt")
    convert(file, tmp_path / "full")
    convert(file, tmp_path / "half", dtype=dtype, variant="half")
    path = tmp_path / "half" / "generator" / "diffusion_pytorch_model.half.safetensors"
    stored = safetensors.torch.load_file(path)
    assert {tensor.dtype for tensor in stored.values()} == {getattr(torch, dtype)}
    ids = [
        json.loads((tmp_path / x / "generator" / "config.json").read_text())["generator_id"] for x in ("full", "half")
    ]
    assert ids[0] == ids[1]
    assert re.fullmatch(r"[0-9a-f]{16}", ids[0])
    loaded = StyleGAN2Generator.from_pretrained(
        tmp_path / "half" / "generator", variant="half", torch_dtype=torch.float32
    )
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
    assert sum(part.tensors for part in report.components) + len(report.dropped) == len(source["g_ema"]) + len(
        source["d"]
    )
    with torch.no_grad():
        w = generator.mapping(torch.randn(4, 256, generator=torch.Generator().manual_seed(0)), truncation=0.7)
        images = generator(generator.broadcast(w)).image
    # Cats, not noise: neighbouring pixels are alike, and the pictures differ.
    assert (images[..., 1:] - images[..., :-1]).abs().mean() < 0.3 * images.std()
    assert images.std(dim=0).mean() > 0.1


def test_alignment_is_kept_beside_parts(tmp_path, sdic_state):
    content = published(only(sdic_state, "encoder.", "decoder."), opts={"encoder_type": "Encoder4Editing"})
    path = save(content, tmp_path / "e4e.pt")
    assert main(["convert", str(path), "--out", str(tmp_path / "parts"), "--alignment", "ffhq"]) == 0
    assert not (tmp_path / "parts" / "model_index.json").exists()
    assert read_parts_settings(tmp_path / "parts")["alignment"]["rule"] == "ffhq"


def test_alignment_is_kept_in_the_pipeline(tmp_path, sdic_state):
    path = save(published(sdic_state), tmp_path / "sdic.pt")
    arguments = ["convert", str(path), "--out", str(tmp_path / "model"), "--alignment", "ffhq"]
    assert main(arguments) == 0
    index = json.loads((tmp_path / "model/model_index.json").read_text())
    assert index["alignment"] == {"rule": "ffhq", "eye_scale": 2.0, "mouth_scale": 1.8, "shift": 0.1}
    with pytest.raises(SDICError, match="celeba"):
        convert(path, tmp_path / "other", alignment={"rule": "celeba"})
    assert not (tmp_path / "other").exists()
