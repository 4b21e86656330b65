from __future__ import annotations

import pytest
import torch
from testing.tiny_models import make_model

from hub_cards.cats64 import edits as cats64_edits
from hub_cards.cats64.measures import MEASURES, blaze, muzzle, stripes
from sdic_plugin.edits.discovery import (
    LatentSamples,
    background,
    brightness,
    principal_directions,
    sample_latents,
    score_direction,
    warmth,
)
from sdic_plugin.edits.steering import SteeringConfig


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def generator():
    return make_model("generator")


# Measures.


def grey(value: float = 0.5) -> torch.Tensor:
    return torch.full((1, 3, 64, 64), value)


def test_measures_give_one_score_per_image():
    images = torch.rand(5, 3, 40, 32, generator=torch.Generator().manual_seed(0))
    for name, measure in MEASURES.items():
        assert measure(images).shape == (5,), name
        torch.testing.assert_close(measure(images)[2], measure(images[2:3])[0], msg=name)


@pytest.mark.parametrize("name", ["warmth", "contrast", "muzzle", "stripes", "blaze"])
def test_plain_grey_scores_nothing(name):
    torch.testing.assert_close(MEASURES[name](grey()), torch.zeros(1), atol=1e-6, rtol=0)


def test_measures_rise_with_what_they_are_named_after():
    red = grey()
    red[:, 0] += 0.25
    torch.testing.assert_close(warmth(red), torch.tensor([0.25]))
    torch.testing.assert_close(brightness(grey(0.75)), torch.tensor([0.75]))
    middle = grey()
    middle[:, :, 10:45, 27:37] = 1
    assert blaze(middle) > 0.4
    torch.testing.assert_close(background(middle), torch.tensor([0.5]))
    corner = grey()
    corner[:, :, -12:, :12] = 1
    torch.testing.assert_close(background(corner), torch.tensor([0.625]))
    assert abs(blaze(corner)) < 1e-6
    chin = grey()
    chin[:, :, 45:, 21:43] = 1
    assert muzzle(chin) > 0.3


def test_stripes_are_fine_patterns_not_large_ones():
    x = torch.arange(64)
    fine = (0.5 + 0.2 * torch.sin(2 * torch.pi * x / 4)).expand(1, 3, 64, 64)
    coarse = (0.5 + 0.2 * torch.sin(2 * torch.pi * x / 64)).expand(1, 3, 64, 64)
    assert stripes(fine) > 0.1
    assert stripes(coarse) < 0.02


# Samples and directions.


def test_samples_are_measured_as_rendered(generator):
    found = sample_latents(generator, {"light": brightness}, count=5, seed=3, batch_size=2)
    assert found.w.shape == (5, 16)
    with torch.no_grad():
        image = (generator(generator.broadcast(found.w[4:])).image / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(found.scores["light"][4:], brightness(image))
    again = sample_latents(generator, {"light": brightness}, count=5, seed=3)
    torch.testing.assert_close(again.scores["light"], found.scores["light"])
    assert not torch.allclose(sample_latents(generator, {}, count=5, seed=4).w, found.w)


def correlated_samples() -> tuple[LatentSamples, torch.Tensor, torch.Tensor]:
    """Samples of w with two linear scores, and the slopes of these."""
    w = random(500, 6) @ random(6, 6, seed=1) + 3
    first, second = random(6, seed=2), random(6, seed=3)
    return LatentSamples(w, {"first": w @ first, "second": w @ second}), first, second


def test_score_direction_raises_a_linear_score_by_one_standard_deviation():
    samples, first, _ = correlated_samples()
    rise = score_direction(samples, "first") @ first
    torch.testing.assert_close(rise, samples.scores["first"].std(), rtol=0.01, atol=0)


def test_score_direction_leaves_the_named_scores_alone():
    samples, first, second = correlated_samples()
    assert abs(score_direction(samples, "first") @ second) > 0.1
    apart = score_direction(samples, "first", apart_from=["second"])
    assert abs(apart @ second) < 1e-3
    assert apart @ first > 0.1


def test_principal_directions_are_ordered_and_one_deviation_long():
    samples, _, _ = correlated_samples()
    found = principal_directions(samples, count=3)
    deviations = ((samples.w - samples.w.mean(dim=0)) @ (found / found.norm(dim=1, keepdim=True)).T).std(dim=0)
    torch.testing.assert_close(found.norm(dim=1), deviations, rtol=0.01, atol=0)
    assert deviations[0] > deviations[1] > deviations[2]


# The bundled model's edits.


def test_the_bundled_edits_are_found_from_any_generator_alike_every_time(generator, monkeypatch):
    monkeypatch.setattr(cats64_edits, "STEERING", SteeringConfig(layers=(0, 5), steps=2, batch_size=2))
    found = cats64_edits.find_edits(generator, samples=40)
    names = [edit.name for edit in found]
    assert len(set(names)) == len(names) >= 6
    shapes = [edit for edit in found if edit.layers is not None]
    assert len(shapes) >= 3
    latents = generator.broadcast(random(2, 16))
    for edit, again in zip(found, cats64_edits.find_edits(generator, samples=40), strict=True):
        torch.testing.assert_close(edit.direction, again.direction, atol=1e-3, rtol=1e-3)
        edit.check_fits(generator)
        lowest, highest = edit.strength_range
        assert lowest <= -edit.default_strength < 0 < edit.default_strength < highest
        assert "(positive)" in edit.description and "(negative)" in edit.description
        changed = (edit.apply(latents, torch.ones(2)) - latents).abs().sum(dim=(0, 2)) > 0
        assert changed.tolist() == [edit.layers is None or row < edit.layers[1] for row in range(10)]
