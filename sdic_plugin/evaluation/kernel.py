"""Kernel distance between two sets of features: the "K" of KID, whatever network the features come from."""

from __future__ import annotations

import torch

from sdic_plugin.errors import ImageError
from sdic_plugin.evaluation.reports import Statistic
from sdic_plugin.utils.seeds import seeded_rng

SUBSETS, SUBSET_SIZE = 100, 1000
"""As published."""
DEGREE = 3


def kernel_distance(
    a: torch.Tensor, b: torch.Tensor, subsets: int = SUBSETS, subset_size: int = SUBSET_SIZE, seed: int = 0
) -> Statistic:
    """Unbiased estimate of the squared maximum mean discrepancy of two sets of features (Bińkowski et al., 2018).

    The kernel is (x · y / D + 1)³. The estimate is 0 on average where both sets come from one distribution, however
    few images there are (so it may be negative), and figures of different counts compare. Called KID only where the
    features are those of FID's Inception-v3.

    Args:
        a: Features of one set, [N, D].
        b: Features of the other, [M, D].
        subsets: Number of random subsets of both sets.
        subset_size: Images in each; at most the smaller set's number is taken.
        seed: Of the choice of subsets.

    Returns:
        Mean and standard deviation over the subsets. Subsets overlap, so that the deviation says less about the mean
        the larger they are.

    Raises:
        ImageError: If the shapes do not fit, or a value is not finite.
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b), subset_size) < 2 or subsets < 1:
        raise ImageError(
            f"The kernel distance was given features of shape {list(a.shape)} and {list(b.shape)}, in {subsets} "
            f"subsets of {subset_size}: give [N, D] and [M, D], with at least two images each and in a subset."
        )
    if not (torch.isfinite(a).all() and torch.isfinite(b).all()):
        raise ImageError("The kernel distance was given features that are not finite: check the images' range.")
    size, rng = min(subset_size, len(a), len(b)), seeded_rng(seed)
    a, b = a.detach().float().cpu(), b.detach().float().cpu()
    estimates = [
        squared_discrepancy(
            a[torch.randperm(len(a), generator=rng)[:size]], b[torch.randperm(len(b), generator=rng)[:size]]
        )
        for _ in range(subsets)
    ]
    return Statistic.of(torch.stack(estimates))


def unpaired_distance(found: torch.Tensor, photos: torch.Tensor) -> float:
    """Kernel distance of pictures that were made from photos, features [N, D] each, in the photos' order.

    Pictures of every other photo are compared with the photos in between, both ways: a picture beside its own photo
    would flatter it, as the estimate takes the two sets for independent.

    Returns:
        The mean of both estimates; of photos beside themselves it is 0 on average.

    Raises:
        ImageError: If there are fewer than four photos, or other numbers of both.
    """
    if found.shape != photos.shape or len(photos) < 4:
        raise ImageError(
            f"The kernel distance of {len(found)} pictures to {len(photos)} photos was asked for: give one picture "
            "per photo, and four photos or more."
        )
    pairs = ((found[::2], photos[1::2]), (found[1::2], photos[::2]))
    return sum(squared_discrepancy(*(part.float().cpu() for part in pair)).item() for pair in pairs) / 2


def squared_discrepancy(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """The unbiased estimate itself, of features [n, D] and [m, D]: a scalar."""
    return _mean_of_pairs(a) + _mean_of_pairs(b) - 2 * polynomial_kernel(a, b).mean()


def polynomial_kernel(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Kernel of every pair of features [n, D] and [m, D]: [n, m], float64, as differences of large sums follow."""
    return ((a @ b.T).double() / a.shape[1] + 1) ** DEGREE


def _mean_of_pairs(features: torch.Tensor) -> torch.Tensor:
    """Mean kernel of two different images of one set."""
    kernel, count = polynomial_kernel(features, features), len(features)
    return (kernel.sum() - kernel.trace()) / (count * (count - 1))
