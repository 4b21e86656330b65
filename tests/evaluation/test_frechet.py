"""The Fréchet distance against independent computations."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sdic_plugin import ImageError
from sdic_plugin.evaluation import frechet_distance
from sdic_plugin.evaluation.frechet import gaussian_distance, gaussian_of, symmetric_square_root

linalg = pytest.importorskip("scipy.linalg")


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
