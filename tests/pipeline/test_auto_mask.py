from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from testing.tiny_models import count_calls, make_pipeline, pixels, render

from sdic_plugin import AutoMask, DirectionEdit, SDICError, SDICPipeline
from sdic_plugin.benchmarks.auto_mask import draw_sheet, mean_of, measure_edit, region_psnr, to_markdown
from sdic_plugin.images.cache import load_images

SHARP = AutoMask(low=0.1, high=0.5, smoothing=1, feather=1)


def test_compensation_stays_where_nothing_changes_and_yields_where_much_does():
    reference = torch.zeros(1, 3, 16, 16)
    edited = reference.clone()
    edited[..., 8:] = 1.0
    kept = SHARP.keep(edited, reference, 8)
    assert torch.equal(kept[..., :4], torch.ones(1, 1, 8, 4))
    assert torch.equal(kept[..., 4:], torch.zeros(1, 1, 8, 4))
    edited = reference.clone()
    edited[:, 0, :6, :6] = 0.75
    part = AutoMask(low=0.0, high=1.0, smoothing=1, feather=1).keep(edited, reference, 8)
    torch.testing.assert_close(part[..., :3, :3], torch.full((1, 1, 3, 3), 0.75))
    assert torch.equal(part[..., 3:, :], torch.ones(1, 1, 5, 8))


@pytest.mark.parametrize("side", [8, 16, 64])
def test_pictures_of_any_size_give_masks_of_the_feature_map(side):
    edited = torch.zeros(2, 3, side, side)
    edited[..., side // 2 :] = 1.0
    kept = SHARP.keep(edited, torch.zeros_like(edited), 8)
    assert torch.equal(kept, torch.tensor([1.0] * 4 + [0.0] * 4).expand(2, 1, 8, 8))


def test_what_stays_as_it_is_keeps_its_whole_pixel_of_the_feature_map():
    edited = torch.ones(1, 3, 16, 16)
    edited[..., 5] = 0
    edited[..., 8:] = 0
    kept = SHARP.keep(edited, torch.zeros_like(edited), 8)
    assert torch.equal(kept[0, 0, 0], torch.tensor([0.0, 0.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0]))


def test_a_shift_of_the_whole_picture_keeps_all_compensation():
    reference = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    warmer = reference + torch.tensor([0.6, 0.1, -0.4])[:, None, None]
    assert torch.equal(AutoMask().keep(warmer, reference, 8), torch.ones(2, 1, 8, 8))
    warmer[..., 10:] = reference[..., 10:]
    kept = SHARP.keep(warmer, reference, 8)
    assert torch.equal(kept, torch.ones(2, 1, 8, 8)), "neither the larger part nor the untouched one yields"
    warmer[..., 14:] += 1
    assert torch.equal(SHARP.keep(warmer, reference, 8)[..., 7], torch.zeros(2, 1, 8))
    # A small median is no change of tone, so that it hides no part of what the edit does.
    little = torch.full((1, 3, 16, 16), 0.08)
    little[..., 14:] = 0.5
    assert torch.equal(SHARP.keep(little, torch.zeros_like(little), 8)[..., 7], torch.zeros(1, 1, 8))


def test_smoothing_averages_over_a_window():
    edited = torch.zeros(1, 3, 10, 10)
    edited[..., 4:6, 4:6] = 0.9
    none = torch.zeros_like(edited)
    # Each half of the middle pixel has 4 changed ones of 9 around it.
    kept = AutoMask(low=0.0, high=1.0, smoothing=3, feather=1).keep(edited, none, 5)
    torch.testing.assert_close(kept[0, 0, 2, 2], torch.tensor(0.6))
    assert torch.equal(kept[0, 0, 0], torch.ones(5))
    kept = AutoMask(low=0.0, high=1.0, smoothing=1, feather=3).keep(edited, none, 5)
    torch.testing.assert_close(kept[0, 0, 1:4, 1:4], torch.full((3, 3), 0.9))


@pytest.mark.parametrize(
    "settings", [{"low": 0.5, "high": 0.5}, {"low": -0.1}, {"high": float("nan")}, {"smoothing": 2}, {"feather": 0}]
)
def test_settings_that_make_no_sense_are_refused(settings):
    with pytest.raises(SDICError, match="AutoMask has"):
        AutoMask(**settings)


def test_zero_strength_under_the_automatic_mask_is_the_inversion_bitwise(pipe, inversion):
    assert torch.equal(pixels(pipe, inversion, edits={"turn": 0.0}, mask="auto"), pixels(pipe, inversion))
    assert torch.equal(pixels(pipe, inversion, mask="auto"), pixels(pipe, inversion))


def test_the_mask_compares_the_initial_reconstruction_with_its_edited_self(pipe, inversion):
    strengths, settings = {"turn": [0.2, 1.0, 3.0]}, AutoMask(low=0.0, high=2.0)
    found = pipe.find_mask(inversion, pipe.edited_code(inversion, strengths), settings)
    with torch.no_grad():
        edited = pipe.generator(pipe.apply_edits(inversion.latents, strengths)).image
    torch.testing.assert_close(found, settings.keep(edited, inversion.initial, 8), rtol=0, atol=1e-5)
    # Edited latents of any tool count by what they change of the compensated ones, in W+ and in StyleSpace.
    moved = inversion.latents + direction_of(pipe, "turn")
    code = pipe.edited_code(inversion, latents=moved, latents_from="initial")
    wanted = pipe.find_mask(inversion, pipe.edited_code(inversion, {"turn": 1.0}), settings)
    torch.testing.assert_close(pipe.find_mask(inversion, code, settings), wanted, rtol=0, atol=1e-5)
    with torch.no_grad():
        styles = pipe.generator.styles(code)
    torch.testing.assert_close(pipe.find_mask(inversion, styles, settings), wanted, rtol=0, atol=1e-5)


def direction_of(pipe, name: str) -> torch.Tensor:
    return pipe.find_edit(name).direction


def test_the_mask_scales_compensation_as_the_formula_says(pipe, inversion):
    settings, strengths = AutoMask(low=0.0, high=2.0), {"turn": [0.2, 1.0, 3.0]}
    code = pipe.edited_code(inversion, strengths)
    mask = pipe.find_mask(inversion, code, settings)
    assert mask.shape == (3, 1, 8, 8)
    assert mask[0].mean() > mask[1].mean() > mask[2].mean()
    with torch.no_grad():
        features = pipe.generator(code).features
    full = inversion.compensated_features + features - inversion.reference_features
    for compensation in (1.0, 0.5):
        wanted = render(pipe, code, torch.lerp(features, full, compensation * mask))
        found = pixels(pipe, inversion, edits=strengths, mask=settings, compensation=compensation)
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


def test_batches_and_singles_agree(pipe, inversion):
    options = {"edits": {"turn": 1.0}, "mask": "auto"}
    batched = pixels(pipe, inversion, **options)
    torch.testing.assert_close(pixels(pipe, inversion, **options, batch_size=1), batched, rtol=0, atol=1e-5)


def test_what_the_mask_costs(pipe, inversion):
    counts = count_calls(pipe)
    pixels(pipe, inversion, edits={"turn": 1.0}, mask="auto")
    assert counts == {"encoder": 0, "dipn": 0, "dicn": 0, "generator": 2}


def test_half_precision(pipe, photos):
    pipe.to(torch.bfloat16)
    found = pixels(pipe, pipe.invert(photos), edits={"turn": 1.0}, mask="auto")
    assert torch.isfinite(found).all()


def test_wide_photos_too():
    pipe = make_pipeline(content_rows=[16, 48])
    pipe.set_progress_bar_config(disable=True)
    pipe.add_edit(DirectionEdit("turn", tensors={"direction": torch.ones(16)}))
    inversion = pipe.invert(torch.rand(2, 3, 16, 32, generator=torch.Generator().manual_seed(0)))
    found = pixels(pipe, inversion, edits={"turn": 1.0}, mask="auto")
    assert found.shape == (2, 3, 32, 64)
    assert torch.equal(pixels(pipe, inversion, edits={"turn": 0.0}, mask="auto"), pixels(pipe, inversion))


def test_settings_are_plain_values():
    assert dataclasses.asdict(AutoMask()) == {"low": 0.1, "high": 0.24, "smoothing": 3, "feather": 3}


# The benchmark.


def test_region_psnr_counts_only_the_region():
    images, targets = torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4)
    targets[..., 2:] = 0.1
    region = torch.zeros(1, 4, 4, dtype=torch.bool)
    region[..., 1:3] = True
    assert region_psnr(images, targets, region) == pytest.approx(-10 * math.log10(0.005), abs=1e-4)
    assert math.isnan(region_psnr(images, targets, ~region & region))


def test_what_the_benchmark_measures(pipe, inversion):
    everything = AutoMask(low=1e6, high=1e7)
    nothing = AutoMask(low=0.0, high=1e-9)
    same = measure_edit(pipe, inversion, "turn", 1.0, everything)
    assert same.kept == 1
    assert same.cosine["auto"] == same.cosine["plain"]
    assert same.untouched["inversion"] is not None
    yielding = measure_edit(pipe, inversion, "turn", 1.0, nothing)
    assert yielding.kept < 0.1
    assert yielding.cosine["plain"] == same.cosine["plain"]
    assert yielding.acted["auto"] != yielding.acted["plain"]
    table = to_markdown([same, yielding])
    assert table.count("\n") == 5
    assert f"{mean_of([same, yielding]).cosine['auto']:.3f}" in table.splitlines()[-1]
    assert draw_sheet(pipe, inversion[0], 1.0, AutoMask(), ["turn"]).width > 5 * 192


def strong_edits(pipe, data_folder, count):
    pipe.set_progress_bar_config(disable=True)
    inversion = pipe.invert(load_images(data_folder / "cats64_val.zip", 64, limit=count))
    results = [
        measure_edit(pipe, inversion, name, 3 * edit.default_strength, AutoMask())
        for name, edit in pipe.get_list_edits().items()
    ]
    print("\n" + to_markdown(results))
    return mean_of(results)


@pytest.mark.parametrize("count", [4, pytest.param(12, marks=pytest.mark.slow)])
def test_strong_edits_keep_their_effect_on_unseen_cats(data_folder, count):
    """What the docs promise, loosely: the mean over all edits at three times their default strengths.

    The transport keeps edits whole without the mask, which then has less left to mend.
    """
    pipe = SDICPipeline.from_pretrained("cats64", transport=None)
    found = strong_edits(pipe, data_folder, count)
    assert found.acted["auto"] > found.acted["plain"] + 4
    assert 1 - found.cosine["auto"] < 0.8 * (1 - found.cosine["plain"])
    assert found.norm_ratio["auto"] > found.norm_ratio["plain"]
    assert found.untouched_regions["auto"] > found.untouched_regions["plain"] - 0.25
    assert found.untouched["auto"] > found.untouched["plain"] - 0.8
    found = strong_edits(SDICPipeline.from_pretrained("cats64"), data_folder, count)
    assert found.acted["auto"] > found.acted["plain"] + 4
    assert found.cosine["auto"] > found.cosine["plain"] > 0.96
    assert found.norm_ratio["auto"] > 0.92 and found.norm_ratio["plain"] > 0.96
    assert found.untouched_regions["auto"] > found.untouched_regions["plain"] - 0.5
    assert found.untouched["auto"] > found.untouched["plain"] - 1.5
