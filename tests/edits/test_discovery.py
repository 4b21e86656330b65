from __future__ import annotations

import pytest
import torch
from testing.tiny_models import make_model

from sdic_plugin.edits.discovery import (
    LatentSamples,
    background,
    brightness,
    principal_directions,
    sample_latents,
    score_direction,
    warmth,
)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def generator():
    return make_model("generator")


# Measures.


def grey(value: float = 0.5) -> torch.Tensor:
    return torch.full((1, 3, 64, 64), value)


def test_measures_rise_with_what_they_are_named_after():
    red = grey()
    red[:, 0] += 0.25
    torch.testing.assert_close(warmth(red), torch.tensor([0.25]))
    torch.testing.assert_close(brightness(grey(0.75)), torch.tensor([0.75]))
    middle = grey()
    middle[:, :, 10:45, 27:37] = 1
    torch.testing.assert_close(background(middle), torch.tensor([0.5]))
    corner = grey()
    corner[:, :, -12:, :12] = 1
    torch.testing.assert_close(background(corner), torch.tensor([0.625]))


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
