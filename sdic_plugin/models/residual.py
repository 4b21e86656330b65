"""Residual blocks on a feature map: what DICN's deeper configurations and the feature transport are made of."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from sdic_plugin.models.basic_conv import BasicConv
from sdic_plugin.models.layers import conv3x3


class ResidualBlock(nn.Module):
    """x + conv(BasicConv(x)), of one width; the last convolution starts at zero, so that a new block does nothing."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = BasicConv(channels, channels)
        self.second = conv3x3(channels, channels)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [B, C, H, W] to its like."""
        return x + self.second(self.first(x))


class ResidualNetwork(nn.Sequential):
    """A convolution to the blocks' width, residual blocks, and a convolution to the output's, which starts at zero.

    Args:
        in_channels: Channels of its input.
        out_channels: Channels of its output.
        blocks: Number of residual blocks, from 1 on.
        channels: Their width.
    """

    def __init__(self, in_channels: int, out_channels: int, blocks: int, channels: int) -> None:
        last = conv3x3(channels, out_channels)
        nn.init.zeros_(last.weight)
        super().__init__(BasicConv(in_channels, channels), *(ResidualBlock(channels) for _ in range(blocks)), last)


def at_size_of(features: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Bring images [B, C, k·h, k·w] to the size of features [B, _, h, w] without losing a pixel: [B, C·k², h, w]."""
    return F.pixel_unshuffle(images, images.shape[3] // features.shape[3])
