"""Fréchet distance between two sets of features: the "F" of FID, whatever network the features come from."""

from __future__ import annotations

import torch

from sdic_plugin.errors import ImageError


def frechet_distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """Squared Fréchet distance between the Gaussians that fit two sets of features (Heusel et al., 2017).

    ‖μ_a − μ_b‖² + tr(Σ_a + Σ_b − 2 (Σ_a Σ_b)^½), with unbiased covariances, in float64. Called FID only where the
    features are those of FID's Inception-v3. It is biased upwards for few images (worse where N is below D), so only
    figures of equal counts compare.

    Args:
        a: Features of one set, [N, D], N at least 2.
        b: Features of the other, [M, D], M at least 2.

    Returns:
        From 0 (equal mean and covariance) on.

    Raises:
        ImageError: If the shapes do not fit, or a value is not finite.
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise ImageError(
            f"The Fréchet distance was given features of shape {list(a.shape)} and {list(b.shape)}: give [N, D] and "
            "[M, D] with at least two images each."
        )
    if not (torch.isfinite(a).all() and torch.isfinite(b).all()):
        raise ImageError("The Fréchet distance was given features that are not finite: check the images' range.")
    return gaussian_distance(*gaussian_of(a), *gaussian_of(b))


def gaussian_of(features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean [D] and unbiased covariance [D, D] of features [N, D], in float64."""
    features = features.detach().double()
    mean = features.mean(dim=0)
    centred = features - mean
    return mean, centred.T @ centred / (len(features) - 1)


def gaussian_distance(
    mean_a: torch.Tensor, covariance_a: torch.Tensor, mean_b: torch.Tensor, covariance_b: torch.Tensor
) -> float:
    """Squared Fréchet distance between two Gaussians, each a mean [D] and a covariance [D, D], in float64."""
    root = symmetric_square_root(covariance_a)
    # Σ_a Σ_b has the eigenvalues of Σ_a^½ Σ_b Σ_a^½, which is symmetric: no complex numbers on the way.
    values = torch.linalg.eigvalsh(root @ covariance_b @ root).clamp(min=0)
    distance = (mean_a - mean_b).square().sum() + covariance_a.trace() + covariance_b.trace() - 2 * values.sqrt().sum()
    # Rounding may leave a tiny negative number where the sets are equal.
    return max(distance.item(), 0.0)


def symmetric_square_root(matrix: torch.Tensor) -> torch.Tensor:
    """Square root [D, D] of a symmetric positive semi-definite matrix [D, D]."""
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T
