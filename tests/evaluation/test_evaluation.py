from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from testing.tiny_models import make_model, make_pipeline
from torch import nn

from sdic_plugin import DirectionEdit, SDICError, SDICPipeline, StyleGAN2Generator
from sdic_plugin.conversion import convert
from sdic_plugin.evaluation import (
    EvaluationReport,
    Statistic,
    count_macs,
    edit_transfer,
    evaluate,
    optimize_w,
    psnr,
    ssim,
)
from sdic_plugin.evaluation.markdown import card_tables
from sdic_plugin.evaluation.w_optimization import match_size, render_at
from sdic_plugin.images.cache import load_images

# Multiply-accumulates.


@pytest.mark.parametrize(
    ("layer", "shape", "wanted"),
    [
        (nn.Linear(5, 7), (3, 5), 3 * 5 * 7),
        (nn.Linear(5, 7, bias=False), (2, 3, 5), 6 * 5 * 7),
        (nn.Conv1d(4, 6, 3, padding=1), (2, 4, 10), 2 * 10 * 4 * 6 * 3),
        (nn.Conv2d(4, 6, 3, stride=2, padding=1), (2, 4, 8, 10), 2 * 4 * 5 * 4 * 6 * 9),
        (nn.Conv2d(4, 8, 3, groups=2), (1, 4, 8, 8), 36 * 8 * 2 * 9),
        (nn.Conv2d(4, 4, 5, groups=4, padding=2), (1, 4, 8, 8), 64 * 4 * 25),
        (nn.Conv3d(2, 3, (1, 5, 5), padding=(0, 2, 2)), (1, 2, 4, 6, 6), 4 * 36 * 2 * 3 * 25),
        # A transposed convolution multiplies every input pixel with its kernel.
        (nn.ConvTranspose2d(4, 6, 4, stride=2, padding=1), (2, 4, 8, 8), 2 * 64 * 4 * 6 * 16),
        (nn.ConvTranspose2d(4, 8, 4, stride=2, groups=4), (1, 4, 8, 8), 64 * 4 * 2 * 16),
        (nn.ConvTranspose3d(2, 3, 4, stride=2, padding=1), (1, 2, 4, 4, 4), 64 * 2 * 3 * 64),
    ],
    ids=str,
)
def test_multiply_accumulates_of_known_layers(layer, shape, wanted):
    x = torch.zeros(shape)
    assert count_macs(lambda: layer(x)) == wanted
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            assert count_macs(lambda: layer(x)) == wanted


def test_multiply_accumulates_of_matrix_products_and_sums():
    a, b = torch.zeros(3, 4), torch.zeros(4, 5)
    assert count_macs(lambda: a @ b) == 60
    assert count_macs(lambda: torch.bmm(torch.zeros(2, 3, 4), torch.zeros(2, 4, 5))) == 120
    assert count_macs(lambda: F.interpolate(torch.zeros(1, 1, 4, 4), scale_factor=2) + 1) == 0
    assert count_macs(lambda: (a @ b, F.linear(a, b.T))) == 120


def test_multiply_accumulates_of_a_generator_grow_with_the_batch():
    generator = make_model("generator")
    one, four = (count_macs(lambda n=n: generator(torch.zeros(n, 10, 16)).image) for n in (1, 4))
    half = count_macs(lambda: generator(torch.zeros(1, 10, 16), stop_at_features=True))
    assert four == 4 * one
    assert half < one


# Optimisation of w.


@pytest.fixture(scope="module")
def generator():
    generator = make_model("generator")
    generator.estimate_w_avg(1000)
    return generator


@pytest.fixture(scope="module")
def reachable(generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Targets that one w gives, and those that only W+ gives."""
    w = generator.mapping(torch.randn(20, 16, generator=torch.Generator().manual_seed(0)))
    with torch.no_grad():
        single = generator(generator.broadcast(w[:2])).image
        several = generator(w.reshape(2, 10, 16)).image
    return single.clamp(-1, 1), several.clamp(-1, 1)


def test_optimisation_nears_the_targets(generator, reachable):
    before = {key: tensor.clone() for key, tensor in generator.state_dict().items()}
    found = optimize_w(generator, reachable[0], steps=60)
    start = generator.broadcast(generator.w_avg.expand(2, -1))
    first = psnr(render_at(generator, start, (64, 64)).clamp(-1, 1), reachable[0], data_range=2)
    assert (found.psnr > first + 6).all()
    assert found.latents.shape == (2, 10, 16)
    assert (found.latents == found.latents[:, :1]).all(), "one w for all styles"
    assert not found.latents.requires_grad
    with torch.no_grad():
        image = generator(found.latents).image.clamp(-1, 1)
    torch.testing.assert_close(found.images, image)
    torch.testing.assert_close(found.psnr, psnr(image, reachable[0], data_range=2))
    assert all(torch.equal(tensor, before[key]) for key, tensor in generator.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in generator.parameters())


def test_images_are_optimised_on_their_own(generator, reachable):
    together = optimize_w(generator, reachable[0], steps=5)
    for i in range(2):
        alone = optimize_w(generator, reachable[0][i : i + 1], steps=5)
        torch.testing.assert_close(together.latents[i : i + 1], alone.latents, rtol=1e-3, atol=1e-3)
    done = []
    split = optimize_w(generator, reachable[0], steps=5, batch_size=1, progress=done.append)
    torch.testing.assert_close(together.latents, split.latents, rtol=1e-3, atol=1e-3)
    assert done == [1, 2]


def test_a_w_per_style_reaches_further(generator, reachable):
    single = optimize_w(generator, reachable[1], steps=40)
    several = optimize_w(generator, reachable[1], steps=40, space="w+")
    assert not (several.latents == several.latents[:, :1]).all()
    assert several.psnr.mean() > single.psnr.mean() + 1


def test_small_and_wide_targets(reachable):
    generator = make_model("generator", content_rows=[8, 56])
    target = match_size(reachable[0][:1, :, 8:56], (24, 32))
    assert target.shape == (1, 3, 24, 32)
    torch.testing.assert_close(target[0, 0, 1, 2], reachable[0][0, 0, 10:12, 4:6].mean())
    found = optimize_w(generator, target, steps=2)
    assert found.images.shape == (1, 3, 24, 32)
    assert found.psnr.shape == (1,)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"space": "z"}, "the space 'z'"),
        ({"steps": 0}, "0 steps"),
        ({"batch_size": 0}, "batches of 0"),
        ({"images": torch.zeros(3, 8, 8)}, r"images of shape \[3, 8, 8\]"),
        ({"images": torch.zeros(0, 3, 8, 8)}, r"images of shape \[0, 3, 8, 8\]"),
    ],
)
def test_optimisation_refuses_nonsense(generator, changes, message):
    with pytest.raises(SDICError, match=message):
        optimize_w(generator, **{"images": torch.zeros(1, 3, 64, 64), **changes})


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 4])
def test_optimisation_of_real_cats_is_a_serious_baseline(data_folder, tmp_path, count):
    convert(data_folder / "cats64_generator.pt", tmp_path / "base")
    generator = StyleGAN2Generator.from_pretrained(tmp_path / "base" / "generator", use_safetensors=True)
    images = load_images(data_folder / "cats64_val.zip", 64, limit=count).float() / 127.5 - 1
    found = optimize_w(generator, images)
    print(f"w, 100 steps, {count} cats: {found.psnr.mean():.2f} dB")
    assert found.psnr.mean() > 20


# Reports.


@pytest.fixture(scope="module")
def pipe() -> SDICPipeline:
    pipe = make_pipeline()
    rng = torch.Generator().manual_seed(5)
    for name, strength in (("turn", 0.7), ("colour/warm", -1.5)):
        edit = DirectionEdit(name, default_strength=strength, tensors={"direction": torch.randn(16, generator=rng)})
        pipe.add_edit(edit)
    return pipe


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (5, 3, 32, 32), dtype=np.uint8))


@pytest.fixture(scope="module")
def report(pipe, images) -> EvaluationReport:
    return evaluate(pipe, images, batch_size=2, w_optimization_images=3, w_optimization_steps=4, model="tiny")


def statistic(values: torch.Tensor) -> dict[str, float]:
    return {"mean": pytest.approx(values.mean().item(), abs=1e-4), "std": pytest.approx(values.std().item(), abs=1e-4)}


def small(images: torch.Tensor) -> torch.Tensor:
    """Halve [B, 3, 64, 64] by means of 2 x 2 pixels, then round to 8 bits."""
    return (images.unflatten(3, (32, 2)).unflatten(2, (32, 2)).mean(dim=(3, 5)) * 255).round() / 255


@torch.no_grad()
def test_report_holds_the_figures_computed_by_hand(pipe, images, report):
    inversion = pipe.invert(images)
    photos = images.float() / 255
    initial = small((inversion.initial / 2 + 0.5).clamp(0, 1))
    inverted = small(pipe.edit(inversion, output_type="pt").images)
    found = report.to_dict()
    assert (found["model"], found["dtype"], found["count"], found["image_size"]) == ("tiny", "float32", 5, [32, 32])
    assert found["initial_psnr"] == statistic(psnr(initial, photos))
    assert found["inversion_psnr"] == statistic(psnr(inverted, photos))
    assert found["psnr_gain"] == statistic(psnr(inverted, photos) - psnr(initial, photos))
    assert found["initial_ssim"] == statistic(ssim(initial, photos))
    assert found["inversion_ssim"] == statistic(ssim(inverted, photos))
    assert found["ssim_gain"] == statistic(ssim(inverted, photos) - ssim(initial, photos))
    assert list(found["edits"]) == ["turn", "colour/warm"]
    for name, edit in pipe.get_list_edits().items():
        latents = inversion.latents + edit.default_strength * edit.direction
        initial_edited = small((pipe.generator(latents).image / 2 + 0.5).clamp(0, 1))
        edited = small(pipe.edit(inversion, edits={name: edit.default_strength}, output_type="pt").images)
        transfer = edit_transfer(initial, initial_edited, inverted, edited)
        assert found["edits"][name] == {
            "strength": edit.default_strength,
            "initial_effect": statistic((initial_edited - initial).abs().mean(dim=(1, 2, 3))),
            "compensated_effect": statistic((edited - inverted).abs().mean(dim=(1, 2, 3))),
            "cosine": statistic(transfer.cosine),
            "norm_ratio": statistic(transfer.norm_ratio),
            "identity": None,
        }
    optimized = optimize_w(pipe.generator, photos[:3] * 2 - 1, steps=4)
    reached = (optimized.images * 127.5 + 127.5).round() / 255
    assert found["baseline"] == {
        "count": 3,
        "steps": 4,
        "encoder_psnr": statistic(psnr(initial, photos)[:3]),
        "optimization_psnr": statistic(psnr(reached, photos[:3])),
    }


def test_lists_and_batch_sizes_give_the_same_report(pipe, images, report):
    pictures = [image.permute(1, 2, 0).numpy() for image in images]
    done = []
    found = evaluate(pipe, pictures, batch_size=5, model="tiny", progress=done.append).to_dict()
    wanted = report.to_dict()
    assert done == [5]
    assert found["baseline"] is None
    for key in ("initial_psnr", "inversion_psnr", "inversion_ssim"):
        assert found[key] == pytest.approx(wanted[key], abs=1e-3)
    assert found["edits"]["turn"]["cosine"] == pytest.approx(wanted["edits"]["turn"]["cosine"], abs=1e-3)


def test_report_of_one_photo_without_edits(images):
    found = evaluate(make_pipeline(), images[:1])
    assert found.count == 1
    assert found.model == "unnamed"
    assert found.initial_psnr.std == 0
    assert found.edits == {}
    assert "edit" not in card_tables(found)


def test_report_is_saved_whole_and_as_valid_json(report, tmp_path):
    path = tmp_path / "reports" / "tiny.json"
    report.save(path)
    assert json.loads(path.read_text()) == report.to_dict()
    assert [file.name for file in path.parent.iterdir()] == ["tiny.json"]


def test_values_that_are_no_numbers_become_null(report, tmp_path):
    odd = dataclasses.replace(report, initial_psnr=Statistic(math.inf, math.nan))
    odd.save(tmp_path / "odd.json")
    assert json.loads((tmp_path / "odd.json").read_text())["initial_psnr"] == {"mean": None, "std": None}


def test_report_as_markdown(report):
    lines = card_tables(report).splitlines()
    assert "5 photos" in lines[0] and "`tiny`" in lines[0]
    inversion = next(line for line in lines if line.startswith("| inversion |"))
    assert f"{report.inversion_psnr.mean:.2f} ± {report.inversion_psnr.std:.2f}" in inversion
    assert f"{report.inversion_ssim.mean:.3f}" in inversion
    turn = next(line for line in lines if line.startswith("| turn |"))
    assert f"{report.edits['turn'].cosine.mean:.3f}" in turn
    assert f"{report.baseline.optimization_psnr.mean:.2f}" in lines[-1]
    assert f"{report.baseline.encoder_psnr.mean:.2f}" in lines[-2]
    tables = [line for line in lines if line.startswith("|")]
    assert {line.count("|") for line in tables} == {3, 6, 7}


def test_wide_pictures_are_evaluated_at_their_own_size():
    found = evaluate(make_pipeline(content_rows=[8, 56]), torch.zeros(2, 3, 24, 32, dtype=torch.uint8))
    assert found.image_size == (24, 32)
    assert math.isfinite(found.inversion_psnr.mean)


def test_evaluation_without_photos_is_refused(pipe, images):
    with pytest.raises(SDICError, match="0 images"):
        evaluate(pipe, images[:0])
    with pytest.raises(SDICError, match="batches of 0"):
        evaluate(pipe, images, batch_size=0)
