"""Gaussian blur of images."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def gaussian(deviation: float, radius: int) -> torch.Tensor:
    """Weights of a Gaussian blur, [2 · radius + 1], of sum 1; the deviation, above 0, is in pixels."""
    places = torch.arange(-radius, radius + 1, dtype=torch.float64)
    weights = torch.exp(-0.5 * (places / deviation).square())
    return (weights / weights.sum()).float()


def blur(images: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Filter images [B, C, H, W] by the same weights [K] (K odd) along both axes, reflected at borders; float32.

    Neither side of the images may be below (K + 1) / 2.
    """
    radius, channels = len(weights) // 2, images.shape[1]
    kernel = weights.to(images.device).expand(channels, 1, 1, -1)
    padded = F.pad(images.float(), [radius] * 4, mode="reflect")
    return F.conv2d(F.conv2d(padded, kernel, groups=channels), kernel.transpose(2, 3), groups=channels)
