"""The benchmarks run, on tiny networks."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image
from testing.tiny_models import make_model

from sdic_plugin import SDICPipeline, StyleGAN2Discriminator
from sdic_plugin.benchmarks import optimizations, perceptual_losses, training_cost
from sdic_plugin.benchmarks.compensation_variants import VARIANTS, run_variants, to_markdown
from sdic_plugin.benchmarks.folder_inversion import rate_of_folder, rate_of_networks, write_photos
from sdic_plugin.benchmarks.loading import import_seconds, measure_apart, measure_loading
from sdic_plugin.evaluation.macs import count_macs
from sdic_plugin.evaluation.networks import load_judge
from sdic_plugin.models import layers
from sdic_plugin.models.efficientnet_lite import load_efficientnet_lite
from sdic_plugin.training.compensation import CompensationTrainingConfig


@pytest.fixture
def base(tmp_path, pipe):
    pipe.save_pretrained(tmp_path / "model")
    (tmp_path / "photos").mkdir()
    for i in range(4):
        pixels = torch.randint(0, 256, (32, 32, 3), generator=torch.Generator().manual_seed(i), dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(tmp_path / "photos" / f"{i}.png")
    return CompensationTrainingConfig(
        data=str(tmp_path / "photos"),
        validation=str(tmp_path / "photos"),
        output=str(tmp_path / "runs" / "base"),
        model=str(tmp_path / "model"),
        steps=1,
        batch_size=2,
        perceptual_weight=0.0,
    )


def test_variants_differ_in_one_idea_and_end_in_a_table(base, tmp_path):
    results = run_variants(base, ["base", "edit transfer"], tmp_path / "runs")
    assert [result.name for result in results] == ["before", "base", "edit transfer"]
    assert all(result.psnr > 0 for result in results)
    settings = json.loads((tmp_path / "runs" / "edit_transfer" / "config.json").read_text())
    assert settings["edit_transfer_weight"] == VARIANTS["edit transfer"]["edit_transfer_weight"]
    table = (tmp_path / "runs" / "variants.md").read_text()
    assert table == to_markdown(results)
    assert table.count("\n") == 5
    # Finished runs are not repeated.
    assert run_variants(base, ["base", "edit transfer"], tmp_path / "runs") == results


@pytest.mark.slow
def test_optimizations_are_timed_with_and_without_each(pipe, tmp_path, capsys):
    pipe.save_pretrained(tmp_path / "model")
    arguments = ["--model", str(tmp_path / "model"), "--repeats", "1"]
    keeping, default = (optimizations.measure_apart(arguments, malloc) for malloc in ("keep", "default"))
    assert {*optimizations.NETWORKS} < keeping.keys() == default.keys()
    assert {"", "styles", "layout"} <= keeping["generator"].keys()
    assert {"", "norms", "layout", "volumes"} == keeping["DIPN"].keys()
    assert all(seconds > 0 for ways in keeping.values() for seconds in ways.values())
    table = optimizations.to_markdown(keeping, default)
    assert table.count("freed memory kept") == 4
    assert table.count("(left out)") == 4


def test_optimizations_are_timed(pipe):
    timed = optimizations.measure(pipe, repeats=1)
    assert {*optimizations.NETWORKS} < timed.keys()
    assert all(seconds > 0 for ways in timed.values() for seconds in ways.values())
    assert optimizations.to_markdown(timed, timed).count("(left out)") == 4


def test_variants_compute_what_the_network_does(pipe):
    """A variant that computed something else would be timed for nothing."""
    with torch.no_grad():
        for network, ways in optimizations.variants_of(pipe).items():
            answers = []
            for way in ways.values():
                call, context = way()
                with context:
                    answer = call()
                if network.startswith("heads"):
                    answer = torch.cat(answer, dim=1) if isinstance(answer, list) else answer
                answers.append(next(iter(answer.values())) if isinstance(answer, dict) else answer)
            for answer in answers[1:]:
                torch.testing.assert_close(answer, answers[0], rtol=1e-3, atol=1e-3)


@pytest.fixture
def trainable(base, monkeypatch):
    """The same with a discriminator, as training wants it."""
    monkeypatch.setenv("SDIC_CACHE", base.output)
    resolution = SDICPipeline.from_pretrained(base.model).generator.config.resolution
    channels = {str(2**i): 8 for i in range(2, 11)}
    StyleGAN2Discriminator(resolution, channels).save_pretrained(f"{base.model}/discriminator")
    return base


def test_cost_of_a_stage_counts_forward_and_backward(trainable):
    base = trainable
    options = training_cost.parser().parse_args(
        ["--data", base.data, "--from", base.model, "--steps", "6", "--batch-size", "2", "--precision", "no"]
    )
    cost = training_cost.time_stage("encoder", options, compiled=False)
    assert cost.precision == "no" and cost.images_per_second > 0
    assert cost.ratio == pytest.approx(cost.floor / cost.images_per_second)
    assert cost.floor == pytest.approx(cost.matrix_rate / cost.gmac)
    pipe = SDICPipeline.from_pretrained(base.model)
    image = torch.zeros(1, 3, 32, 32)
    forward = count_macs(lambda: pipe.generator(pipe.encoder(image)).image) / 1e9
    # Encoder three times (forward, weights, maps), the frozen generator twice, and the losses; all heads take part.
    assert 2 * forward < cost.gmac < 4 * forward


def test_penalties_count_by_their_share(trainable):
    base = trainable
    options = training_cost.parser().parse_args(["--data", base.data, "--from", base.model, "--batch-size", "2"])
    every = training_cost.count_stage("generator", options)
    with training_cost.LEFT_OUT["R1 every 16 steps only"]():
        penalized = training_cost.count_stage("generator", options)
    assert every < penalized < 4 * every


@pytest.mark.parametrize("name", training_cost.LEFT_OUT)
def test_shortcuts_can_be_left_out(name):
    before = layers._wants_gradient, torch.optim.Adam
    with training_cost.LEFT_OUT[name]():
        parameter = torch.nn.Parameter(torch.zeros(2))
        torch.optim.Adam([parameter], fused=True)
    assert (layers._wants_gradient, torch.optim.Adam) == before


def test_folder_inversion_is_measured(pipe, tmp_path):
    write_photos(pipe, tmp_path, 20, 40)
    with Image.open(tmp_path / "000019.jpg") as photo:
        assert photo.size == (40, 40)
    memory = []
    assert rate_of_networks(pipe, 8) > 0
    assert rate_of_folder(pipe, tmp_path, memory) > 0
    assert len(memory) == 10


@pytest.mark.slow
def test_loading_is_measured_in_a_process_of_its_own(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "model")
    found = measure_apart(str(tmp_path / "model"))
    count = sum(tensor.numel() for network in pipe.components.values() for tensor in network.state_dict().values())
    assert found["weights"] == pytest.approx(4 * count / 2**20, rel=0.01)
    assert 0 < found["loaded"] <= found["peak"]
    assert found["seconds"] > 0 and found["activations"] > 0
    assert import_seconds() > 0


def test_loading_is_measured(pipe, tmp_path):
    """In this process, whose memory says nothing."""
    pipe.save_pretrained(tmp_path / "model")
    found = measure_loading(str(tmp_path / "model"))
    count = sum(tensor.numel() for network in pipe.components.values() for tensor in network.state_dict().values())
    assert found["weights"] == pytest.approx(4 * count / 2**20, rel=0.01)
    assert found["seconds"] > 0 and found["activations"] > 0


def test_perceptual_losses_are_compared_on_the_same_photos(capsys):
    generator = make_model("generator").requires_grad_(False)
    photos = generator(generator.broadcast(generator.mapping(torch.randn(2, 16)))).image.clamp(-1, 1)
    losses = {
        "none": None,
        "discriminator": perceptual_losses.PerceptualLoss(make_model("discriminator", resolution=64, channels={
            "4": 8, "8": 8, "16": 8, "32": 4, "64": 4
        })),
        "network": perceptual_losses.EfficientNetLoss(load_efficientnet_lite(), side=32),
    }  # fmt: skip
    found = perceptual_losses.measure_losses(generator, losses, photos, load_judge(), weight=0.1, steps=3)
    assert [row.name for row in found] == list(losses) and len({row.psnr for row in found}) == 3
    assert all(row.psnr > 5 and 0 < row.judged < 1 and row.seconds > 0 for row in found)
    lines = perceptual_losses.to_markdown(found).splitlines()
    assert len(lines) == 5 and len({line.count("|") for line in lines}) == 1
