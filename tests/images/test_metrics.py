"""Comparisons of pictures, against independent computations."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sdic_plugin import ImageError
from sdic_plugin.images.metrics import (
    MS_SSIM_WEIGHTS,
    edit_effect,
    edit_transfer,
    mean_absolute_error,
    ms_ssim,
    ms_ssim_scales,
    mse,
    psnr,
    round_to_uint8,
    ssim,
)

ndimage = pytest.importorskip("scipy.ndimage")
skimage_metrics = pytest.importorskip("skimage.metrics")


def random_images(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def blur(channel: np.ndarray) -> np.ndarray:
    """SciPy's Gaussian mean over the whole windows of 11 pixels."""
    return ndimage.gaussian_filter(channel, 1.5, truncate=3.5)[5:-5, 5:-5]


def ms_ssim_by_scipy(x: np.ndarray, y: np.ndarray, scales: int) -> float:
    """One channel [H, W] in [0, 1]."""
    value, weights = 1.0, np.array(MS_SSIM_WEIGHTS[:scales]) / sum(MS_SSIM_WEIGHTS[:scales])
    for i in range(scales):
        mean_x, mean_y = blur(x), blur(y)
        covariance = blur(x * y) - mean_x * mean_y
        variances = blur(x * x) - mean_x**2 + blur(y * y) - mean_y**2
        structure = (2 * covariance + 0.03**2) / (variances + 0.03**2)
        luminance = (2 * mean_x * mean_y + 0.01**2) / (mean_x**2 + mean_y**2 + 0.01**2)
        value *= (structure * luminance if i == scales - 1 else structure).mean() ** weights[i]
        x, y = (a[: a.shape[0] // 2 * 2, : a.shape[1] // 2 * 2] for a in (x, y))
        x, y = (a.reshape(a.shape[0] // 2, 2, a.shape[1] // 2, 2).mean(axis=(1, 3)) for a in (x, y))
    return value


@pytest.mark.parametrize(("size", "scales"), [((176, 180), 5), ((64, 64), 3), ((45, 90), 3), ((22, 22), 2)])
def test_ms_ssim_is_that_of_an_independent_computation(size, scales):
    assert ms_ssim_scales(size) == scales
    smooth = torch.nn.functional.interpolate(random_images(2, 3, 8, 8), size, mode="bicubic").clamp(0, 1)
    noisy = (smooth + 0.3 * random_images(2, 3, *size, seed=1) - 0.1).clamp(0, 1)
    wanted = [
        np.mean([ms_ssim_by_scipy(x, y, scales) for x, y in zip(*pair, strict=True)])
        for pair in zip(smooth.double().numpy(), noisy.double().numpy(), strict=True)
    ]
    found = ms_ssim(smooth, noisy)
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float32), rtol=0, atol=1e-5)
    assert ((found > 0.3) & (found < 0.99)).all()
    torch.testing.assert_close(ms_ssim(smooth * 2, noisy * 2, data_range=2), found)


def test_ms_ssim_at_one_scale_is_ssim_and_of_equal_images_one():
    images, targets = random_images(2, 3, 20, 20), random_images(2, 3, 20, 20, seed=1)
    mixed = 0.5 * images + 0.5 * targets
    torch.testing.assert_close(ms_ssim(images, mixed), ssim(images, mixed))
    torch.testing.assert_close(ms_ssim(random_images(1, 3, 64, 64), random_images(1, 3, 64, 64)), torch.ones(1))
    inverted = ms_ssim(images, 1 - images)
    assert torch.equal(inverted, torch.zeros(2)), "negative terms count as 0"


def test_ms_ssim_refuses_what_it_cannot_compare():
    with pytest.raises(ImageError, match=r"MS-SSIM.*\[1, 3, 10, 16\].*at least 11 pixels"):
        ms_ssim(torch.zeros(1, 3, 10, 16), torch.zeros(1, 3, 10, 16))


def test_mse_and_rounding():
    images = torch.tensor([[0.1, 0.5, 1.2, -0.3], [0.0, 1.0, 0.25, 0.75]]).reshape(2, 1, 2, 2)
    rounded = round_to_uint8(images)
    assert torch.equal(
        (rounded * 255).round(), torch.tensor([[26.0, 128, 255, 0], [0, 255, 64, 191]]).view(2, 1, 2, 2)
    )
    torch.testing.assert_close(mse(images, torch.zeros_like(images)), images.square().mean(dim=(1, 2, 3)))
    torch.testing.assert_close(
        psnr(images[1:], torch.zeros(1, 1, 2, 2)), -10 * torch.log10(mse(images[1:], 0 * images[1:]))
    )


def test_psnr_is_that_of_scikit_image():
    images, targets = random_images(3, 3, 16, 20), random_images(3, 3, 16, 20, seed=1)
    wanted = [
        skimage_metrics.peak_signal_noise_ratio(one.numpy(), other.numpy(), data_range=1)
        for one, other in zip(targets, images, strict=True)
    ]
    torch.testing.assert_close(psnr(images, targets), torch.tensor(wanted, dtype=torch.float32))
    # The range cancels: [-1, 1] gives what [0, 1] gives.
    torch.testing.assert_close(psnr(images * 2 - 1, targets * 2 - 1, data_range=2), psnr(images, targets))
    assert psnr(images, images).isinf().all()


@pytest.mark.parametrize("data_range", [1.0, 2.0, 255.0])
def test_ssim_is_that_of_scikit_image(data_range):
    images = random_images(3, 3, 24, 19) * data_range
    targets = (images + 0.2 * data_range * random_images(3, 3, 24, 19, seed=1)).clamp(0, data_range)
    targets[1] = images[1].flip(2)
    targets[2] = 0.5 * data_range
    wanted = [
        skimage_metrics.structural_similarity(
            one.numpy(),
            other.numpy(),
            data_range=data_range,
            channel_axis=0,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        for one, other in zip(images.double(), targets.double(), strict=True)
    ]
    found = ssim(images, targets, data_range=data_range)
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float32), rtol=0, atol=1e-5)
    assert found[0] > 0.5 > found[1].abs(), "the cases differ"


def test_ssim_of_equal_images_is_one_even_if_flat():
    images = torch.cat([random_images(1, 3, 16, 16), torch.full((1, 3, 16, 16), 0.7)])
    torch.testing.assert_close(ssim(images, images), torch.ones(2))


@pytest.mark.parametrize("shapes", [((1, 3, 16, 16), (1, 3, 16, 15)), ((1, 3, 10, 16), (1, 3, 10, 16))])
def test_ssim_refuses_what_it_cannot_compare(shapes):
    with pytest.raises(ImageError, match="at least 11 pixels") as error:
        ssim(*(torch.zeros(shape) for shape in shapes))
    assert all(str(list(shape)) in str(error.value) for shape in shapes)


def test_mean_absolute_error_and_edit_effect_are_per_image():
    before = torch.zeros(2, 3, 4, 4)
    after = before.clone()
    after[0, 0] = -0.6
    after[1] = 0.25
    torch.testing.assert_close(mean_absolute_error(after, before), torch.tensor([0.2, 0.25]))
    torch.testing.assert_close(edit_effect(before, after), torch.tensor([0.2, 0.25]))


def test_edit_transfer_compares_direction_and_size():
    initial, inverted, change = (random_images(4, 3, 8, 8, seed=seed) for seed in range(3))
    other = change.clone()
    other[1] = 0.5 * change[1]
    other[2] = -2 * change[2]
    other[3] = 0
    other[0, :, :4] = 0
    found = edit_transfer(initial, initial + change, inverted, inverted + other)
    kept = (other[0].norm() / change[0].norm()).item()
    torch.testing.assert_close(found.cosine, torch.tensor([kept, 1, -1, 0]), rtol=0, atol=1e-5)
    torch.testing.assert_close(found.norm_ratio, torch.tensor([kept, 0.5, 2, 0]), rtol=1e-4, atol=1e-5)
