"""Building blocks shared by the networks: equalised layers, FIR resampling, modulated convolution.

Everything is plain PyTorch; there are no compiled operators. Source: StyleGAN2 (Karras et al., 2020, config F) and
SDIC (arXiv 2312.07079), section 3.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

import torch
import torch.nn.functional as F
from torch import nn

LayerT = TypeVar("LayerT", bound=nn.Module)

Convolution = nn.Conv2d | nn.ConvTranspose2d | nn.Conv3d | nn.ConvTranspose3d
BatchNorm = nn.BatchNorm2d | nn.BatchNorm3d

LEAKY_GAIN = math.sqrt(2.0)
"""StyleGAN2 multiplies every leaky ReLU by this, so that the variance of its input survives."""


def scaled_leaky_relu(x: torch.Tensor) -> torch.Tensor:
    """Leaky ReLU with slope 0.2, times the square root of 2; any shape."""
    return F.leaky_relu(x, 0.2) * LEAKY_GAIN


class LayerList(nn.ModuleList, Generic[LayerT]):
    """An `nn.ModuleList` of layers of one class, which type checkers then know."""

    if TYPE_CHECKING:

        def __init__(self, modules: Iterable[LayerT] | None = None) -> None: ...

        @overload
        def __getitem__(self, idx: slice) -> LayerList[LayerT]: ...

        @overload
        def __getitem__(self, idx: int) -> LayerT: ...

        def __getitem__(self, idx: int | slice) -> LayerT | LayerList[LayerT]: ...

        def __iter__(self) -> Iterator[LayerT]: ...


class ScaledLeakyReLU(nn.Module):
    """`scaled_leaky_relu` as a module."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the activation to a tensor of any shape."""
        return scaled_leaky_relu(x)


def pixel_norm(z: torch.Tensor) -> torch.Tensor:
    """Scale each row of z [B, Z] to a mean square of 1."""
    return z * torch.rsqrt(z.square().mean(dim=1, keepdim=True) + 1e-8)


def full_precision(x: torch.Tensor) -> torch.autocast:
    """A context in which matrix products stay in float32, whatever autocast says."""
    # Autocast does not know the meta device, where nothing is computed.
    return torch.autocast("cpu" if x.is_meta else x.device.type, enabled=False)


def scale_and_shift(norm: BatchNorm) -> tuple[torch.Tensor, torch.Tensor]:
    """What a BatchNorm in eval mode does to each channel, y = scale * x + shift; both [C], float32."""
    assert norm.running_mean is not None and norm.running_var is not None  # all BatchNorms here track statistics
    scale = norm.weight.float() * torch.rsqrt(norm.running_var.float() + norm.eps)
    return scale, norm.bias.float() - norm.running_mean.float() * scale


class EqualizedLinear(nn.Module):
    """Linear layer with weights scaled at run time by `learning_rate_multiplier / sqrt(in_features)`.

    Computes in float32, whatever the weights are stored in: mapping, modulation and the encoder's last layer are
    cheap, and latents lose too much in half precision.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias_init: float = 0.0,
        learning_rate_multiplier: float = 1.0,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_features, in_features) / learning_rate_multiplier)
        self.bias = nn.Parameter(torch.full((out_features,), float(bias_init)))
        self.weight_gain = learning_rate_multiplier / math.sqrt(in_features)
        self.bias_gain = learning_rate_multiplier

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [..., in_features] to float32 [..., out_features]."""
        with full_precision(x):
            return F.linear(x.float(), self.weight.float() * self.weight_gain, self.bias.float() * self.bias_gain)


class EqualizedConv2d(nn.Module):
    """2-D convolution with weights scaled at run time by `1 / sqrt(fan_in)`."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self.weight_gain = 1 / math.sqrt(in_channels * kernel_size**2)
        self.stride, self.padding = stride, padding

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve [B, in_channels, H, W]."""
        return F.conv2d(x, self.weight * self.weight_gain, self.bias, self.stride, self.padding)


class FIRFilter(nn.Module):
    """StyleGAN2's low-pass filter [1, 3, 3, 1] ⊗ [1, 3, 3, 1] / 64, one filter over every channel.

    `gain` is 4 where the filter follows a zero-insertion by 2 (it restores the brightness), else 1.
    """

    kernel: torch.Tensor

    def __init__(self, gain: float = 1.0) -> None:
        super().__init__()
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=torch.float32)
        # Derived from constants alone, hence not part of any checkpoint.
        self.register_buffer("kernel", torch.outer(taps, taps)[None, None] / 64 * gain, persistent=False)

    def depthwise_kernel(self, x: torch.Tensor) -> torch.Tensor:
        """The filter for each channel of x [B, C, H, W]: [C, 1, 4, 4]."""
        return self.kernel.to(x.dtype).expand(x.shape[1], 1, 4, 4)

    def forward(self, x: torch.Tensor, padding: int) -> torch.Tensor:
        """Filter [B, C, H, W] with zero padding on all sides, to [B, C, H + 2·padding − 3, W + 2·padding − 3]."""
        if _wants_gradient(x):
            return _Filtered.apply(x, self.kernel, padding)
        return F.conv2d(x, self.depthwise_kernel(x), padding=padding, groups=x.shape[1])

    def upsample(self, x: torch.Tensor) -> torch.Tensor:
        """Zero-insert by 2 and filter with padding (2, 1): [B, C, H, W] to [B, C, 2H, 2W]; wants `gain=4`."""
        if _wants_gradient(x):
            return _Upsampled.apply(x, self.kernel)
        return F.conv_transpose2d(x, self.depthwise_kernel(x), stride=2, padding=1, groups=x.shape[1])

    def downsample(self, x: torch.Tensor) -> torch.Tensor:
        """Filter with padding 1 and keep every other row and column: [B, C, H, W], both even, to [B, C, H/2, W/2]."""
        if _wants_gradient(x):
            return _Downsampled.apply(x, self.kernel)
        return F.conv2d(x, self.depthwise_kernel(x), stride=2, padding=1, groups=x.shape[1])


# The filter with gradients. Being symmetric, it is its own gradient, up to padding and stride, and so on for every
# further derivative. Said this way, all of them are forward convolutions: PyTorch's backward of a depthwise one takes
# up to thirty times as long on a CPU, and so does a transposed one in bfloat16.


def _wants_gradient(x: torch.Tensor) -> bool:
    return torch.is_grad_enabled() and x.requires_grad


def _filter_each_channel(x: torch.Tensor, kernel: torch.Tensor, padding: int, stride: int = 1) -> torch.Tensor:
    with full_precision(x):  # in the map's own dtype, in both directions
        kernel = kernel.to(x.dtype).expand(x.shape[1], 1, 4, 4)
        return F.conv2d(x, kernel, stride=stride, padding=padding, groups=x.shape[1])


class _FIRFunction(torch.autograd.Function):
    """Gives every filter its type: `torch.autograd.Function.apply` is not annotated."""

    if TYPE_CHECKING:

        @classmethod
        def apply(cls, *args: Any) -> torch.Tensor: ...


class _Filtered(_FIRFunction):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, kernel: torch.Tensor, padding: int) -> torch.Tensor:
        ctx.kernel, ctx.padding = kernel, padding
        return _filter_each_channel(x, kernel, padding)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return _Filtered.apply(gradient, ctx.kernel, 3 - ctx.padding), None, None


class _Downsampled(_FIRFunction):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
        ctx.kernel = kernel
        return _filter_each_channel(x, kernel, padding=1, stride=2)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return _Upsampled.apply(gradient, ctx.kernel), None


class _Upsampled(_FIRFunction):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
        ctx.kernel = kernel
        batch, channels, height, width = x.shape
        inserted = x.new_zeros(batch, 2 * height, 2 * width, channels).permute(0, 3, 1, 2)  # channels last
        inserted[:, :, ::2, ::2] = x
        return _filter_each_channel(inserted, kernel, padding=2)[:, :, :-1, :-1]

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return _Downsampled.apply(gradient, ctx.kernel), None


class ModulatedConv2d(nn.Module):
    """StyleGAN2's modulated convolution, without per-sample weights.

    Modulating the weights by a style s and demodulating them equals scaling the input by s, convolving once with the
    shared weights, and scaling the output by the demodulation (StyleGAN2, appendix B), so that a batch is one
    convolution. With `upsample`, the convolution is transposed with stride 2 and followed by the FIR filter.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        style_width: int,
        demodulate: bool = True,
        upsample: bool = False,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel_size, kernel_size))
        self.modulation = EqualizedLinear(style_width, in_channels, bias_init=1.0)
        self.weight_gain = 1 / math.sqrt(in_channels * kernel_size**2)
        self.demodulate = demodulate
        self.blur = FIRFilter(gain=4.0) if upsample else None

    def demodulation(self, style: torch.Tensor) -> torch.Tensor:
        """Reciprocal norm of each output channel's modulated weights: style [B, in] to float32 [B, out]."""
        with full_precision(style):
            # One product over inputs and taps together: three times as fast as summing the squares over taps first.
            squares = self.weight.float().square().flatten(1)
            factors = (style.float() * self.weight_gain).square()
            factors = factors[:, :, None].expand(-1, -1, self.weight[0, 0].numel()).flatten(1)
            return torch.rsqrt(factors @ squares.T + 1e-8)

    def forward(self, x: torch.Tensor, style: torch.Tensor) -> torch.Tensor:
        """Convolve x [B, in, H, W] modulated by style [B, in] (the output of `self.modulation`)."""
        if self.demodulate and x.dtype == torch.float16:
            # Demodulation cancels the style's scale; without this the products overflow in float16.
            style = style / style.abs().amax(dim=1, keepdim=True).clamp_min(1e-8)
        weight = (self.weight * self.weight_gain).to(x.dtype)
        x = x * style[:, :, None, None].to(x.dtype)
        if self.blur is None:
            x = F.conv2d(x, weight, padding=weight.shape[-1] // 2)
        else:
            x = F.conv_transpose2d(x, weight.transpose(0, 1), stride=2)
            x = self.blur(x, padding=1)
        if self.demodulate:
            x = x * self.demodulation(style)[:, :, None, None].to(x.dtype)
        return x


def conv3x3(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    """3x3 convolution with padding 1 and no bias."""
    return nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
