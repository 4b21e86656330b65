"""The transport's training: its pairs, what it learns, and what its run leaves."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from PIL import Image
from testing.tiny_models import make_model, make_pipeline

from sdic_plugin import (
    DirectionEdit,
    EditError,
    FeatureTransport,
    SDICError,
    SDICPipeline,
    StyleSpaceEdit,
    write_edits,
)
from sdic_plugin.commands.cli import main
from sdic_plugin.edits.base import Edit
from sdic_plugin.models.synthetic_photos import draw_samples, sample_latents
from sdic_plugin.training import transport
from sdic_plugin.training.compensation import CompensationTrainingConfig, train_compensation
from sdic_plugin.training.edit_survival import edit_transfer_loss
from sdic_plugin.training.initialization import deepen_dicn
from sdic_plugin.training.transport import (
    TransportTrainingConfig,
    make_pairs,
    offset_of,
    train_transport,
    usable_edits,
)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def turn(name="turn", seed=5, **options) -> Edit:
    return DirectionEdit(name, tensors={"direction": torch.randn(10, 16, generator=rng(seed))}, **options)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A whole pipeline with an edit, and a folder of pictures."""
    folder = tmp_path_factory.mktemp("base")
    pipe = make_pipeline()
    pipe.add_edit(turn(default_strength=0.5))
    pipe.save_pretrained(folder / "model")
    make_model("discriminator").save_pretrained(folder / "model" / "discriminator")
    (folder / "photos").mkdir()
    for i in range(6):
        pixels = torch.randint(0, 256, (32, 32, 3), generator=rng(i), dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(folder / "photos" / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def deep(base, tmp_path_factory):
    """The same model with two second looks."""
    pipe = SDICPipeline.from_pretrained(base / "model")
    pipe.dicn = deepen_dicn(pipe.dicn, second_look_blocks=1, second_look_channels=4, second_looks=2)
    folder = tmp_path_factory.mktemp("deep") / "model"
    pipe.save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("SDIC_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def settings(base, output, **changes) -> TransportTrainingConfig:
    values = {"data": str(base / "photos"), "validation": str(base / "photos"), "model": str(base / "model")}
    values |= {"steps": 2, "batch_size": 4, "log_every": 1, "sample_every": 100, "checkpoint_every": 100}
    values |= {"blocks": 1, "channels": 8, "decay_from": 1.0, "mixed_precision": "no"}
    return TransportTrainingConfig(**{**values, "output": str(output), **changes})


def log_of(output):
    return [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]


# Pairs.


def test_samples_have_the_finer_styles_of_another():
    generator = make_model("generator")
    draws = draw_samples(generator, 40, rng())
    latents = sample_latents(generator, draws)
    assert draws.crossover.min() >= 5 and draws.crossover.max() == 10 and len(draws.crossover.unique()) > 3
    for found, crossover, coarse, fine in zip(latents, draws.crossover, *draws.z, strict=True):
        first, second = generator.mapping(torch.stack([coarse, fine]))
        torch.testing.assert_close(found[:crossover], first.expand(crossover, -1))
        torch.testing.assert_close(found[crossover:], second.expand(10 - crossover, -1))


def test_the_truth_is_the_edited_sample():
    generator = make_model("generator")
    latents = sample_latents(generator, draw_samples(generator, 2, rng()))
    offset = offset_of(turn(), latents, 1.5)
    torch.testing.assert_close(offset, 1.5 * turn().tensors["direction"].expand_as(latents))
    pairs = make_pairs(generator, latents, offset, 32)
    assert pairs.photo.shape == pairs.edited.shape == (2, 3, 32, 32)
    torch.testing.assert_close(pairs.edited_features, generator(latents + offset).features)
    torch.testing.assert_close(make_pairs(generator, latents + offset, offset, 32).photo, pairs.edited)


def test_edits_that_add_to_latents_are_chosen_by_name():
    styles = StyleSpaceEdit("style", tensors={"layer_1": torch.ones(12)})
    edits = [turn("a"), styles, turn("b")]
    assert [edit.name for edit in usable_edits(edits, None)] == ["a", "b"]
    assert [edit.name for edit in usable_edits(edits, ["b"])] == ["b"]
    with pytest.raises(SDICError, match=r"named_edits holds \[?.*style.*, but the model's edits .* \[.*a.*b.*\]"):
        usable_edits(edits, ["style"])


def test_edits_of_another_generator_are_not_trained_with(base, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(base / "model", model)
    write_edits([turn("tilt")], model / "edits" / "others.safetensors", "another")
    with pytest.raises(EditError, match=r"others\.safetensors were made for the generator another"):
        train_transport(settings(base, tmp_path / "run", model=str(model)))
    assert not (tmp_path / "run").exists()


# The run.


def test_it_comes_nearer_to_the_truth_than_the_plain_rule(base, tmp_path):
    config = settings(base, tmp_path, steps=60, learning_rate=3e-3, perceptual_weight=0.0, ema_decay=0.5)
    model = train_transport(config)
    report = next(line for line in log_of(tmp_path) if "validation_psnr" in line)
    assert report["validation_psnr"] > report["validation_psnr_plain"] + 0.1
    assert list((tmp_path / "samples").iterdir())
    pipe = SDICPipeline.from_pretrained(model)
    before = SDICPipeline.from_pretrained(base / "model")
    assert isinstance(pipe.transport, FeatureTransport) and list(pipe.get_list_edits()) == ["turn"]
    for name, network in before.components.items():
        found = pipe.components[name].state_dict()
        assert all(torch.equal(value, found[key]) for key, value in network.state_dict().items())


def test_every_term_can_be_had_and_a_run_goes_on_to_the_same_bits(base, tmp_path):
    terms = {"edit_transfer_weight": 0.5, "ssim_weight": 0.1, "feature_weight": 0.2}
    train_transport(settings(base, tmp_path / "parts", steps=1, **terms))
    models = [train_transport(settings(base, tmp_path / name, **terms)) for name in ("parts", "whole")]
    names = {"pixel", "perceptual", "ssim", "features", "edit_transfer", "loss"}
    assert names <= log_of(tmp_path / "whole")[0].keys()
    files = [model / "transport" / "diffusion_pytorch_model.safetensors" for model in models]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_dicn_may_learn_along_and_a_run_goes_on_to_the_same_bits(base, tmp_path):
    together = {"train_dicn": True, "edit_transfer_weight": 0.5, "truth_weight": 0.5}
    train_transport(settings(base, tmp_path / "parts", steps=1, **together))
    models = [train_transport(settings(base, tmp_path / name, **together)) for name in ("parts", "whole")]
    first, report = (next(x for x in log_of(tmp_path / "whole") if name in x) for name in ("loss", "validation_psnr"))
    assert {"pixel", "photo_pixel", "photo_perceptual", "edit_transfer"} <= first.keys()
    assert report["validation_psnr_inversion"] > 0
    for name in ("dicn", "transport"):
        files = [model / name / "diffusion_pytorch_model.safetensors" for model in models]
        assert files[0].read_bytes() == files[1].read_bytes()
    before = SDICPipeline.from_pretrained(base / "model").dicn.state_dict()
    after = SDICPipeline.from_pretrained(models[0]).dicn.state_dict()
    assert any(not torch.equal(value, before[key]) for key, value in after.items())


def test_second_looks_may_learn_alone(base, deep, tmp_path):
    """What is before them stays to the bit, BatchNorm's statistics too."""
    alone = {"model": str(deep), "train_dicn": True, "dicn_part": "second_looks", "edit_transfer_weight": 0.5}
    model = train_transport(
        settings(base, tmp_path, truth_weight=0.0, edited_share=1.0, perceptual_weight=0.0, **alone)
    )
    before, after = (SDICPipeline.from_pretrained(folder).dicn.state_dict() for folder in (deep, model))
    moved = {key.split(".")[0] for key, value in after.items() if not torch.equal(value, before[key])}
    assert moved == {"second_look", "later_looks"}


def test_as_many_photos_are_edited_as_was_asked(base, tmp_path, monkeypatch):
    counts = []

    def counted(encoded, compensated, generator, offset, network=None):
        counts.append((len(encoded.latents), len(compensated.inversion), len(offset)))
        return edit_transfer_loss(encoded, compensated, generator, offset, network)

    monkeypatch.setattr(transport, "edit_transfer_loss", counted)
    for along in (False, True):
        for share in (0.3, 1.0):
            changes = {"edited_share": share, "train_dicn": along, "edit_transfer_weight": 0.5}
            train_transport(settings(base, tmp_path / f"{along}{share}", steps=1, **changes))
    assert counts == [(2, 2, 2), (4, 4, 4)] * 2


@pytest.mark.parametrize("stage", ["transport", "compensation"])
def test_second_looks_that_are_not_there_cannot_learn(base, tmp_path, capsys, stage):
    options = [
        "--from",
        str(base / "model"),
        "--set",
        f"data={base / 'photos'}",
        "--set",
        f"output={tmp_path / 'run'}",
    ]
    options += ["--set", "train_dicn=true"] if stage == "transport" else []
    assert main(["train", stage, *options, "--set", "dicn_part=second_looks"]) == 2
    assert "this DICN has none: set second_look_blocks" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_compensation_may_deepen_a_model_and_leave_the_rest(base, tmp_path):
    values = {"data": str(base / "photos"), "validation": str(base / "photos"), "model": str(base / "model")}
    values |= {"steps": 1, "batch_size": 4, "perceptual_weight": 0.0, "mixed_precision": "no", "train_dipn": False}
    values |= {"second_look_blocks": 1, "second_look_channels": 4, "dicn_part": "second_looks"}
    model = train_compensation(CompensationTrainingConfig(**values, output=str(tmp_path / "run")))
    before, after = (SDICPipeline.from_pretrained(folder).dicn.state_dict() for folder in (base / "model", model))
    assert all(torch.equal(value, after[key]) for key, value in before.items()) and len(after) > len(before)
    with pytest.raises(SDICError, match="no trained DICN whose other part could stay"):
        scratch = {**values, "from_scratch": True, "train_dipn": True, "output": str(tmp_path / "scratch")}
        train_compensation(CompensationTrainingConfig(**scratch))


def test_pairs_may_be_left_out(base, tmp_path):
    train_transport(settings(base, tmp_path, truth_weight=0.0, edit_transfer_weight=0.5, steps=1))
    assert {"edit_transfer", "loss"} <= log_of(tmp_path)[0].keys() and "pixel" not in log_of(tmp_path)[0]


@pytest.mark.parametrize("along", [False, True])
def test_captured_steps_are_the_plain_ones(base, tmp_path, monkeypatch, along):
    monkeypatch.setattr(torch, "compile", lambda graph, **options: graph)
    for way in ("no", "yes"):
        train_transport(settings(base, tmp_path / way, compile=way, edit_transfer_weight=0.5, train_dicn=along))
    for plain, captured in zip(log_of(tmp_path / "no"), log_of(tmp_path / "yes"), strict=True):
        for name in plain.keys() - {"images_per_second"}:
            assert captured[name] == pytest.approx(plain[name], rel=1e-3, abs=1e-4), name


def test_a_model_with_a_transport_goes_on_with_it(base, tmp_path):
    first = train_transport(settings(base, tmp_path / "first"))
    second = train_transport(settings(base, tmp_path / "second", model=str(first), blocks=3))
    assert SDICPipeline.from_pretrained(second).transport.config.blocks == 1


def test_compensation_goes_deeper_and_edits_through_the_transport_that_is_there(base, tmp_path):
    model = train_transport(settings(base, tmp_path / "transport", steps=1))
    pipe = SDICPipeline.from_pretrained(model)
    with torch.no_grad():
        pipe.transport.network[-1].weight.normal_(std=0.3, generator=rng())
    pipe.transport.save_pretrained(tmp_path / "strong" / "transport")
    shutil.copytree(model, tmp_path / "strong", dirs_exist_ok=True, ignore=shutil.ignore_patterns("transport"))
    losses = {}
    for name, start in (("without", base / "model"), ("with", tmp_path / "strong")):
        values = {"data": str(base / "photos"), "validation": str(base / "photos"), "model": str(start)}
        values |= {"steps": 1, "batch_size": 4, "log_every": 1, "perceptual_weight": 0.0, "mixed_precision": "no"}
        values |= {"second_look_blocks": 1, "second_look_channels": 4, "second_looks": 2, "train_dipn": False}
        values |= {"edit_transfer_weight": 1.0, "synthetic_edit_weight": 1.0, "cycle_weight": 1.0}
        deeper = train_compensation(CompensationTrainingConfig(**values, output=str(tmp_path / name)))
        pipe = SDICPipeline.from_pretrained(deeper)
        assert len(pipe.dicn.looks) == 2 and (pipe.transport is not None) == (name == "with")
        losses[name] = log_of(tmp_path / name)[0]
    assert losses["with"]["pixel"] == losses["without"]["pixel"]
    for term in ("edit_transfer", "synthetic_edit", "cycle"):
        assert losses["with"][term] != losses["without"][term], term


@pytest.mark.parametrize(
    ("setting", "blocks"), [("second_looks=4", "second_look_blocks"), ("residual_channels=8", "residual_blocks")]
)
def test_depth_without_blocks_is_refused(base, tmp_path, capsys, setting, blocks):
    options = [
        "--from",
        str(base / "model"),
        "--set",
        f"data={base / 'photos'}",
        "--set",
        f"output={tmp_path / 'run'}",
    ]
    assert main(["train", "compensation", *options, "--set", setting]) == 2
    assert f"no blocks that it could be about: set {blocks}." in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_command_and_its_refusals(base, tmp_path, capsys):
    options = ["train", "transport", "--from", str(base / "model"), "--set", f"data={base / 'photos'}"]
    options += [
        "--set",
        "steps=1",
        "--set",
        "batch_size=2",
        "--set",
        "blocks=1",
        "--set",
        f"output={tmp_path / 'run'}",
    ]
    assert main([*options, "--set", "validation_share=0.2"]) == 0
    assert SDICPipeline.from_pretrained(tmp_path / "run" / "model").transport is not None
    assert main([*options, "--set", "truth_weight=0", "--set", f"output={tmp_path / 'nothing'}"]) == 2
    assert "truth_weight and edit_transfer_weight are both 0" in capsys.readouterr().err
    assert not (tmp_path / "nothing").exists()
    recipe = ["--config", "cats64_transport", "--set", "channels=4", "--set", f"output={tmp_path / 'recipe'}"]
    assert main([*options, *recipe]) == 2  # it names the edits of cats64
    assert "warmth" in capsys.readouterr().err
    assert main([*options, *recipe, "--set", "named_edits=none", "--set", "validation_share=0.2"]) == 0
    assert main([*options, "--set", 'named_edits=["smile"]', "--set", f"output={tmp_path / 'other'}"]) == 2
    assert "smile" in capsys.readouterr().err
