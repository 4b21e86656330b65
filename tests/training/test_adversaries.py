"""Who the generator learns from: the projected discriminator alone, and beside the plain one."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sdic_plugin import CheckpointError, SDICError, StyleGAN2Discriminator, StyleGAN2Generator
from sdic_plugin.checkpoints import imagenet_weights
from sdic_plugin.checkpoints.components import has_component, load_component
from sdic_plugin.models.efficientnet_lite import EfficientNetLite, load_efficientnet_lite
from sdic_plugin.models.projected_discriminator import ProjectedDiscriminator
from sdic_plugin.training import adversaries
from sdic_plugin.training.adversaries import features_mark
from sdic_plugin.training.capture import CapturedLoss
from sdic_plugin.training.generator import train_generator
from sdic_plugin.training.generator_config import GeneratorTrainingConfig
from sdic_plugin.training.losses import hinge_discriminator_loss, hinge_generator_loss

CHANNELS = {"4": 8, "8": 8, "16": 8}
SIZES = {"resolution": 16, "style_width": 8, "mapping_layers": 2, "channels": CHANNELS}
HEADS = {"projected_channels": 4, "projected_side": 64}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Orange pictures with a dark lower half, of varying brightness."""
    path = tmp_path_factory.mktemp("data") / "images.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(24):
            pixels = np.zeros((16, 16, 3), np.uint8)
            pixels[:8], pixels[8:] = (200 + i, 120 + i, 20), (40 + i, 20, 60)
            with archive.open(f"{i:02d}.png", "w") as file:
                Image.fromarray(pixels).save(file, format="PNG")
    return path


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> Path:
    """A folder with a generator and a plain discriminator to go on from."""
    folder = tmp_path_factory.mktemp("start")
    torch.manual_seed(3)
    StyleGAN2Generator(**SIZES, feature_resolution=8).save_pretrained(folder / "generator")
    StyleGAN2Discriminator(resolution=16, channels=CHANNELS).save_pretrained(folder / "discriminator")
    return folder


def settings(data: Path, output: Path, **changes) -> GeneratorTrainingConfig:
    values = {"steps": 2, "batch_size": 4, "log_every": 1, "sample_every": 2, "checkpoint_every": 2, **HEADS}
    return GeneratorTrainingConfig(data=str(data), output=str(output), **{**values, **changes})


def log_of(output: Path) -> list[dict]:
    return [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]


def weights(model: Path, name: str) -> dict[str, torch.Tensor]:
    classes = {"generator": StyleGAN2Generator, "discriminator": StyleGAN2Discriminator}
    return load_component(classes.get(name, ProjectedDiscriminator), model, name).state_dict()


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(value, b[key]) for key, value in a.items())


# What it sees, and its loss.


def test_hinge_loss_stops_where_the_scores_are_right():
    real, fake = torch.tensor([1.5, 0.5]), torch.tensor([-1.5, 0.5])
    assert hinge_discriminator_loss(real, fake).item() == pytest.approx((0 + 0.5) / 2 + (0 + 1.5) / 2)
    assert hinge_generator_loss(fake).item() == pytest.approx(0.5)


def test_side_of_what_it_sees():
    sides = {r: settings(Path("a"), Path("b"), projected_side=None).projected_side_at(r) for r in (16, 64, 128, 1024)}
    assert sides == {16: 128, 64: 128, 128: 128, 1024: 256}
    assert settings(Path("a"), Path("b")).projected_side_at(64) == 64


# Training.


def test_projected_discriminator_alone(data, tmp_path):
    model = train_generator(settings(data, tmp_path / "run", **SIZES, discriminator="projected", blur_images=4))
    assert sorted(path.name for path in model.iterdir() if path.is_dir()) == ["generator", "projected_discriminator"]
    heads = load_component(ProjectedDiscriminator, model, "projected_discriminator")
    assert (heads.config.side, heads.config.channels) == (64, 4)
    steps = [line for line in log_of(tmp_path / "run") if "loss" in line]
    for line in steps:
        assert line["loss"] == line["projected_generator"] == pytest.approx(-line["projected_logit_fake"])
        assert 0 < line["projected_discriminator"] < 10
        assert not {"generator", "discriminator", "r1", "ada_probability"} & line.keys()
    report = log_of(tmp_path / "run")[-1]
    assert np.isfinite([report["validation_projected_logit"], report["validation_projected_logit_of_samples"]]).all()
    assert "validation_logit" not in report


def test_killed_run_of_both_resumes_to_the_same_weights(data, tmp_path):
    """Reports leave no trace; the blur fades in the third step, and the plain discriminator's term has its weight."""
    changes = {**SIZES, "discriminator": "both", "plain_weight": 0.25, "blur_images": 8, "r1_every": 2}
    changes |= {"mixed_precision": "bf16", "ada_images": 20, "ada_every": 1, "ada_target": 0.0}
    whole = train_generator(settings(data, tmp_path / "whole", steps=4, sample_every=4, **changes))
    train_generator(settings(data, tmp_path / "parts", steps=2, **changes))
    parts = train_generator(settings(data, tmp_path / "parts", steps=4, sample_every=1, **changes))
    for name in ("generator", "discriminator", "projected_discriminator"):
        assert equal(weights(whole, name), weights(parts, name)), name
    for line in (line for line in log_of(tmp_path / "whole") if "loss" in line):
        assert line["loss"] == pytest.approx(line["projected_generator"] + 0.25 * line["generator"], rel=1e-5)
        assert line["r1"] > 0


def test_going_on_from_a_model(data, start, tmp_path):
    """A plain discriminator that does not learn is kept, and a projected one is learned on with."""
    changes = {"model": str(start), "discriminator": "projected", "frechet_images": 8}
    first = train_generator(settings(data, tmp_path / "first", **changes))
    assert equal(weights(first, "discriminator"), weights(start, "discriminator"))
    assert log_of(tmp_path / "first")[-1]["validation_frechet_discriminator"] > 0
    before = weights(first, "projected_discriminator")
    second = train_generator(
        settings(data, tmp_path / "second", model=str(first), discriminator="both", seed=5, projected_channels=8)
    )
    after = weights(second, "projected_discriminator")
    frozen = [key for key in before if key.startswith("mix_")]
    assert all(torch.equal(before[key], after[key]) for key in frozen) and len(frozen) == 8
    moved = [key for key in before if key.endswith("conv.weight") and not torch.equal(before[key], after[key])]
    assert moved and all((before[key] - after[key]).abs().max() < 1e-3 for key in moved)
    assert not equal(weights(second, "discriminator"), weights(start, "discriminator"))
    # Without a word of it, a run is StyleGAN2's own.
    plain = train_generator(settings(data, tmp_path / "plain", model=str(second), steps=1))
    assert not has_component(plain, "projected_discriminator") and has_component(plain, "discriminator")


def test_only_new_heads_look_through_a_blur(data, start, tmp_path, monkeypatch):
    blurred = []
    monkeypatch.setattr(adversaries, "blur", lambda images, weights: blurred.append(1) or images)
    changes = {"discriminator": "projected", "blur_images": 1000, "steps": 1}
    first = train_generator(settings(data, tmp_path / "first", model=str(start), **changes))
    assert blurred
    blurred.clear()
    train_generator(settings(data, tmp_path / "second", model=str(first), **changes))
    assert not blurred


def test_other_features_than_it_learned_from_are_refused(data, tmp_path, monkeypatch):
    config = settings(data, tmp_path / "run", **SIZES, discriminator="projected", steps=1)
    train_generator(config)
    torch.manual_seed(1)
    other = EfficientNetLite()
    assert not torch.allclose(features_mark(other), features_mark(load_efficientnet_lite()), rtol=1e-4)
    monkeypatch.setattr(adversaries, "load_efficientnet_lite", lambda place: other)
    with pytest.raises(SDICError, match="EfficientNet-Lite with other weights"):
        train_generator(settings(data, tmp_path / "run", **SIZES, discriminator="projected", steps=2))


def test_missing_weights_are_told_before_anything_is_written(data, tmp_path, monkeypatch):
    monkeypatch.setattr(imagenet_weights, "DISTRIBUTION", "a-package-that-nobody-has")
    with pytest.raises(CheckpointError, match=r"sdic-plugin\[perceptual\]"):
        train_generator(settings(data, tmp_path / "run", **SIZES, discriminator="projected"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"discriminator": "none"}, "discriminator is 'none', but must be one of plain, projected, both"),
        ({"projected_side": 96}, "projected_side is 96"),
        ({"projected_channels": 0}, "projected_channels is 0"),
        ({"plain_weight": -1.0}, "plain_weight is -1.0"),
        ({"freeze_discriminator": 1, "discriminator": "projected"}, "'projected', which has no such blocks"),
    ],
)
def test_wrong_settings_are_named(changes, message):
    with pytest.raises(SDICError, match=message):
        settings(Path("data"), Path("out"), **changes)


def test_captured_steps_are_the_plain_ones(data, tmp_path, monkeypatch):
    """Blurred and unblurred steps are graphs of their own; spectral norms move inside of them."""
    monkeypatch.setattr(torch, "compile", lambda graph, **options: graph)
    changes = {**SIZES, "discriminator": "projected", "blur_images": 4, "mixed_precision": "no"}
    models = {way: train_generator(settings(data, tmp_path / way, compile=way, **changes)) for way in ("no", "yes")}
    for captured, plain in zip(*(log_of(tmp_path / way) for way in ("yes", "no")), strict=True):
        assert captured.keys() == plain.keys()
        for name in plain.keys() - {"images_per_second"}:
            assert captured[name] == pytest.approx(plain[name], rel=1e-3, abs=1e-4), name
    wanted = weights(models["no"], "projected_discriminator")
    for key, value in weights(models["yes"], "projected_discriminator").items():
        if key.endswith("conv.direction"):
            torch.testing.assert_close(value, wanted[key], atol=1e-3, rtol=0)


def test_spectral_norms_move_once_per_pass_in_a_functional_graph(monkeypatch):
    """`torch.compile` makes every write to a buffer a value and stores the last one in the end."""
    compiler = torch.compile
    monkeypatch.setattr(torch, "compile", lambda graph, **options: compiler(graph, backend="aot_eager", dynamic=False))
    torch.manual_seed(0)
    network = ProjectedDiscriminator(side=64, channels=4, feature_channels=(4, 4, 8, 8))
    parameters = [p for p in network.parameters() if p.requires_grad]

    def loss(real, fake):
        return hinge_discriminator_loss(network(real), network(fake)), {}

    captured = CapturedLoss(loss, parameters, [network], torch.device("cpu"))
    for _ in range(2):
        real, fake = ([torch.randn(3, c, s, s) for c, s in ((4, 16), (4, 8), (8, 4), (8, 2))] for _ in range(2))
        before = {key: value.clone() for key, value in network.state_dict().items()}
        _, _, gradients = captured(real, fake)
        moved = [value.clone() for value in network.buffers()]
        network.load_state_dict(before)
        for found, wanted in zip(gradients, torch.autograd.grad(loss(real, fake)[0], parameters), strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-5)
        for found, wanted in zip(moved, network.buffers(), strict=True):
            torch.testing.assert_close(found, wanted)
        assert any(not torch.equal(value, before[key]) for key, value in network.named_buffers())
