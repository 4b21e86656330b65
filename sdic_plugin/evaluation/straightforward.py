"""A straightforward StyleGAN2 synthesis in plain PyTorch: the baseline that `sdic bench` compares with.

Every photo has weights of its own (one grouped convolution over the batch), and the FIR filter is one single-channel
convolution per map, as in the plain-PyTorch fallbacks of StyleGAN2 code. It takes our generator's weights.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from sdic_plugin.models import StyleGAN2Generator
from sdic_plugin.models.layers import FIRFilter, ModulatedConv2d
from sdic_plugin.models.stylegan2 import StyledConv, ToRGB


def synthesize(generator: StyleGAN2Generator, latents: torch.Tensor) -> torch.Tensor:
    """Render W+ latents [B, num_styles, D] with the stored noise: [B, 3, R, R], about [-1, 1]."""
    x, image = generator.blocks[0].constant.expand(len(latents), -1, -1, -1), None
    styles = iter(generator.styles(latents))
    for block in generator.blocks:
        for layer in block.styled_convs():
            x = _styled_conv(layer, x, next(styles))
        image = _to_rgb(block.to_rgb, x, next(styles), image)
    assert image is not None  # every generator has a block
    return image


def _styled_conv(layer: StyledConv, x: torch.Tensor, style: torch.Tensor) -> torch.Tensor:
    x = _modulated_conv(layer.conv, x, style)
    x = x + layer.noise_strength * layer.noise
    return F.leaky_relu(x + layer.bias[:, None, None], 0.2) * 2**0.5


def _to_rgb(layer: ToRGB, x: torch.Tensor, style: torch.Tensor, image: torch.Tensor | None) -> torch.Tensor:
    rgb = _modulated_conv(layer.conv, x, style) + layer.bias[:, None, None]
    return rgb if image is None else rgb + _filter(layer.upsample, _insert_zeros(image), (2, 1))


def _modulated_conv(conv: ModulatedConv2d, x: torch.Tensor, style: torch.Tensor) -> torch.Tensor:
    batch, channels, height, width = x.shape
    weight = conv.weight * conv.weight_gain * style[:, None, :, None, None]
    if conv.demodulate:
        weight = weight * torch.rsqrt(weight.square().sum(dim=(2, 3, 4), keepdim=True) + 1e-8)
    x, weight = x.reshape(1, batch * channels, height, width), weight.to(x.dtype)
    if conv.blur is None:
        x = F.conv2d(x, weight.flatten(0, 1), padding=weight.shape[-1] // 2, groups=batch)
    else:
        x = F.conv_transpose2d(x, weight.transpose(1, 2).flatten(0, 1), stride=2, groups=batch)
    x = x.reshape(batch, -1, *x.shape[2:])
    return x if conv.blur is None else _filter(conv.blur, x, (1, 1))


def _insert_zeros(x: torch.Tensor) -> torch.Tensor:
    batch, channels, height, width = x.shape
    wide = F.pad(x.reshape(batch, channels, height, 1, width, 1), (0, 1, 0, 0, 0, 1))
    return wide.reshape(batch, channels, 2 * height, 2 * width)


def _filter(fir: FIRFilter, x: torch.Tensor, padding: tuple[int, int]) -> torch.Tensor:
    """Filter every map alone, padded by so many zeros before and after."""
    maps = F.pad(x.flatten(0, 1)[:, None], padding * 2)
    maps = F.conv2d(maps, fir.kernel.to(x.dtype))
    return maps.reshape(*x.shape[:2], *maps.shape[2:])
