"""Metrics as pure functions on tensors: one value per image, [B]."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from sdic_plugin.errors import ImageError


def psnr(images: torch.Tensor, targets: torch.Tensor, data_range: float = 1.0) -> torch.Tensor:
    """Peak signal-to-noise ratio of each image.

    Args:
        images: [B, C, H, W].
        targets: The same shape and range.
        data_range: Difference between the largest and the smallest possible value (1 for [0, 1], 2 for [-1, 1]).

    Returns:
        [B], in dB; infinite where the images are equal.
    """
    error = (images.float() - targets.float()).square().flatten(1).mean(dim=1)
    return 10 * torch.log10(data_range**2 / error)


def ssim(
    images: torch.Tensor,
    targets: torch.Tensor,
    data_range: float = 1.0,
    window: int = 11,
    sigma: float = 1.5,
) -> torch.Tensor:
    """Structural similarity of each image (Wang et al., 2004): Gaussian window, mean over channels and positions.

    Only positions where the whole window lies inside the image count. K1 = 0.01, K2 = 0.03.

    Args:
        images: [B, C, H, W].
        targets: The same shape and range.
        data_range: Difference between the largest and the smallest possible value (1 for [0, 1], 2 for [-1, 1]).
        window: Side of the window in pixels, odd.
        sigma: Standard deviation of the window in pixels.

    Returns:
        [B], at most 1.

    Raises:
        ImageError: If the shapes differ, or the images are smaller than the window.
    """
    if images.shape != targets.shape or images.ndim != 4 or min(images.shape[2:]) < window:
        raise ImageError(
            f"SSIM was given images of shape {list(images.shape)} and {list(targets.shape)}: give two equal shapes "
            f"[B, C, H, W] of at least {window} pixels each way."
        )
    # Variances are small differences of large numbers, so float32 is not enough for flat images.
    x, y = images.double(), targets.double()
    mean_x, mean_y, square_x, square_y, product = (
        _gaussian_mean(values, window, sigma) for values in (x, y, x * x, y * y, x * y)
    )
    variance_x, variance_y = square_x - mean_x**2, square_y - mean_y**2
    covariance = product - mean_x * mean_y
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * covariance + c2) / (variance_x + variance_y + c2)
    return (luminance * structure).flatten(1).mean(dim=1).float()


def _gaussian_mean(values: torch.Tensor, window: int, sigma: float) -> torch.Tensor:
    """Weighted mean over every whole window: [B, C, H, W] to [B, C, H - window + 1, W - window + 1]."""
    positions = torch.arange(window, dtype=values.dtype, device=values.device) - window // 2
    taps = torch.exp(-positions.square() / (2 * sigma**2))
    taps, channels = taps / taps.sum(), values.shape[1]
    columns = F.conv2d(values, taps.reshape(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)
    return F.conv2d(columns, taps.reshape(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)


def mean_absolute_error(images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference of each image [B, C, H, W], in the images' own range: [B]."""
    return (images.float() - targets.float()).abs().flatten(1).mean(dim=1)


def edit_effect(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """How much an edit changes each picture: the mean |Δ|, [B], of renderings [B, 3, H, W] in [0, 1]."""
    return mean_absolute_error(after, before)


@dataclass
class EditTransfer:
    """How faithfully an edit of the initial rendering carries over to the inversion.

    Attributes:
        cosine: Of the two changes, [B] in [-1, 1]: 1 where both change the picture alike; 0 where one changes nothing.
        norm_ratio: Size of the inversion's change over that of the initial rendering, [B]; 1 where they are equal.
    """

    cosine: torch.Tensor
    norm_ratio: torch.Tensor


def edit_transfer(
    initial_before: torch.Tensor,
    initial_after: torch.Tensor,
    inversion_before: torch.Tensor,
    inversion_after: torch.Tensor,
) -> EditTransfer:
    """Compare an edit's change of the initial rendering with its change of the inversion.

    Args:
        initial_before: Initial rendering, [B, 3, H, W].
        initial_after: The same with the edit.
        inversion_before: Inversion, same shape and range.
        inversion_after: The same with the edit.
    """
    wanted = (initial_after.float() - initial_before.float()).flatten(1)
    found = (inversion_after.float() - inversion_before.float()).flatten(1)
    return EditTransfer(
        cosine=F.cosine_similarity(found, wanted, dim=1),
        norm_ratio=found.norm(dim=1) / wanted.norm(dim=1),
    )
