"""The networks' layers without gradients, on the CPU: the same results in fewer passes over the feature maps.

At high resolutions the networks are bound by memory as much as by arithmetic, and new memory costs more than what is
done in it: whatever reads and writes a whole map once more is worth saving. Four things are done here (a fifth, for
bfloat16 and on request, in `sdic_plugin.models.cpu.packing`):

- *styles*: a StyleGAN2 layer scales its input by the style, its output by the demodulation, adds bias and noise, and
  activates. Here style, demodulation and the activation's gain go into the weights, one photo at a time, the bias
  into the convolution (the FIR filter's, where there is one), and noise and activation work in place: what leaky ReLU
  gets may be scaled before it, as it is homogeneous. Below `SMALLEST_MAP` the weights are larger than the map, and
  the layer's own order stays.
- *norms*: a BatchNorm that follows a convolution goes into its weights and bias, and the activation works in place.
  It is done anew in every pass, and only where the weights are smaller than the map, so that parameters never change.
- *layout*: the generator's maps and DIPN's volumes lie channels last, which convolutions of few channels are faster
  on.
- *volumes*: DIPN's 3-D convolutions ask for oneDNN by name (torch has a slow way of its own for small volumes); the
  one from one channel is a 2-D convolution over each slice and its neighbours, the one to one channel is a plain
  convolution.

The layers' own `forward` says what is computed; tests compare both, `sdic_plugin.benchmarks.optimizations` times each.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from sdic_plugin.models.cpu.fast_path import fast_path_applies
from sdic_plugin.models.cpu.packing import FusedModulatedConv2d, packing_applies
from sdic_plugin.models.layers import LEAKY_GAIN, BatchNorm, Convolution, FIRFilter, ModulatedConv2d, scale_and_shift

SMALLEST_MAP = 128
"""Side of the feature map, in pixels, from which styles are folded into the weights."""

LEAKY_SLOPE = 0.2
"""Negative slope of StyleGAN2's leaky ReLU."""


def fast_layout(x: torch.Tensor) -> torch.Tensor:
    """Lay a map [B, C, (D,) H, W] out channels last, which the layers then keep."""
    if not fast_path_applies(x, "layout"):
        return x
    return x.contiguous(memory_format=torch.channels_last if x.ndim == 4 else torch.channels_last_3d)


def fast_styled_conv(
    conv: ModulatedConv2d,
    bias: torch.Tensor,
    noise_strength: torch.Tensor,
    x: torch.Tensor,
    style: torch.Tensor,
    noise: torch.Tensor | None,
) -> torch.Tensor:
    """Do what the `forward` of a `StyledConv` of these parts does: [B, in, H, W] to [B, out, R, R]."""
    side = x.shape[3] if conv.blur is None else 2 * x.shape[3]
    bias = (bias * LEAKY_GAIN).to(x.dtype)
    if side >= SMALLEST_MAP:
        folded = folded_weights(conv, style, LEAKY_GAIN, x.dtype)
        maps = [_convolve(conv, x[i : i + 1], folded[i], bias) for i in range(len(folded))]
        x = maps[0] if len(maps) == 1 else torch.cat(maps)
    else:
        if x.dtype == torch.float16:
            style = style / style.abs().amax(dim=1, keepdim=True).clamp_min(1e-8)  # see ModulatedConv2d
        x = x * (style * conv.weight_gain)[:, :, None, None].to(x.dtype)
        if isinstance(conv, FusedModulatedConv2d) and packing_applies(x):
            x, demodulation = conv.convolve(x, style)
        else:
            conv = conv.plain if isinstance(conv, FusedModulatedConv2d) else conv
            demodulation = conv.demodulation(style)
            x = _convolve(conv, x, conv.weight.to(x.dtype), None)
        x = x.mul_((demodulation * LEAKY_GAIN)[:, :, None, None].to(x.dtype)).add_(bias[:, None, None])
    if noise is not None:
        x.add_((noise_strength * LEAKY_GAIN * noise).to(x.dtype))
    return F.leaky_relu_(x, LEAKY_SLOPE)


def fast_to_rgb(
    conv: ModulatedConv2d,
    bias: torch.Tensor,
    upsample: FIRFilter,
    x: torch.Tensor,
    style: torch.Tensor,
    image: torch.Tensor | None,
) -> torch.Tensor:
    """Do what the `forward` of a `ToRGB` of these parts does.

    Maps [B, in, R, R] to float32 [B, 3, R, R], on top of `image` [B, 3, R/2, R/2] if there is one.
    """
    folded = folded_weights(conv, style, 1.0, x.dtype)
    bias = bias.to(x.dtype)
    maps = [F.conv2d(x[i : i + 1], folded[i], bias).float() for i in range(len(folded))]
    rgb = maps[0] if len(maps) == 1 else torch.cat(maps)
    return rgb if image is None else rgb.add_(upsample.upsample(image))


def folded_weights(conv: ModulatedConv2d, style: torch.Tensor, gain: float, dtype: torch.dtype) -> torch.Tensor:
    """Weights for each photo, with its style [B, in], demodulation and a gain in them: [B, out, in, k, k]."""
    weight = conv.weight.float() * (style.float() * conv.weight_gain)[:, None, :, None, None]
    gains = gain * conv.demodulation(style)[:, :, None, None, None] if conv.demodulate else gain
    return (weight * gains).to(dtype)


def _convolve(conv: ModulatedConv2d, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Convolve with weights [out, in, k, k] that are ready, upsampling where the layer does; add a bias [out]."""
    if conv.blur is None:
        return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2)
    x = F.conv_transpose2d(x, weight.transpose(0, 1), stride=2)
    return F.conv2d(x, conv.blur.depthwise_kernel(x), bias, padding=1, groups=x.shape[1])


def norm_folds(conv: Convolution, norm: BatchNorm, x: torch.Tensor) -> bool:
    """Whether a BatchNorm goes into the convolution before it: in eval mode, where the weights are smaller than x."""
    return fast_path_applies(x, "norms") and not norm.training and conv.weight.numel() < x.numel()


def fast_conv_norm(conv: Convolution, norm: BatchNorm, x: torch.Tensor) -> torch.Tensor:
    """Do what a convolution without bias and the BatchNorm after it do, in 2-D or 3-D, transposed or not."""
    scale, shift = scale_and_shift(norm)
    bias = shift.to(x.dtype)
    shape = [1] * conv.weight.ndim
    shape[1 if conv.transposed else 0] = -1
    weight = (conv.weight.float() * scale.view(shape)).to(x.dtype)
    padding = conv.padding
    assert not isinstance(padding, str)  # BasicConv gives numbers
    if weight.ndim == 4:
        return (F.conv_transpose2d if conv.transposed else F.conv2d)(x, weight, bias, conv.stride, padding)
    if conv.transposed:
        return F.conv_transpose3d(x, weight, bias, conv.stride, padding)
    return _convolve_volume(x, weight, bias, conv.stride, padding)


def _convolve_volume(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, stride: tuple[int, ...], padding: tuple[int, ...]
) -> torch.Tensor:
    """Do what `F.conv3d` does on [B, C, D, H, W]."""
    if fast_path_applies(x, "volumes"):
        if weight.shape[1:] == (1, 3, 3, 3) and stride == padding == (1, 1, 1):
            return _convolve_slices(x, weight, bias)
        if torch.backends.mkldnn.is_available() and x.dtype == torch.float32:
            return torch.mkldnn_convolution(x, weight, bias, padding, stride, (1, 1, 1), 1)
    return F.conv3d(x, weight, bias, stride, padding)


def _convolve_slices(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Convolve [B, 1, D, H, W] by [out, 1, 3, 3, 3], stride 1 and padding 1: the slices are the batch of a 2-D one."""
    batch, _, depth = x.shape[:3]
    padded = F.pad(x[:, 0], (0, 0, 0, 0, 1, 1))
    slices = fast_layout(padded.unfold(1, 3, 1).permute(0, 1, 4, 2, 3).flatten(0, 1))
    slices = F.conv2d(slices, weight[:, 0], bias, padding=1)
    return slices.unflatten(0, (batch, depth)).transpose(1, 2)


def upsample_volume(conv: nn.ConvTranspose3d, x: torch.Tensor) -> torch.Tensor:
    """Do what a transposed convolution to one channel does, kernel 4, stride 2, padding 1: double [B, C, D, H, W].

    Along each axis, an even cell of the result sees two cells of x, and so does an odd one. Both are outputs of one
    plain convolution of kernel 3, eight in all, which are then put side by side.
    """
    if not fast_path_applies(x, "volumes"):
        return conv(x)
    seen = conv.weight.new_zeros(2, 3, 4)  # even or odd; tap of the plain kernel; tap of the transposed one
    seen[0, 0, 3] = seen[0, 1, 1] = seen[1, 1, 2] = seen[1, 2, 0] = 1
    weight = torch.einsum("ioxyz,pax,qby,rcz->opqriabc", conv.weight, seen, seen, seen).flatten(0, 3)
    cells = _convolve_volume(x, weight, None, (1, 1, 1), (1, 1, 1)).unflatten(1, (2, 2, 2))
    cells = cells.permute(0, 4, 1, 5, 2, 6, 3)
    return cells.flatten(5, 6).flatten(3, 4).flatten(1, 2)[:, None]
