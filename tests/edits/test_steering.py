from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from testing.tiny_models import make_model

from sdic_plugin import EditError, StyleGAN2Generator
from sdic_plugin.checkpoints.components import load_component
from sdic_plugin.checkpoints.folder import bundled_models
from sdic_plugin.edits.steering import (
    SteeringConfig,
    magnify,
    pixel_positions,
    principal_axes,
    shift,
    steer,
    steering_error,
    stretch,
    warp_images,
)
from sdic_plugin.utils.seeds import seeded_rng

EVERYWHERE = (1e6, 1e6)
TINY = SteeringConfig(layers=(0, 5), steps=30, batch_size=4)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def dot(x: int, y: int) -> torch.Tensor:
    """A blurred dot, [1, 1, 64, 64]."""
    squares = (pixel_positions(64, 64) * 64 - torch.tensor([x + 0.5, y + 0.5])).square().sum(dim=2)
    return torch.exp(-squares / 8)[None, None]


def centre(image: torch.Tensor) -> list[float]:
    """Centre of mass in pixels, x and y."""
    weight = image[0, 0, ..., None] / image.sum()
    return (weight * (pixel_positions(64, 64) * 64 - 0.5)).sum(dim=(0, 1)).tolist()


# Warps.


def test_strength_zero_leaves_the_picture():
    images = random(2, 3, 16, 24)
    torch.testing.assert_close(warp_images(images, magnify([(0.3, 0.4)], 0.2, 0.5), torch.zeros(2)), images)


def test_a_shift_by_a_pixel_moves_every_pixel_by_one():
    images = random(2, 3, 16, 32)
    right = warp_images(images, shift((0.5, 0.5), EVERYWHERE, (1 / 32, 0.0)), torch.tensor([1.0, -2.0]))
    torch.testing.assert_close(right[0, :, :, 1:], images[0, :, :, :-1], atol=1e-4, rtol=0)
    torch.testing.assert_close(right[1, :, :, :-2], images[1, :, :, 2:], atol=1e-4, rtol=0)
    down = warp_images(images, shift((0.5, 0.5), EVERYWHERE, (0.0, 1 / 16)), torch.ones(2))
    torch.testing.assert_close(down[:, :, 1:], images[:, :, :-1], atol=1e-4, rtol=0)


def test_a_shift_fades_out_with_the_distance():
    warp = shift((0.25, 0.5), (0.1, 0.1), (0.05, 0.0))
    assert centre(warp_images(dot(16, 32), warp, torch.ones(1)))[0] > 18
    assert centre(warp_images(dot(54, 32), warp, torch.ones(1))) == pytest.approx([54, 32], abs=0.01)


@pytest.mark.parametrize(("strength", "grows"), [(1.0, True), (-1.0, False)])
def test_magnify_enlarges_around_each_centre(strength, grows):
    warp = magnify([(16.5 / 64, 0.5), (48.5 / 64, 0.5)], 0.1, 0.4)
    for x in (16, 48):
        before = dot(x, 31)
        after = warp_images(before, warp, torch.tensor([strength]))
        assert (after.sum() > before.sum()) == grows
        assert centre(after) == pytest.approx([x, 31], abs=0.3)


def test_stretch_moves_away_from_the_origin_and_not_what_lies_above():
    warp = stretch((0.5, 0.5), (0.2, 0.4))
    below = centre(warp_images(dot(44, 44), warp, torch.full((1,), 0.5)))
    assert below[0] > 44.5 and below[1] > 46
    above = centre(warp_images(dot(44, 16), warp, torch.full((1,), 0.5)))
    assert above[0] > 44.5 and above[1] == pytest.approx(16, abs=0.1)


# Learning.


@pytest.fixture(scope="module")
def generator():
    return make_model("generator")


@pytest.fixture(scope="module")
def w(generator):
    with torch.no_grad():
        return generator.mapping(random(200, 16))


WARPS = {"right": shift((0.5, 0.5), (0.3, 0.3), (0.06, 0.0)), "long": stretch((0.5, 0.4), (0.0, 0.2))}


@pytest.fixture(scope="module")
def directions(generator, w):
    return steer(generator, WARPS, w, TINY)


def held_out_error(generator, name: str, direction: torch.Tensor) -> float:
    with torch.no_grad():
        latents = generator.broadcast(generator.mapping(random(16, 16, seed=9)))
        strengths = torch.tensor([0.5, -0.5]).repeat(8)
        return steering_error(generator, {name: WARPS[name]}, latents, direction[None, :5], strengths, TINY).item()


def test_the_error_is_one_for_a_direction_that_does_nothing(generator):
    assert held_out_error(generator, "right", torch.zeros(10, 16)) == pytest.approx(1, abs=1e-4)


def test_learnt_directions_do_what_their_warp_does_on_new_samples():
    """On the bundled generator: random weights have no direction that moves things."""
    generator = load_component(StyleGAN2Generator, bundled_models()["cats64"], "generator").requires_grad_(False)
    config = SteeringConfig(layers=(0, 5), steps=16, batch_size=6)
    warps = {"eyes": magnify([(0.284, 0.406), (0.727, 0.406)], radius=0.14, amount=0.8)}
    with torch.no_grad():
        w = generator.mapping(torch.randn(600, 256, generator=seeded_rng(0)))
        latents = generator.broadcast(generator.mapping(torch.randn(8, 256, generator=seeded_rng(1)), 0.7))
    direction = steer(generator, warps, w, config)["eyes"]
    strengths = torch.tensor([0.5, -0.5]).repeat(4)
    with torch.no_grad():
        own, opposite = (
            steering_error(generator, warps, latents, sign * direction[None, :5], strengths, config).item()
            for sign in (1, -1)
        )
    print(f"own {own:.3f}, opposite {opposite:.3f}")
    assert own < 0.97
    assert opposite > 1.1


def test_directions_leave_the_other_layers(directions):
    assert list(directions) == list(WARPS)
    for direction in directions.values():
        assert direction.shape == (10, 16)
        assert (direction[:5].norm(dim=1) > 0).all()
        assert (direction[5:] == 0).all()
        assert not direction.requires_grad


def test_learning_is_repeatable_and_leaves_the_generator(generator, w, directions):
    before = {key: value.clone() for key, value in generator.state_dict().items()}
    again = steer(generator, WARPS, w, TINY)
    for name in WARPS:
        torch.testing.assert_close(again[name], directions[name], atol=1e-3, rtol=1e-3)
    assert all(torch.equal(value, before[key]) for key, value in generator.state_dict().items())
    assert all(parameter.grad is None for parameter in generator.parameters())


def test_the_penalty_keeps_directions_short(generator, w, directions):
    strict = SteeringConfig(layers=(0, 5), steps=30, batch_size=4, length_penalty=1.0)
    short = steer(generator, WARPS, w, strict)
    assert all(short[name].norm() < 0.5 * directions[name].norm() for name in WARPS)


def test_principal_axes_are_one_standard_deviation_long():
    w = random(500, 6) @ random(6, 6, seed=1) + 3
    mean, axes = principal_axes(w)
    coordinates = (w - mean) @ torch.linalg.inv(axes)
    torch.testing.assert_close(torch.cov(coordinates.T), torch.eye(6), atol=0.01, rtol=0)
    assert F.cosine_similarity(axes[0], axes[1], dim=0).abs() < 1e-4


def test_settings_that_do_not_fit_are_refused(generator, w):
    with pytest.raises(EditError, match=r"layers \(3, 12\), but there are 10 styles"):
        steer(generator, WARPS, w, SteeringConfig(layers=(3, 12)))
    with pytest.raises(EditError, match="16 samples of w, but needs more than their width 16"):
        steer(generator, WARPS, w[:16])
    with pytest.raises(EditError, match=r"layers \(3, 3\)"):
        SteeringConfig(layers=(3, 3))
    with pytest.raises(EditError, match="0 steps"):
        SteeringConfig(steps=0)
    with pytest.raises(EditError, match="steps of 1 samples"):
        SteeringConfig(batch_size=1)
