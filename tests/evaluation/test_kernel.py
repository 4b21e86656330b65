"""The kernel distance against independent computations."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from sdic_plugin import ImageError
from sdic_plugin.evaluation import kernel_distance
from sdic_plugin.evaluation.kernel import squared_discrepancy, unpaired_distance


def gaussians(count: int, width: int = 6, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def by_hand(a: np.ndarray, b: np.ndarray) -> float:
    """The estimate of Bińkowski et al., equation 4, pair by pair."""
    width = a.shape[1]

    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        return (float(x @ y) / width + 1) ** 3

    def of_pairs(x: np.ndarray) -> float:
        return sum(kernel(p, q) for p, q in itertools.permutations(x, 2)) / (len(x) * (len(x) - 1))

    crossed = sum(kernel(p, q) for p, q in itertools.product(a, b)) / (len(a) * len(b))
    return of_pairs(a) + of_pairs(b) - 2 * crossed


def test_estimate_is_that_computed_pair_by_pair():
    a, b = gaussians(7), gaussians(9, seed=1) * 1.3 + 0.2
    wanted = by_hand(a.double().numpy(), b.double().numpy())
    assert squared_discrepancy(a, b).item() == pytest.approx(wanted, rel=1e-5)
    assert squared_discrepancy(b, a).item() == pytest.approx(wanted, rel=1e-5)
    # A subset of all images is the set itself, however it is shuffled.
    found = kernel_distance(a, b[:7], subsets=4)
    assert found.mean == pytest.approx(by_hand(a.double().numpy(), b[:7].double().numpy()), rel=1e-5)
    assert found.std < 1e-6


def test_it_is_unbiased():
    """0 on average where both sets are of one distribution, and the same for few images as for many."""
    same, few, many = [], [], []
    for seed in range(300):
        same.append(squared_discrepancy(gaussians(20, seed=2 * seed), gaussians(20, seed=2 * seed + 1)))
        other = gaussians(20, seed=2 * seed + 1) + 0.5
        few.append(squared_discrepancy(gaussians(20, seed=2 * seed)[:5], other[:5]))
        many.append(squared_discrepancy(gaussians(20, seed=2 * seed), other))
    values = torch.stack(same)
    assert values.mean().abs() < 3 * values.std() / 300**0.5 and values.min() < 0
    difference = torch.stack(few) - torch.stack(many)
    assert difference.mean().abs() < 3 * difference.std() / 300**0.5
    assert torch.stack(many).mean() > 10 * values.mean().abs()


def test_expectation_in_closed_form():
    """One feature, standard normal against mean m: k = (xy + 1)³, so E k(x, y) = 1 + 3 m_x m_y + 3 q + c."""
    mean = 0.7
    # E[(xy + 1)^3] = 1 + 3 E[x]E[y] + 3 E[x²]E[y²] + E[x³]E[y³], with moments of normals.
    moments = [(1.0, 0.0, 1.0, 0.0), (1.0, mean, 1 + mean**2, 3 * mean + mean**3)]

    def expected(p: tuple[float, ...], q: tuple[float, ...]) -> float:
        return sum(factor * x * y for factor, x, y in zip((1, 3, 3, 1), p, q, strict=True))

    wanted = expected(moments[0], moments[0]) + expected(moments[1], moments[1]) - 2 * expected(*moments)
    found = squared_discrepancy(gaussians(6000, 1), gaussians(6000, 1, seed=1) + mean)
    assert found.item() == pytest.approx(wanted, rel=0.1)


def test_subsets_are_seeded_and_no_larger_than_the_sets():
    a, b = gaussians(50), gaussians(30, seed=1) + 0.3
    first = kernel_distance(a, b, subsets=10, subset_size=20)
    assert first == kernel_distance(a, b, subsets=10, subset_size=20) and first.std > 0
    assert first != kernel_distance(a, b, subsets=10, subset_size=20, seed=1)
    whole, larger = kernel_distance(a, b, subsets=40), kernel_distance(a, b, subsets=40, subset_size=30)
    assert whole == larger
    assert whole.mean == pytest.approx(squared_discrepancy(a, b).item(), abs=3 * whole.std)


@pytest.mark.parametrize(
    ("a", "b", "options", "message"),
    [
        (torch.zeros(1, 4), torch.zeros(5, 4), {}, r"\[1, 4\]"),
        (torch.zeros(5, 4), torch.zeros(5, 3), {}, r"\[5, 3\]"),
        (torch.zeros(5, 4, 1), torch.zeros(5, 4), {}, r"\[5, 4, 1\]"),
        (torch.zeros(5, 4), torch.zeros(5, 4), {"subset_size": 1}, "subsets of 1"),
        (torch.zeros(5, 4), torch.zeros(5, 4), {"subsets": 0}, "in 0 subsets"),
        (torch.full((5, 4), torch.nan), torch.zeros(5, 4), {}, "not finite"),
    ],
)
def test_kernel_distance_refuses_what_it_cannot_compare(a, b, options, message):
    with pytest.raises(ImageError, match=message):
        kernel_distance(a, b, **options)


def test_pictures_are_compared_with_photos_other_than_their_own():
    photos = gaussians(40)
    crossed = [squared_discrepancy(photos[i::2], photos[1 - i :: 2]) for i in (0, 1)]
    assert unpaired_distance(photos, photos) == pytest.approx((sum(crossed) / 2).item())
    assert unpaired_distance(photos + 1, photos) > unpaired_distance(photos + 0.5, photos) > 0.1
    with pytest.raises(ImageError, match="3 pictures to 40 photos was asked for: give one picture per photo"):
        unpaired_distance(photos[:3], photos)
