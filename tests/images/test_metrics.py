"""MS-SSIM and the Fréchet distance against independent computations."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sdic_plugin import ImageError
from sdic_plugin.evaluation import frechet_distance, ms_ssim, mse, psnr, round_to_uint8, ssim
from sdic_plugin.evaluation.frechet import gaussian_distance, gaussian_of, symmetric_square_root
from sdic_plugin.images.metrics import MS_SSIM_WEIGHTS, ms_ssim_scales

ndimage = pytest.importorskip("scipy.ndimage")
linalg = pytest.importorskip("scipy.linalg")


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


# Fréchet distance.


def test_frechet_distance_of_gaussians_in_closed_form():
    mean_a, mean_b = torch.tensor([0.0, 1.0, -2.0]).double(), torch.tensor([1.0, 1.0, 0.0]).double()
    variance_a, variance_b = torch.tensor([1.0, 4.0, 9.0]).double(), torch.tensor([4.0, 4.0, 1.0]).double()
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0)).double()).Q
    # Covariances with the same axes: the squared distance of the standard deviations.
    wanted = 5 + (1 + 0 + 4)
    covariances = [rotation @ torch.diag(variance) @ rotation.T for variance in (variance_a, variance_b)]
    found = gaussian_distance(rotation @ mean_a, covariances[0], rotation @ mean_b, covariances[1])
    assert found == pytest.approx(wanted, abs=1e-9)
    root = symmetric_square_root(covariances[0])
    torch.testing.assert_close(root @ root, covariances[0])


@pytest.mark.parametrize("counts", [(50, 70), (6, 9)])
def test_frechet_distance_is_that_of_scipy(counts):
    rng = torch.Generator().manual_seed(1)
    mixing = torch.randn(8, 8, generator=rng)
    a = torch.randn(counts[0], 8, generator=rng) @ mixing
    b = torch.randn(counts[1], 8, generator=rng) * 1.5 + 0.3
    means = [x.double().mean(dim=0).numpy() for x in (a, b)]
    covariances = [np.cov(x.double().numpy(), rowvar=False) for x in (a, b)]
    root = linalg.sqrtm(covariances[0] @ covariances[1])
    wanted = ((means[0] - means[1]) ** 2).sum() + np.trace(covariances[0] + covariances[1] - 2 * np.real(root))
    # With fewer images than features the product is singular, and SciPy's root only good to half the digits.
    assert frechet_distance(a, b) == pytest.approx(wanted, rel=1e-9 if min(counts) > 8 else 1e-5)
    assert frechet_distance(b, a) == pytest.approx(frechet_distance(a, b), rel=1e-6)


def test_frechet_distance_of_equal_and_shifted_sets():
    a = torch.randn(100, 5, generator=torch.Generator().manual_seed(2))
    assert frechet_distance(a, a.flip(0)) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(a, a + 2) == pytest.approx(20, rel=1e-6)
    mean, covariance = gaussian_of(a)
    np.testing.assert_allclose(covariance.numpy(), np.cov(a.double().numpy(), rowvar=False))
    np.testing.assert_allclose(mean.numpy(), a.double().mean(dim=0).numpy())


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (torch.zeros(1, 4), torch.zeros(5, 4), r"\[1, 4\]"),
        (torch.zeros(5, 4), torch.zeros(5, 3), r"\[5, 3\]"),
        (torch.zeros(5, 4, 1), torch.zeros(5, 4), r"\[5, 4, 1\]"),
        (torch.full((5, 4), torch.nan), torch.zeros(5, 4), "not finite"),
    ],
)
def test_frechet_distance_refuses_what_it_cannot_compare(a, b, message):
    with pytest.raises(ImageError, match=message):
        frechet_distance(a, b)
