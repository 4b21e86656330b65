"""The bundled model's edits: what measures cats, and that any generator's edits are found alike every time."""

from __future__ import annotations

import pytest
import torch
from testing.tiny_models import make_model

from hub_cards.cats64 import edits as cats64_edits
from hub_cards.cats64.measures import MEASURES, blaze, muzzle, stripes
from sdic_plugin.edits.steering import SteeringConfig


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def generator():
    return make_model("generator")


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


def test_measures_of_cats_rise_with_what_they_are_named_after():
    middle = grey()
    middle[:, :, 10:45, 27:37] = 1
    assert blaze(middle) > 0.4
    corner = grey()
    corner[:, :, -12:, :12] = 1
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
