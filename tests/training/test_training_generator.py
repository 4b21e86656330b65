"""Generator stage: losses, ADA, starts from scratch and from a model, resuming, and that it learns."""

from __future__ import annotations

import dataclasses
import itertools
import json
import shutil
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from testing.tiny_models import HALF_PRECISIONS
from testing.trainer_runs import finish, start_script
from torch import nn

from sdic_plugin import SDICError, StyleGAN2Discriminator, StyleGAN2Generator
from sdic_plugin.checkpoints import imagenet_weights
from sdic_plugin.checkpoints.components import load_component
from sdic_plugin.checkpoints.imagenet_weights import find_imagenet_weights
from sdic_plugin.commands.cli import main
from sdic_plugin.evaluation import kernel_distance, load_judge
from sdic_plugin.models.fingerprint import generator_fingerprint
from sdic_plugin.training.adversaries import DiscriminatorPass, adjusted_probability
from sdic_plugin.training.config import load_config
from sdic_plugin.training.data import step_rng, to_range, training_and_validation
from sdic_plugin.training.generator import build_networks, train_generator
from sdic_plugin.training.generator_config import GeneratorTrainingConfig
from sdic_plugin.training.generator_step import (
    SHEETS,
    GeneratorPass,
    path_lengths,
)
from sdic_plugin.training.losses import discriminator_loss, generator_loss, r1_penalty

CHANNELS = {"4": 8, "8": 8, "16": 8}
SIZES = {"resolution": 16, "style_width": 8, "mapping_layers": 2, "channels": CHANNELS}


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("SDIC_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
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
def start(tmp_path_factory):
    """A folder with a generator and a discriminator to go on from."""
    folder = tmp_path_factory.mktemp("start")
    torch.manual_seed(3)
    generator = StyleGAN2Generator(**SIZES, feature_resolution=8, generator_id="old", source="there", license="mit")
    generator.save_pretrained(folder / "generator")
    StyleGAN2Discriminator(resolution=16, channels=CHANNELS).save_pretrained(folder / "discriminator")
    return folder


def settings(data, output, **changes) -> GeneratorTrainingConfig:
    values = {"steps": 4, "batch_size": 8, "log_every": 1, "sample_every": 4, "checkpoint_every": 4}
    return GeneratorTrainingConfig(data=str(data), output=str(output), **{**values, **changes})


def log_of(output) -> list[dict]:
    return [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]


def load_both(folder) -> dict[str, nn.Module]:
    return {
        "generator": load_component(StyleGAN2Generator, folder, "generator"),
        "discriminator": load_component(StyleGAN2Discriminator, folder, "discriminator"),
    }


# The losses.


class Linear(nn.Module):
    """Scores images by one dot product, whose gradient is known."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 4, 4))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return (images * self.weight).sum(dim=(1, 2, 3))[:, None]


def test_r1_is_the_squared_norm_of_the_gradient_in_float32():
    scores = Linear()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        penalty = r1_penalty(scores, torch.randn(5, 3, 4, 4))
    assert penalty.dtype == torch.float32
    assert penalty.item() == pytest.approx(scores.weight.square().sum().item(), rel=1e-5)
    penalty.backward()
    torch.testing.assert_close(scores.weight.grad, 2 * scores.weight.detach())


class LinearGenerator(nn.Module):
    """Renders latents by one matrix per style, whose gradient is known."""

    def __init__(self) -> None:
        super().__init__()
        self.matrices = nn.Parameter(torch.randn(6, 5, 3, 4, 4))

    def forward(self, latents: torch.Tensor, noise: list, return_dict: bool) -> tuple[torch.Tensor, None]:
        return torch.einsum("bld,ldchw->bchw", latents, self.matrices), None


def test_path_lengths_are_norms_of_the_projected_jacobian():
    generator, directions = LinearGenerator(), torch.randn(3, 3, 4, 4)
    latents = torch.randn(3, 6, 5, requires_grad=True)
    lengths = path_lengths(generator, latents, [], directions)
    gradients = torch.einsum("ldchw,bchw->bld", generator.matrices, directions / 4)
    torch.testing.assert_close(lengths, gradients.square().sum(dim=2).mean(dim=1).sqrt())
    (gradient,) = torch.autograd.grad(lengths.sum(), generator.matrices)
    assert gradient.abs().min() > 0


def test_losses_reward_what_they_should():
    real, fake = torch.full((4, 1), 5.0), torch.full((4, 1), -5.0)
    assert discriminator_loss(real, fake) < 0.02 < 5 < discriminator_loss(fake, real)
    assert generator_loss(real) < 0.01 < 5 < generator_loss(fake)


def test_probability_follows_the_sign_at_the_configured_pace():
    config = settings("data", "out", ada_images=1000, ada_target=0.6)
    assert adjusted_probability(0.5, 0.7, 100, config) == pytest.approx(0.6)
    assert adjusted_probability(0.5, 0.5, 100, config) == pytest.approx(0.4)
    assert adjusted_probability(0.95, 1.0, 100, config) == 1
    assert adjusted_probability(0.05, -1.0, 100, config) == 0


# The networks.


def test_generator_pass_mixes_styles_at_the_crossover():
    generator, _ = build_networks(settings("data", "out", **SIZES))
    z, noise = torch.randn(2, 2, 8), [torch.randn(2, 1, r, r) for r in (4, 8, 8, 16, 16)]
    crossover = torch.tensor([2, generator.num_styles])
    with torch.no_grad():
        images, w, lengths = GeneratorPass(generator)(z, crossover, noise)
        first, second = generator.mapping(z[0]), generator.mapping(z[1])
        latents = generator.broadcast(first).clone()
        latents[0, 2:] = second[0]
        torch.testing.assert_close(images, generator(latents, noise=noise).image)
    assert torch.equal(w, first) and lengths is None


def test_every_parameter_receives_a_gradient():
    generator, discriminator = build_networks(settings("data", "out", **SIZES))
    noise = [torch.randn(4, 1, r, r) for r in (4, 8, 8, 16, 16)]
    inputs = (torch.randn(2, 4, 8), torch.tensor([1, 2, 3, 6]), noise, torch.randn(2, 3, 16, 16))
    images, _, lengths = GeneratorPass(generator)(*inputs)
    (generator_loss(discriminator(images)) + lengths.square().mean()).backward()
    assert [name for name, p in generator.named_parameters() if p.grad is None or not p.grad.any()] == []
    discriminator.zero_grad()
    real, fake, r1 = DiscriminatorPass(discriminator)(torch.randn(4, 3, 16, 16), images.detach(), penalty=True)
    (discriminator_loss(real, fake) + r1).backward()
    assert [name for name, p in discriminator.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_new_networks_have_the_sizes_asked_for(data):
    wide = {"4": 10, "8": 6, "16": 4}
    generator, discriminator = build_networks(
        settings(data, "out", **SIZES, discriminator_channels=wide, feature_resolution=16)
    )
    assert generator.config.channels == CHANNELS and generator.config.style_width == 8
    assert discriminator.config.channels == wide and generator.config.feature_resolution == 16
    assert settings(data, "out", resolution=64).new_feature_resolution == 32
    assert settings(data, "out", resolution=1024).new_feature_resolution == 64


# Training.


@pytest.mark.parametrize("augmentation", ["none", "diffaugment", "adaptive"])
def test_run_from_scratch_leaves_a_model(data, tmp_path, augmentation):
    changes = {
        "augmentation": augmentation,
        "ada_images": 40,
        "ada_every": 1,
        "ada_target": 0.0,
        "mixing_probability": 1,
    }
    config = settings(data, tmp_path / "run", **SIZES, **changes, source="our cats", license="cc0-1.0")
    folder = train_generator(config)
    assert folder == tmp_path / "run/model"
    networks = load_both(folder)
    generator = networks["generator"]
    assert generator.config.generator_id == generator_fingerprint(generator)
    assert (generator.config.source, generator.config.license) == ("our cats", "cc0-1.0")
    torch.testing.assert_close(generator.w_avg.clone(), generator.estimate_w_avg(20_000, seed=77), atol=0.06, rtol=0)
    assert all(torch.isfinite(p).all() for network in networks.values() for p in network.state_dict().values())
    assert not any("_name_or_path" in path.read_text() for path in folder.rglob("config.json"))
    sheet = Image.open(tmp_path / "run/samples/step_00000004.png")
    assert sheet.size == (8 * 16, 4 * 16)
    steps = [line for line in log_of(tmp_path / "run") if "loss" in line]
    assert len(steps) == 4 and all(line["r1"] > 0 for line in steps)
    assert ("ada_probability" in steps[0]) == (augmentation == "adaptive")
    if augmentation == "adaptive":
        pace = [round(abs(b["ada_probability"] - a["ada_probability"]), 6) for a, b in itertools.pairwise(steps)]
        assert set(pace) <= {0.2, 0.0} and steps[0]["ada_probability"] in (0.0, 0.2)


@pytest.mark.parametrize("precision", HALF_PRECISIONS)
def test_half_precision_trains_as_float32_does(data, tmp_path, precision):
    logs = {}
    for mixed_precision in ("no", precision):
        folder = tmp_path / mixed_precision
        model = train_generator(settings(data, folder, **SIZES, mixed_precision=mixed_precision))
        for network in load_both(model).values():
            assert all(torch.isfinite(value).all() for value in network.state_dict().values())
        logs[mixed_precision] = [line for line in log_of(folder) if "loss" in line]
    first, wanted = logs[precision][0], logs["no"][0]
    for name in ("loss", "r1"):
        assert first[name] == pytest.approx(wanted[name], rel=0.1), name


def test_killed_run_resumes_to_the_same_weights(data, tmp_path):
    changes = {
        **SIZES,
        "mixed_precision": "bf16",
        "r1_every": 2,
        "path_length_weight": 2.0,
        "path_length_every": 2,
        "ada_images": 60,
        "ada_every": 2,
        "ada_target": 0.0,
        "checkpoint_every": 3,
    }
    whole = train_generator(settings(data, tmp_path / "whole", steps=6, **changes))
    train_generator(settings(data, tmp_path / "parts", steps=3, **changes))
    parts = train_generator(settings(data, tmp_path / "parts", steps=6, **changes))
    for name, network in load_both(whole).items():
        resumed = load_both(parts)[name].state_dict()
        assert all(torch.equal(value, resumed[key]) for key, value in network.state_dict().items()), name
    states = [
        json.loads((tmp_path / run / "checkpoints/step_00000006/checkpoint.json").read_text())["state"]
        for run in ("whole", "parts")
    ]
    assert states[0] == states[1]
    assert min(states[0][name] for name in ("path_length_mean", "r1", "ada_probability")) > 0


def test_fine_tuning_keeps_the_architecture_and_gets_an_id_of_its_own(data, start, tmp_path):
    config = settings(data, tmp_path / "run", model=str(start), frechet_images=16, validation_share=0.3)
    tuned, before = load_both(train_generator(config)), load_both(start)
    assert tuned["generator"].config.generator_id not in (None, "old")
    assert tuned["generator"].config.license == "mit" and tuned["generator"].config.source == "there"
    for name, network in tuned.items():
        old = before[name].state_dict()
        moved = [(value - old[key]).abs().max().item() for key, value in network.named_parameters()]
        # Warm-up: four steps of Adam go 1, 2, 3 and 4 hundredths of the learning rate at most.
        assert 0 < max(moved) < 0.15 * config.learning_rate + 1e-4, name
    last = log_of(tmp_path / "run")[-1]
    assert last["validation_frechet_discriminator"] > 0
    assert np.isfinite([last["validation_logit"], last["validation_logit_of_samples"]]).all()


def test_a_new_discriminator_judges_nothing(data, start, tmp_path):
    """Its features are random yet."""
    shutil.copytree(start / "generator", tmp_path / "alone" / "generator")
    config = settings(data, tmp_path / "run", model=str(tmp_path / "alone"), frechet_images=16, validation_share=0.3)
    with pytest.warns(UserWarning, match="has no discriminator: a new one learns"):
        train_generator(config)
    assert "validation_frechet_discriminator" not in log_of(tmp_path / "run")[-1]


def test_report_has_the_kernel_distance_of_a_network_that_is_nobodys_opponent(data, tmp_path):
    config = settings(data, tmp_path / "run", **SIZES, kernel_images=12, validation_share=0.3)
    model = train_generator(config)
    found = log_of(tmp_path / "run")[-1]["validation_kernel_distance"]
    # As of the model that was saved: the same z, and the held-out images.
    generator, judge = load_component(StyleGAN2Generator, model, "generator"), load_judge()
    z = torch.cat([torch.randn(8, 8, generator=step_rng(config.seed, stream, SHEETS)) for stream in (2, 3)])
    with torch.no_grad():
        samples = judge(generator(generator.broadcast(generator.mapping(z))).image.clamp(-1, 1))[:12]
        _, held_out = training_and_validation(config, 16)
        wanted = kernel_distance(samples, judge(to_range(held_out)), subsets=20)
    assert found == pytest.approx(wanted.mean, rel=1e-2, abs=1e-3) and found > 0
    # Reports do not touch the weights: it may be left out, or judged by other weights, when the run goes on.
    place = str(find_imagenet_weights())
    again = settings(
        data, tmp_path / "run", **SIZES, kernel_images=4, efficientnet=place, validation_share=0.3, steps=5
    )
    train_generator(again)
    assert log_of(tmp_path / "run")[-1]["validation_kernel_distance"] > 0


def test_kernel_distance_needs_images_and_weights(data, tmp_path, monkeypatch):
    with pytest.raises(SDICError, match="kernel_images is 1"):
        train_generator(settings(data, tmp_path / "run", **SIZES, kernel_images=1))
    with pytest.raises(SDICError, match="there are 1 validation images"):
        train_generator(settings(data, tmp_path / "run", **SIZES, kernel_images=5, validation_images=1))
    assert not (tmp_path / "run").exists()
    monkeypatch.setattr(imagenet_weights, "DISTRIBUTION", "a-package-that-nobody-has")
    config = settings(data, tmp_path / "run", **SIZES, kernel_images=5, steps=1)
    with pytest.warns(UserWarning, match=r"left out of the reports.*sdic-plugin\[perceptual\]"):
        train_generator(config)
    assert "validation_logit" in log_of(tmp_path / "run")[-1]
    assert "validation_kernel_distance" not in log_of(tmp_path / "run")[-1]


@pytest.mark.slow
def test_two_processes_train_as_one_does_with_two_micro_batches(data, start, tmp_path):
    changes = {"model": str(start), "steps": 3, "augmentation": "diffaugment", "r1_every": 2}
    script = tmp_path / "train.py"
    script.write_text(
        "import json, sys, torch\n"
        "from sdic_plugin.training.generator import GeneratorTrainingConfig, train_generator\n"
        "torch.set_num_threads(1)\n"
        "train_generator(GeneratorTrainingConfig(**json.loads(sys.argv[1])))\n"
        "torch.distributed.destroy_process_group()\n"
    )
    two = dataclasses.asdict(settings(data, tmp_path / "two", **changes))
    finish(start_script(2, script, json.dumps(two)))
    train_generator(settings(data, tmp_path / "one", gradient_accumulation=2, **changes))
    logs = [[line for line in log_of(tmp_path / run) if "loss" in line] for run in ("two", "one")]
    assert [len(log) for log in logs] == [3, 3]
    for key in ("loss", "discriminator", "logit_real", "logit_fake"):
        assert [line[key] for line in logs[0]] == pytest.approx([line[key] for line in logs[1]], abs=1e-5, rel=0), key
    one, other = (load_both(tmp_path / run / "model") for run in ("one", "two"))
    for name, network in one.items():
        theirs = dict(other[name].named_parameters())
        assert all(torch.allclose(value, theirs[key], atol=1e-5) for key, value in network.named_parameters()), name


def test_model_without_discriminator_gets_a_new_one(data, start, tmp_path):
    (tmp_path / "generator").symlink_to(start / "generator")
    with pytest.warns(UserWarning, match="has no discriminator"):
        _, discriminator = build_networks(settings(data, "out", model=str(tmp_path)))
    assert discriminator.config.resolution == 16 and discriminator.config.channels == CHANNELS


def test_new_networks_take_no_size_of_a_model(data, start):
    generator, _ = build_networks(settings(data, "out", model=str(start), resolution=32, from_scratch=True, channels={
        "4": 4, "8": 4, "16": 4, "32": 4,
    }))  # fmt: skip
    assert generator.config.resolution == 32


def test_samples_take_the_colours_of_the_data(data, tmp_path):
    config = settings(
        data,
        tmp_path / "run",
        **SIZES,
        steps=100,
        learning_rate=5e-3,
        ema_decay=0.9,
        augmentation="none",
        sample_every=100,
        checkpoint_every=100,
        log_every=50,
        horizontal_flips=False,
    )
    generator = load_component(StyleGAN2Generator, train_generator(config), "generator")
    with torch.no_grad():
        z = torch.randn(32, 8, generator=torch.Generator().manual_seed(0))
        halves = generator(generator.broadcast(generator.mapping(z))).image.unflatten(2, (2, 8)).mean(dim=(0, 3, 4))
        untrained, _ = build_networks(config)
        before = untrained(untrained.broadcast(untrained.mapping(z))).image.unflatten(2, (2, 8)).mean(dim=(0, 3, 4))
    colours = torch.tensor([[211.5, 131.5, 20], [51.5, 20, 60]]).T / 127.5 - 1
    assert (halves - colours).abs().mean() < 0.5 * (before - colours).abs().mean()


# The settings.


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"augmentation": "mixup"}, r"augmentation is 'mixup'"),
        ({"policies": ["color"]}, r"policies is \['color'\]"),
        ({"r1_every": 0}, "r1_every is 0"),
        ({"r1_weight": -1.0}, "r1_weight is -1.0"),
        ({"mixing_probability": 1.5}, "mixing_probability is 1.5"),
        ({"resolution": 48}, "resolution is 48"),
        ({"resolution": 32}, r"lacks the resolutions \[32\]"),
        ({"feature_resolution": 64}, "feature_resolution is 64"),
    ],
)
def test_wrong_settings_are_named(changes, message):
    with pytest.raises(SDICError, match=message):
        settings("data", "out", **{**SIZES, **changes})


def test_default_r1_weight_follows_resolution_and_batch():
    assert settings("data", "out", batch_size=32).r1_weight_at(256) == pytest.approx(2e-4 * 65536 / 32)
    assert settings("data", "out", r1_weight=0.0).r1_weight_at(256) == 0


def test_recipe_of_the_package():
    config = load_config(GeneratorTrainingConfig, "cats64_generator", ["data=a", "output=b"])
    assert config.mixed_precision == "auto" and config.adam_betas == [0.0, 0.99]


def test_command(data, tmp_path, capsys):
    toml = tmp_path / "toy.toml"
    toml.write_text(
        f'data = "{data}"\nresolution = 16\nstyle_width = 8\nmapping_layers = 2\nsteps = 2\nbatch_size = 4\n'
        "channels = {4 = 8, 8 = 8, 16 = 8}\n"
    )
    assert main(["train", "generator", "--config", str(toml), "--set", f"output={tmp_path / 'run'}"]) == 0
    assert load_both(tmp_path / "run/model")["generator"].config.resolution == 16
    assert main(["sample", "--model", str(tmp_path / "run"), "--count", "2", "--out", str(tmp_path / "samples")]) == 0
    assert (tmp_path / "samples/sheet.png").is_file()
