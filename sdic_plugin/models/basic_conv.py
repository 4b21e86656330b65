"""BasicConv, the building block of DIPN and DICN (SDIC, arXiv 2312.07079, section 3)."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from sdic_plugin.models.cpu.inference import fast_conv_norm, norm_folds
from sdic_plugin.models.cpu.packing import FusableConv, FusedConv2d
from sdic_plugin.models.layers import BatchNorm, Convolution, full_precision

CONVOLUTIONS: dict[tuple[int, bool], Callable[..., Convolution]] = {
    (2, False): nn.Conv2d,
    (2, True): nn.ConvTranspose2d,
    (3, False): nn.Conv3d,
    (3, True): nn.ConvTranspose3d,
}
"""By dimensions, and whether it is transposed."""

UNSAFE_DEPTH = 2
"""Depth of volumes for which oneDNN's bfloat16 backward of a 3-D convolution uses memory that it never wrote.

Seen with torch 2.13 on AVX-512 BF16 CPUs, as gradients that are not finite. Such volumes are small: float32 costs next
to nothing.
"""


class BasicConv(nn.Module):
    """Convolution without bias, BatchNorm, LeakyReLU(0.01), in 2-D or 3-D (SDIC's building block).

    Padding keeps the size at stride 1. A `transposed` block has kernel 4, stride 2, padding 1: it doubles every axis.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, ...] = 3,
        stride: int = 1,
        dimensions: int = 2,
        transposed: bool = False,
    ) -> None:
        super().__init__()
        if transposed:
            kernel_size, stride = (4,) * dimensions, 2
        elif isinstance(kernel_size, int):
            kernel_size = (kernel_size,) * dimensions
        padding = (1,) * dimensions if transposed else tuple(size // 2 for size in kernel_size)
        convolution = CONVOLUTIONS[dimensions, transposed]
        self.conv = convolution(in_channels, out_channels, kernel_size, stride, padding, bias=False)
        self.norm: BatchNorm = (nn.BatchNorm2d if dimensions == 2 else nn.BatchNorm3d)(out_channels)

    def fusable_convs(self) -> list[FusableConv]:
        """The convolution, where it is 2-D and not transposed, with its norm."""
        if isinstance(self.conv, nn.Conv2d) and isinstance(self.norm, nn.BatchNorm2d):
            return [FusableConv(self.conv, self.norm)]
        return []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the block to [B, in_channels, (D,) H, W]; where that must be float32 under autocast, it is."""
        unsafe = x.ndim == 5 and x.shape[2] == UNSAFE_DEPTH and not x.is_meta
        if unsafe and torch.is_autocast_enabled(x.device.type):
            with full_precision(x):
                return self._apply_layers(x.float())
        return self._apply_layers(x)

    def _apply_layers(self, x: torch.Tensor) -> torch.Tensor:
        if isinstance(self.conv, FusedConv2d):
            return self.conv(x, slope=0.01)
        if norm_folds(self.conv, self.norm, x):
            return F.leaky_relu_(fast_conv_norm(self.conv, self.norm, x), 0.01)
        return F.leaky_relu(self.norm(self.conv(x)), 0.01)
