"""Judging generators by their samples: in Python and by `sdic evaluate`."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from testing.tiny_models import make_model, make_pipeline

from sdic_plugin import ImageError, SDICError
from sdic_plugin.checkpoints import imagenet_weights
from sdic_plugin.checkpoints.imagenet_weights import WEIGHTS_SHA256
from sdic_plugin.commands.cli import main
from sdic_plugin.evaluation import (
    DiscriminatorFeatures,
    EvaluationNetworks,
    SamplingPlan,
    find_networks,
    frechet_distance,
    judge_generators,
    kernel_distance,
    load_judge,
    nearest_images,
    nearest_sheet,
)
from sdic_plugin.evaluation.comparison import short_names
from sdic_plugin.evaluation.generators import draw_samples
from sdic_plugin.evaluation.networks import FEATURE_NAMES, JUDGE_SIDE
from sdic_plugin.models.sampling import sample

PLAN = SamplingPlan(count=12, nearest=2, batch_size=5)


@pytest.fixture(scope="module")
def generators():
    """Two generators of different pictures."""
    return {"first": make_model("generator"), "second": make_model("generator", seed=3)}


@pytest.fixture(scope="module")
def networks() -> EvaluationNetworks:
    return find_networks(judge=True)


def drawn(generator, plan: SamplingPlan) -> torch.Tensor:
    """The plan's samples as photos are, uint8 [N, 3, 64, 64]."""
    return ((torch.cat(list(draw_samples(generator, plan))) + 1) * 127.5).round().to(torch.uint8)


@pytest.fixture(scope="module")
def photos(generators) -> torch.Tensor:
    """Other samples of the first generator: as good as real, for it."""
    return drawn(generators["first"], SamplingPlan(count=16, seed=1000))


@pytest.fixture(scope="module")
def reference(generators) -> torch.Tensor:
    """Samples of the first generator, with the second sample of the plan among them."""
    others = drawn(generators["first"], SamplingPlan(count=20, seed=2000))
    return torch.cat([others, drawn(generators["first"], PLAN)[1:2]])


@pytest.fixture(scope="module")
def judged(generators, photos, networks, reference):
    return judge_generators(generators, photos, networks, PLAN, reference)


# What is drawn.


def test_samples_are_those_of_their_seeds(generators):
    generator = generators["first"]
    found = torch.cat(list(draw_samples(generator, SamplingPlan(count=4, seed=7, truncation=0.6, batch_size=3))))
    wanted = sample(generator, count=4, seed=7, truncation=0.6).images
    assert (found - wanted.clamp(-1, 1)).abs().max() < 1.01 / 255
    levels = (found + 1) * 127.5
    assert (levels - levels.round()).abs().max() < 1e-3, "rounded to 8 bits"


def test_wide_generators_are_compared_on_their_picture(generators, networks):
    wide = make_model("generator", content_rows=[16, 48])
    assert next(draw_samples(wide, SamplingPlan(count=2))).shape == (2, 3, 32, 64)
    photos = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8)
    found = judge_generators({"wide": wide}, photos, networks, SamplingPlan(count=3)).report.rows[0]
    middle = networks.features(photos[:, :, 16:48].float() / 127.5 - 1)
    samples = networks.features(next(draw_samples(wide, SamplingPlan(count=3))))
    assert found.kernel.mean == pytest.approx(kernel_distance(samples, middle).mean, rel=1e-4)
    with pytest.raises(SDICError, match="different shapes"):
        judge_generators({"wide": wide, **generators}, photos, networks, SamplingPlan(count=3))


@pytest.mark.parametrize(
    "options",
    [{"count": 1}, {"count": 5, "nearest": 6}, {"batch_size": 0}, {"truncation": float("nan")}, {"seed": -1}],
)
def test_plans_that_make_no_sense(options):
    with pytest.raises(SDICError):
        SamplingPlan(**options)


# The judge and its distances.


def test_judge_sees_images_at_the_side_it_was_trained_with(networks):
    judge = load_judge()
    image = torch.rand(2, 3, 48, 48) * 2 - 1
    enlarged = F.interpolate(image, (JUDGE_SIDE, JUDGE_SIDE), mode="bilinear", align_corners=False)
    torch.testing.assert_close(judge(image), judge.network.pooled(enlarged), rtol=1e-3, atol=1e-3)
    assert judge(image).shape == (2, 1280)
    assert networks.names() == {"frechet": "Fréchet distance (EfficientNet-Lite features, not FID)"}


def test_report_holds_the_distances_computed_by_hand(generators, photos, networks, reference, judged):
    report, features = judged.report, networks.features
    real = features(photos.float() / 127.5 - 1)
    for name, row in zip(generators, report.rows, strict=True):
        found = features(torch.cat(list(draw_samples(generators[name], PLAN))))
        assert (row.name, row.count) == (name, 12)
        assert row.kernel.mean == pytest.approx(kernel_distance(found, real).mean, rel=1e-3, abs=1e-4)
        assert row.frechet == pytest.approx(frechet_distance(found, real), rel=1e-3)
        nearest = nearest_images(found, features(reference.float() / 127.5 - 1), 1).distances
        assert row.nearest.mean == pytest.approx(nearest.mean().item(), rel=1e-2, abs=1e-4)
        assert row.seconds > 0
    assert report.floor.count == 10 and report.photos == 16 and report.network == FEATURE_NAMES["frechet_efficientnet"]


def test_the_judge_tells_whose_pictures_the_photos_are(judged):
    first, second = judged.report.rows
    assert abs(first.kernel.mean) < 0.2 * second.kernel.mean
    assert abs(judged.report.floor.kernel.mean) < 0.2 * second.kernel.mean
    assert first.frechet < 0.5 * second.frechet
    assert second.nearest.mean > 2 * judged.report.photos_nearest.mean > 0


def test_floor_is_the_same_without_nearest_images(generators, photos, networks, reference, judged):
    steps = []
    plan = SamplingPlan(count=12, batch_size=5)
    found = judge_generators(generators, photos, networks, plan, reference, steps.append)
    assert found.report.floor.kernel.mean == pytest.approx(judged.report.floor.kernel.mean, rel=1e-3, abs=1e-5)
    assert found.report.photos_nearest is None and not found.sheets and found.report.rows[0].nearest is None
    assert sum(steps) == 16 + 10 + 2 * 12


def largest_difference(pixels: np.ndarray, image: torch.Tensor) -> int:
    """Of a part of a sheet [H, W, 3] and an image [3, H, W], both of 8 bits; batches differ by rounding."""
    return np.abs(pixels.astype(int) - image.permute(1, 2, 0).numpy()).max()


def test_sheet_shows_a_repeated_image_beside_its_original(generators, reference, judged):
    pixels = np.asarray(judged.sheets["first"])
    # Two images per row of 4 cells of 128 pixels, half a gap of 16 after the first cell, and a gap after each.
    assert pixels.shape == (128 + 16, 2 * (4 * 128 + 8 + 16), 3) and judged.sheets.keys() == generators.keys()
    for group, original in enumerate(drawn(generators["first"], PLAN)[:2]):
        left = group * (4 * 128 + 8 + 16)
        assert largest_difference(pixels[:128:2, left : left + 128 : 2], original) <= 1
    left += 128 + 8
    assert largest_difference(pixels[:128:2, left : left + 128 : 2], reference[-1]) == 0
    assert (pixels[128:] == 255).all()


def test_nearest_images_by_the_cosine():
    others = torch.eye(4) * torch.tensor([1.0, 2.0, 3.0, 4.0])[:, None]
    found = nearest_images(torch.tensor([[0.0, 5.0, 1.0, 0.0], [1.0, 1.0, 1.0, 1.1]]), others, 2)
    assert found.indices[0].tolist() == [1, 2] and found.indices[1, 0] == 3
    assert found.distances[0, 0].item() == pytest.approx(1 - 5 / 26**0.5, abs=1e-6)
    assert (found.distances.diff(dim=1) >= 0).all()
    with pytest.raises(ImageError, match="at most M neighbours"):
        nearest_images(torch.zeros(2, 4), others, 5)


def test_sheet_leaves_the_last_row_white_where_images_lack():
    sheet = np.asarray(nearest_sheet(-torch.ones(4, 3, 128, 128), torch.zeros(4, 1, 3, 128, 128), columns=3))
    assert sheet.shape == (2 * 144, 3 * (2 * 128 + 8 + 16), 3)
    assert (sheet[144:, 280:] == 255).all() and (sheet[:128, :128] == 0).all() and (sheet[:128, 128:136] == 255).all()


def test_without_a_judge_or_reference_one_sentence_says_what_to_give(generators, photos, networks):
    with pytest.raises(SDICError, match=r"sdic-plugin\[perceptual\]"):
        judge_generators(generators, photos, EvaluationNetworks(), SamplingPlan(count=2))
    with pytest.raises(SDICError, match="name the training images"):
        judge_generators(generators, photos, networks, SamplingPlan(count=2, nearest=1))


def test_who_judges(tmp_path, monkeypatch):
    """Where the weights are not installed, the discriminator stays; nothing changes for who asks for no judge."""
    make_model("discriminator").save_pretrained(tmp_path / "discriminator")
    assert isinstance(find_networks(tmp_path).features, DiscriminatorFeatures)
    assert find_networks(tmp_path, judge=True).frechet_name == "frechet_efficientnet"
    monkeypatch.setattr(imagenet_weights, "DISTRIBUTION", "a-package-that-nobody-has")
    assert isinstance(find_networks(tmp_path, judge=True).features, DiscriminatorFeatures)
    assert find_networks(judge=True).features is None


# The command.


@pytest.fixture(scope="module")
def place(generators, photos, tmp_path_factory) -> Path:
    """Folders that hold a generator alone, a run that ended, a pipeline, and pictures."""
    folder = tmp_path_factory.mktemp("place")
    generators["first"].save_pretrained(folder / "alone" / "generator")
    generators["second"].save_pretrained(folder / "run" / "model" / "generator")
    make_model("discriminator").save_pretrained(folder / "run" / "model" / "discriminator")
    make_pipeline().save_pretrained(folder / "pipeline")
    (folder / "photos").mkdir()
    for i, image in enumerate(photos):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / "photos" / f"{i:02d}.png")
    return folder


def test_command_compares_generators(place, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(place)
    line = "evaluate --generators alone run --data photos --limit 8 --samples 6 --reference photos --nearest 2 --out"
    assert main([*line.split(), str(tmp_path / "out")]) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "nearest_1.png", "nearest_2.png", "samples.json", "samples.md",
    ]  # fmt: skip
    found = json.loads((tmp_path / "out" / "samples.json").read_text())
    assert [row["name"] for row in found["rows"]] == ["alone", "run"] and found["photos"] == 8
    assert found["rows"][0]["kernel"]["mean"] < 0.5 * found["rows"][1]["kernel"]["mean"]
    assert found["floor"]["count"] == 6 and found["photos_nearest"]["mean"] == pytest.approx(0, abs=1e-5)
    revision = found["revision"]
    weights = place / "run" / "model" / "generator" / "diffusion_pytorch_model.safetensors"
    hashes = revision["generators"]["run"]["weights_sha256"]
    assert list(hashes.values()) == [hashlib.sha256(weights.read_bytes()).hexdigest()]
    assert revision["efficientnet"]["sha256"] == WEIGHTS_SHA256
    assert found["network"] == "EfficientNet-Lite with ImageNet's weights (efficientnet-lite0-57934424.pth)"
    assert (revision["data"]["count"], revision["reference"]) == (8, {"name": "photos", "count": 16})
    table, page = capsys.readouterr().out, (tmp_path / "out" / "samples.md").read_text()
    assert table.rstrip() in page and "| half of the reference | 6 |" in table and "![nearest_2.png]" in page
    lines = [line for line in table.splitlines() if line.startswith("|")]
    assert len(lines) == 6 and len({line.count("|") for line in lines}) == 1


def test_command_without_the_extra_compares_by_the_first_discriminator(place, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(place)
    monkeypatch.setattr(imagenet_weights, "DISTRIBUTION", "a-package-that-nobody-has")
    line = "evaluate --generators run alone --data photos --limit 4 --samples 3 --out"
    assert main([*line.split(), str(tmp_path / "figures.json")]) == 0
    assert "by a model's own discriminator, whose distances compare with no others." in capsys.readouterr().out
    assert "efficientnet" not in json.loads((tmp_path / "figures.json").read_text())["revision"]
    assert main("evaluate --generators alone --data photos --samples 3".split()) == 2
    assert 'pip install "sdic-plugin[perceptual]"' in capsys.readouterr().err


def test_command_judges_the_samples_of_a_pipeline(place, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(place)
    line = "evaluate --model pipeline --data photos --limit 4 --samples 6 --reference photos --nearest 2 --out"
    assert main([*line.split(), str(tmp_path / "out")]) == 0
    found = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert found["networks"]["frechet"] == "Fréchet distance (EfficientNet-Lite features, not FID)"
    assert found["rows"][0]["frechet"] > 0
    assert [row["name"] for row in found["samples"]["rows"]] == ["pipeline"] and found["samples"]["floor"]
    assert (tmp_path / "out" / "nearest.png").is_file()
    page, table = (tmp_path / "out" / "evaluation.md").read_text(), capsys.readouterr().out
    assert "![nearest.png](nearest.png)" in page and "Kernel distance: unbiased" in page
    assert "Fréchet (EfficientNet-Lite)" in table and "Samples at truncation 1 beside 4 photos" in table


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--generators alone --samples 0", "samples is 0"),
        ("--generators alone --samples 1", "samples is 1"),
        ("--model pipeline --samples 1", "samples is 1"),
        ("--generators alone --truncation nan", "truncation is nan"),
        ("--generators alone --full", "--full says nothing about generators alone"),
        ("--generators alone --w-optimization 3", "--w-optimization says nothing"),
        ("--generators alone --nearest 3", "give --reference and --out FOLDER"),
        ("--generators alone --nearest 3 --reference photos --out a.json", "give --reference and --out FOLDER"),
        ("--generators alone --samples 4 --nearest 5", "nearest is 5"),
        ("--model pipeline --reference photos", "none are drawn"),
        ("--model pipeline --nearest 3", "none are drawn"),
        ("--generators alone alone", "each once"),
        ("--generators nowhere", "nowhere"),
        ("--generators alone --efficientnet photos", "holds 0 files of weights"),
        ("--generators alone --efficientnet photos/00.png", "is no checkpoint"),
    ],
)
def test_command_says_what_is_wrong(place, monkeypatch, capsys, options, message):
    monkeypatch.chdir(place)
    assert main(["evaluate", "--data", "photos", *options.split()]) == 2
    assert message in capsys.readouterr().err


def test_names_of_generators():
    assert short_names(["a/b", "c", "user/d"]) == {"b": "a/b", "c": "c", "d": "user/d"}
    assert short_names(["x/model", "y/model"]) == {"x/model": "x/model", "y/model": "y/model"}
