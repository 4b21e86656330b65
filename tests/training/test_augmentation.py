"""Augmentations: each does what its name says, leaves gradients, and depends on its numbers alone."""

from __future__ import annotations

import math

import pytest
import torch

from sdic_plugin.training.augmentation import (
    ADAPTIVE_NUMBERS,
    DIFFAUGMENT_NUMBERS,
    POLICIES,
    adaptive_augment,
    adjust_contrast,
    adjust_saturation,
    cutout,
    diffaugment,
    normal,
    similarity_matrix,
    translation_matrix,
    warp,
    whole_pixels,
)


def pictures(count: int = 4, size: int = 16) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1


def uniform(count: int, columns: int, seed: int = 1) -> torch.Tensor:
    return torch.rand(count, columns, generator=torch.Generator().manual_seed(seed))


def test_translation_moves_by_whole_pixels_and_fills_with_zero():
    images = pictures(2)
    shift = torch.tensor([3.0, -2.0]) * 2 / 16
    moved = warp(images, translation_matrix(shift, torch.zeros(2)), padding="zeros", mode="nearest")
    assert torch.equal(moved[0, :, :, :13], images[0, :, :, 3:]) and not moved[0, :, :, 13:].any()
    assert torch.equal(moved[1, :, :, 2:], images[1, :, :, :14]) and not moved[1, :, :, :2].any()


def test_shifts_are_whole_pixels_evenly_spread_over_the_range():
    pixels = whole_pixels(torch.linspace(0, 1 - 1e-6, 500), 16) * 16 / 2
    assert sorted(set(pixels.tolist())) == [-2, -1, 0, 1, 2]
    assert torch.bincount(pixels.long() + 2).tolist() == [100] * 5


def test_similarity_mirrors_enlarges_and_turns():
    images, one, zero = pictures(1), torch.ones(1), torch.zeros(1)

    def apply(mirror=one, scale=one, angle=zero):
        return warp(images, similarity_matrix(mirror, scale, angle), padding="reflection", mode="bilinear")

    close = {"atol": 1e-5, "rtol": 0}
    torch.testing.assert_close(apply(), images, **close)
    torch.testing.assert_close(apply(mirror=-one), images.flip(3), **close)
    turned = apply(angle=one * math.pi / 2)
    assert torch.allclose(turned, images.rot90(1, (2, 3)), atol=1e-5) or torch.allclose(
        turned, images.rot90(-1, (2, 3)), atol=1e-5
    )
    torch.testing.assert_close(apply(angle=one * math.pi), images.flip(2, 3), **close)
    # Twice as large, every pixel of the middle covers 2x2: their mean is the pixel.
    disc = torch.zeros(1, 3, 16, 16)
    disc[:, :, 6:10, 6:10] = 1
    large = warp(disc, similarity_matrix(one, 2 * one, zero), padding="reflection", mode="bilinear")
    assert large.sum().item() == pytest.approx(4 * disc.sum().item(), rel=0.01)


def test_colour_keeps_what_it_should():
    images = pictures()
    factor = torch.tensor([0.0, 0.5, 1.0, 2.0])
    saturated = adjust_saturation(images, factor)
    torch.testing.assert_close(saturated.mean(1), images.mean(1))
    assert saturated[0].std(dim=0).max() < 1e-6
    torch.testing.assert_close(saturated[2], images[2])
    contrasted = adjust_contrast(images, factor, 0.0)
    torch.testing.assert_close(contrasted, images * factor[:, None, None, None])


def test_cutout_blanks_a_quarter_where_it_is_wanted():
    images = pictures(2) + 3
    cut = cutout(images, torch.tensor([0.5, 0.5]), torch.tensor([0.5, 0.5]), torch.tensor([True, False]))
    assert (cut[0] == 0).sum() == 3 * 8 * 8 and not cut[0, :, 4:12, 4:12].any()
    assert torch.equal(cut[1], images[1])
    corner = cutout(images, torch.zeros(2), torch.ones(2), torch.tensor([True, True]))
    assert (corner[0] == 0).sum() == 3 * 4 * 4 and not corner[0, :, 12:, :4].any()


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_changes_images_and_no_policy_changes_none(policy):
    images, numbers = pictures(), uniform(4, DIFFAUGMENT_NUMBERS)
    assert torch.equal(diffaugment(images, numbers, []), images)
    assert all(not torch.equal(a, b) for a, b in zip(diffaugment(images, numbers, [policy]), images, strict=True))


@pytest.mark.parametrize(
    ("augment", "columns"),
    [
        (diffaugment, DIFFAUGMENT_NUMBERS),
        (lambda images, numbers: adaptive_augment(images, numbers, 0.7, flips=True), ADAPTIVE_NUMBERS),
    ],
    ids=["diffaugment", "adaptive"],
)
def test_augmentations_let_gradients_through_and_treat_images_alone(augment, columns):
    images, numbers = pictures(6).requires_grad_(), uniform(6, columns)
    augmented = augment(images, numbers)
    assert augmented.shape == images.shape and torch.isfinite(augmented).all()
    (gradient,) = torch.autograd.grad(augmented.square().sum(), images)
    assert (gradient.flatten(1).norm(dim=1) > 0).all()
    singles = [augment(images[i, None], numbers[i, None]) for i in range(6)]
    torch.testing.assert_close(augmented, torch.cat(singles))
    assert not torch.allclose(augmented, augment(images, uniform(6, columns, seed=2)))


def test_adaptive_strength_follows_the_probability():
    images, numbers = pictures(200), uniform(200, ADAPTIVE_NUMBERS)
    assert adaptive_augment(images, numbers, 0.0) is images

    def untouched(probability: float) -> float:
        changes = (adaptive_augment(images, numbers, probability, flips=True) - images).abs().amax(dim=(1, 2, 3))
        return (changes < 1e-4).float().mean().item()

    # Eight independent augmentations; of those chosen, few do nothing (no mirror, a shift by no pixel).
    assert untouched(0.05) == pytest.approx(0.95**8, abs=0.1)
    assert untouched(0.3) == pytest.approx(0.7**8, abs=0.06)
    assert untouched(1.0) == 0


def test_flips_are_left_out_where_the_data_are_mirrored():
    images, numbers = pictures(1), torch.full((1, ADAPTIVE_NUMBERS), 0.9)
    numbers[0, :2] = 0.0  # mirror, and chosen
    torch.testing.assert_close(adaptive_augment(images, numbers, 0.5, flips=False), images, atol=1e-5, rtol=0)
    torch.testing.assert_close(adaptive_augment(images, numbers, 0.5, flips=True), images.flip(3), atol=1e-5, rtol=0)


def test_normal_numbers_have_the_quantiles_of_a_normal():
    assert normal(torch.tensor([0.5, 0.8413447])).tolist() == pytest.approx([0.0, 1.0], abs=1e-5)
    assert torch.isfinite(normal(torch.tensor([0.0, 1.0]))).all()
