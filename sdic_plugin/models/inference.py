"""The generator's layers without gradients, on the CPU: the same results in fewer passes over the feature maps.

At high resolutions a StyleGAN2 layer is bound by memory as much as by arithmetic: scaling the input by its style, the
output by the demodulation, adding bias and noise, and the activation each read and write the whole map. Here style,
demodulation and the activation's gain go into the weights, one photo at a time, the bias into the convolution (the FIR
filter's, where there is one), and noise and activation work in place: what leaky ReLU gets may be scaled before it, as
it is homogeneous. Below `SMALLEST_MAP` the weights are larger than the map, and the layer's own order stays.

`StyledConv.forward` and `ToRGB.forward` say what is computed; tests compare both.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F

from sdic_plugin.models.layers import LEAKY_GAIN, ModulatedConv2d

SMALLEST_MAP = 128
"""Side of the feature map, in pixels, from which styles are folded into the weights."""

LEAKY_SLOPE = 0.2

_enabled = True


@contextmanager
def plain_layers() -> Iterator[None]:
    """Within this context layers compute as their own `forward` says; for tests and benchmarks, of one thread."""
    global _enabled
    _enabled = False
    try:
        yield
    finally:
        _enabled = True


def fast_path_applies(x: torch.Tensor) -> bool:
    """Whether this path may stand in for the layers' own: nothing is recorded, traced or compiled."""
    return (
        _enabled
        and not torch.is_grad_enabled()
        and x.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
    )


def fast_styled_conv(
    layer: torch.nn.Module, x: torch.Tensor, style: torch.Tensor, noise: torch.Tensor | None
) -> torch.Tensor:
    """Do what `StyledConv.forward` does: [B, in, H, W] to [B, out, R, R]."""
    upsample = layer.conv.blur is not None
    side = 2 * x.shape[3] if upsample else x.shape[3]
    bias = (layer.bias * LEAKY_GAIN).to(x.dtype)
    if side >= SMALLEST_MAP:
        folded = folded_weights(layer.conv, style, LEAKY_GAIN, x.dtype)
        maps = [_convolve(layer.conv, x[i : i + 1], folded[i], bias) for i in range(len(folded))]
        x = maps[0] if len(maps) == 1 else torch.cat(maps)
    else:
        if x.dtype == torch.float16:
            style = style / style.abs().amax(dim=1, keepdim=True).clamp_min(1e-8)  # see ModulatedConv2d
        scale = (layer.conv.demodulation(style) * LEAKY_GAIN)[:, :, None, None].to(x.dtype)
        x = x * (style * layer.conv.weight_gain)[:, :, None, None].to(x.dtype)
        x = _convolve(layer.conv, x, layer.conv.weight.to(x.dtype), None).mul_(scale).add_(bias[:, None, None])
    if noise is not None:
        x.add_((layer.noise_strength * LEAKY_GAIN * noise).to(x.dtype))
    return F.leaky_relu_(x, LEAKY_SLOPE)


def fast_to_rgb(
    layer: torch.nn.Module, x: torch.Tensor, style: torch.Tensor, image: torch.Tensor | None
) -> torch.Tensor:
    """Do what `ToRGB.forward` does: [B, in, R, R] to float32 [B, 3, R, R], on top of `image` [B, 3, R/2, R/2]."""
    folded = folded_weights(layer.conv, style, 1.0, x.dtype)
    bias = layer.bias.to(x.dtype)
    maps = [F.conv2d(x[i : i + 1], folded[i], bias).float() for i in range(len(folded))]
    rgb = maps[0] if len(maps) == 1 else torch.cat(maps)
    return rgb if image is None else rgb.add_(layer.upsample.upsample(image))


def folded_weights(conv: ModulatedConv2d, style: torch.Tensor, gain: float, dtype: torch.dtype) -> torch.Tensor:
    """Weights for each photo, with its style [B, in], demodulation and a gain in them: [B, out, in, k, k]."""
    weight = conv.weight.float() * (style.float() * conv.weight_gain)[:, None, :, None, None]
    if conv.demodulate:
        gain = gain * conv.demodulation(style)[:, :, None, None, None]
    return (weight * gain).to(dtype)


def fast_layout(x: torch.Tensor) -> torch.Tensor:
    """Lay a map out channels last, which the layers then keep: convolutions and the FIR filter are faster on it."""
    return x.contiguous(memory_format=torch.channels_last) if fast_path_applies(x) else x


def _convolve(conv: ModulatedConv2d, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Convolve with weights [out, in, k, k] that are ready, upsampling where the layer does; add a bias [out]."""
    if conv.blur is None:
        return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2)
    x = F.conv_transpose2d(x, weight.transpose(0, 1), stride=2)
    return F.conv2d(x, conv.blur.depthwise_kernel(x), bias, padding=1, groups=x.shape[1])
