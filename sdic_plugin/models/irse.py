"""IR-SE bottlenecks: the residual unit of ArcFace's IR-SE-50, shared by the encoder and DIPN's head."""

from __future__ import annotations

from typing import cast

import torch
from torch import nn

from sdic_plugin.models.cpu.packing import FusableConv, conv_block
from sdic_plugin.models.layers import conv3x3


class SqueezeExcitation(nn.Module):
    """Channel attention: global mean, two 1x1 convolutions without bias (reduction 16), sigmoid."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, max(channels // reduction, 1), 1, bias=False)
        self.fc2 = nn.Conv2d(max(channels // reduction, 1), channels, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scale each channel of [B, C, H, W]."""
        attention = x.mean(dim=(2, 3), keepdim=True)
        return x * torch.sigmoid(self.fc2(torch.relu(self.fc1(attention))))


class IRSEUnit(nn.Module):
    """One IR-SE bottleneck: shortcut + [BN, conv, PReLU, strided conv, BN, squeeze-excitation]."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, squeeze_excitation: bool = True) -> None:
        super().__init__()
        self.stride = stride
        self.shortcut: nn.Sequential | None = None
        if in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.conv1 = conv3x3(in_channels, out_channels)
        self.activation = nn.PReLU(out_channels)
        self.conv2 = conv3x3(out_channels, out_channels, stride)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.squeeze_excitation = SqueezeExcitation(out_channels) if squeeze_excitation else None

    def fusable_convs(self) -> list[FusableConv]:
        """All convolutions but those of the attention, which are tiny."""
        own = [FusableConv(self.conv1), FusableConv(self.conv2, self.norm2)]
        if self.shortcut is None:
            return own
        conv, norm = cast("tuple[nn.Conv2d, nn.BatchNorm2d]", tuple(self.shortcut))
        return [*own, FusableConv(conv, norm)]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [B, in, H, W] to [B, out, H/stride, W/stride]."""
        if self.shortcut is None:
            shortcut = x[:, :, :: self.stride, :: self.stride]
        else:
            shortcut = conv_block(self.shortcut[0], x, norm=self.shortcut[1])
        x = self.activation(conv_block(self.conv1, self.norm1(x)))
        x = conv_block(self.conv2, x, norm=self.norm2)
        if self.squeeze_excitation is not None:
            x = self.squeeze_excitation(x)
        return x + shortcut


def irse_stage(in_channels: int, out_channels: int, units: int) -> list[IRSEUnit]:
    """One stage: `units` bottlenecks, the first of them with stride 2."""
    return [IRSEUnit(in_channels if i == 0 else out_channels, out_channels, 2 if i == 0 else 1) for i in range(units)]
