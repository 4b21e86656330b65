"""Metrics as pure functions on tensors: one value per image, [B]."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from sdic_plugin.errors import ImageError

MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Of the five scales, fine to coarse (Wang et al., 2003)."""


def mse(images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean squared error of each image [B, C, H, W], in the images' own range: [B].

    For images in [0, 1] it is a quarter of the "L2" that pSp's and e4e's scripts measure in [-1, 1].
    """
    return (images.float() - targets.float()).square().flatten(1).mean(dim=1)


def psnr(images: torch.Tensor, targets: torch.Tensor, data_range: float = 1.0) -> torch.Tensor:
    """Peak signal-to-noise ratio of each image.

    Args:
        images: [B, C, H, W].
        targets: The same shape and range.
        data_range: Difference between the largest and the smallest possible value (1 for [0, 1], 2 for [-1, 1]).

    Returns:
        [B], in dB; infinite where the images are equal.
    """
    return 10 * torch.log10(data_range**2 / mse(images, targets))


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
    _check_comparable("SSIM", images, targets, window)
    luminance, structure = _similarity_maps(images, targets, data_range, window, sigma)
    return (luminance * structure).flatten(1).mean(dim=1).float()


def ms_ssim(
    images: torch.Tensor,
    targets: torch.Tensor,
    data_range: float = 1.0,
    window: int = 11,
    sigma: float = 1.5,
) -> torch.Tensor:
    """Multi-scale structural similarity of each image (Wang et al., 2003), per channel, then the mean over channels.

    Five scales, each half of the one before (means of 2 x 2 pixels), with the published weights. Images smaller than
    16 windows (176 pixels) are compared at as many scales as hold the window (`ms_ssim_scales`), their weights divided
    by their sum; such figures compare only with those of the same size. A negative contrast-structure term counts as
    0, as in the usual implementations.

    Args:
        images: [B, C, H, W].
        targets: The same shape and range.
        data_range: Difference between the largest and the smallest possible value (1 for [0, 1], 2 for [-1, 1]).
        window: Side of the window in pixels, odd.
        sigma: Standard deviation of the window in pixels.

    Returns:
        [B], in [0, 1].

    Raises:
        ImageError: If the shapes differ, or the images are smaller than the window.
    """
    _check_comparable("MS-SSIM", images, targets, window)
    x, y = images.double(), targets.double()
    weights = MS_SSIM_WEIGHTS[: ms_ssim_scales(images.shape[2:], window)]
    result = torch.ones(images.shape[:2], dtype=x.dtype, device=x.device)
    for i, weight in enumerate(weights):
        luminance, structure = _similarity_maps(x, y, data_range, window, sigma)
        # Luminance counts only at the coarsest scale.
        term = luminance * structure if i == len(weights) - 1 else structure
        result = result * term.mean(dim=(2, 3)).clamp(min=0) ** (weight / sum(weights))
        x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
    return result.mean(dim=1).float()


def ms_ssim_scales(size: Sequence[int], window: int = 11) -> int:
    """Number of scales at which `ms_ssim` compares images of that height and width: 5 from 176 pixels on."""
    scales = int(math.log2(min(size) / window)) + 1
    return min(scales, len(MS_SSIM_WEIGHTS))


def _check_comparable(name: str, images: torch.Tensor, targets: torch.Tensor, window: int) -> None:
    if images.shape != targets.shape or images.ndim != 4 or min(images.shape[2:]) < window:
        raise ImageError(
            f"{name} was given images of shape {list(images.shape)} and {list(targets.shape)}: give two equal shapes "
            f"[B, C, H, W] of at least {window} pixels each way."
        )


def _similarity_maps(
    images: torch.Tensor, targets: torch.Tensor, data_range: float, window: int, sigma: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Luminance and contrast-structure of SSIM at every whole window, each [B, C, h, w], float64."""
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
    return luminance, structure


def _gaussian_mean(values: torch.Tensor, window: int, sigma: float) -> torch.Tensor:
    """Weighted mean over every whole window: [B, C, H, W] to [B, C, H - window + 1, W - window + 1].

    As products with banded matrices: convolutions in float64 are slow on CPUs, and SSIM is a training loss as well.
    """
    rows, columns = (_gaussian_bands(size, window, sigma, values) for size in values.shape[2:])
    return rows @ values @ columns.mT


def _gaussian_bands(size: int, window: int, sigma: float, like: torch.Tensor) -> torch.Tensor:
    """Matrix [size - window + 1, size] whose product with a column of pixels is their weighted mean per window."""
    offsets = torch.arange(size, device=like.device) - torch.arange(size - window + 1, device=like.device)[:, None]
    taps = torch.exp(-(offsets - window // 2).to(like.dtype).square() / (2 * sigma**2))
    taps = torch.where((offsets >= 0) & (offsets < window), taps, 0)
    return taps / taps.sum(dim=1, keepdim=True)


def round_to_uint8(images: torch.Tensor) -> torch.Tensor:
    """Clamp images to [0, 1] and round them to the 256 values that an 8-bit picture can hold."""
    return (images.clamp(0, 1) * 255).round() / 255


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
