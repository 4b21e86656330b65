"""Weights in oneDNN's own layout, kept from pass to pass: bfloat16 without gradients, on CPUs that compute it.

oneDNN rearranges a convolution's weights in every call. Where the weights are larger than the map (the encoder's
heads, the generator's first blocks), that costs bfloat16 what it saves in products, so they are kept rearranged here,
with the BatchNorm after them in them, and what demodulation needs of them. The price is memory: a second copy of
those weights.

Copies are kept beside the modules, never in them: saving, copying and moving see parameters alone, and a module that
goes takes its copy along. A copy is made anew when a parameter has another address or version, or when the
weight differs at one of `SAMPLES` places, as it does after writing through `.data`, which changes neither (moving
averages, merged adapters).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import nn

from sdic_plugin.models.fast_path import fast_path_applies
from sdic_plugin.models.layers import ModulatedConv2d, scale_and_shift

SAMPLES = 64
"""Values of a weight that are compared before its copy is used."""


class _Kept(NamedTuple):
    """What was made of a module's weights, and how these were then."""

    identities: tuple[tuple[int, int | None], ...]
    samples: torch.Tensor
    made: tuple[torch.Tensor, torch.Tensor | None]


_kept: WeakKeyDictionary[nn.Module, _Kept] = WeakKeyDictionary()


@cache
def _supported() -> bool:
    """Whether this CPU and this torch have what is needed; the operators are those that torch.compile calls."""
    operators = ("_convolution_pointwise", "_convolution_transpose_pointwise", "_reorder_convolution_transpose_weight")
    return (
        torch.backends.mkldnn.is_available()
        and hasattr(torch._C._nn, "mkldnn_reorder_conv2d_weight")
        and all(hasattr(torch.ops.mkldnn, name) for name in operators)
        and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )


def packing_applies(x: torch.Tensor) -> bool:
    """Whether a network that gets x packs weights."""
    return x.dtype == torch.bfloat16 and fast_path_applies(x, "packing") and _supported()


def packs(conv: nn.Module, x: torch.Tensor, norm: nn.Module | None = None) -> bool:
    """Whether a 2-D convolution of a map, with the BatchNorm after it, is done by `packed_conv`."""
    weight = conv.weight
    pays = x.ndim == 4 and weight.numel() >= x.numel() and not getattr(conv, "transposed", False)
    return pays and packing_applies(x) and (norm is None or not norm.training)


def packed_layout(x: torch.Tensor) -> torch.Tensor:
    """Lay a map [B, C, H, W] out as packed convolutions want it, channels last, where they are used."""
    return x.contiguous(memory_format=torch.channels_last) if packing_applies(x) else x


def conv_block(
    conv: nn.Conv2d, x: torch.Tensor, norm: nn.Module | None = None, slope: float | None = None
) -> torch.Tensor:
    """Convolution, then BatchNorm and leaky ReLU where given: [B, in, H, W] to [B, out, H', W']."""
    if packs(conv, x, norm):
        return packed_conv(conv, x, norm, slope)
    x = conv(x)
    if norm is not None:
        x = norm(x)
    return x if slope is None else F.leaky_relu(x, slope)


def packed_conv(
    conv: nn.Conv2d, x: torch.Tensor, norm: nn.Module | None = None, slope: float | None = None
) -> torch.Tensor:
    """Do what `conv_block` says, in one call on packed weights."""

    def make() -> tuple[torch.Tensor, torch.Tensor | None]:
        weight, bias = conv.weight.float(), conv.bias
        if norm is not None:
            scale, shift = scale_and_shift(norm)
            bias = shift if bias is None else bias.float() * scale + shift
            weight = weight * scale[:, None, None, None]
        return _packed(weight.to(x.dtype), x, conv.stride, conv.padding), None if bias is None else bias.to(x.dtype)

    sources = [conv.bias] if norm is None else [conv.bias, norm.weight, norm.bias, norm.running_mean, norm.running_var]
    weight, bias = _keep(conv, sources, make)
    activation = ("none", []) if slope is None else ("leaky_relu", [slope])
    geometry = conv.padding, conv.stride, conv.dilation, conv.groups
    return torch.ops.mkldnn._convolution_pointwise(x, weight, bias, *geometry, *activation, "")


def packed_modulated_conv(
    conv: ModulatedConv2d, x: torch.Tensor, style: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Convolve a map that is styled already, and filter it where the layer upsamples.

    Returns:
        The map, and the demodulation [B, out] of the style [B, in], float32.
    """

    def make() -> tuple[torch.Tensor, torch.Tensor]:
        squares = conv.weight.float().square().sum(dim=(2, 3))
        weight = conv.weight.to(x.dtype)
        if conv.blur is None:
            return _packed(weight, x, (1, 1), (weight.shape[-1] // 2,) * 2), squares
        reorder = torch.ops.mkldnn._reorder_convolution_transpose_weight
        inputs_first = weight.transpose(0, 1).contiguous()
        return reorder(inputs_first, [0, 0], [0, 0], [2, 2], [1, 1], 1, list(x.shape)), squares

    weight, squares = _keep(conv, [], make)
    demodulation = torch.rsqrt((style.float() * conv.weight_gain).square() @ squares.T + 1e-8)
    if conv.blur is None:
        padding = [conv.weight.shape[-1] // 2] * 2
        x = torch.ops.mkldnn._convolution_pointwise(x, weight, None, padding, [1, 1], [1, 1], 1, "none", [], "")
    else:
        transposed = torch.ops.mkldnn._convolution_transpose_pointwise
        x = conv.blur(transposed(x, weight, None, [0, 0], [0, 0], [2, 2], [1, 1], 1, "none", [], ""), padding=1)
    return x, demodulation


def _packed(weight: torch.Tensor, x: torch.Tensor, stride: tuple[int, ...], padding: tuple[int, ...]) -> torch.Tensor:
    return torch._C._nn.mkldnn_reorder_conv2d_weight(weight.to_mkldnn(), padding, stride, (1, 1), 1, list(x.shape))


def _keep(
    conv: nn.Module,
    sources: list[torch.Tensor | None],
    make: Callable[[], tuple[torch.Tensor, torch.Tensor | None]],
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return what was made of a module's weight and the other sources, made anew if any of them changed."""
    tensors = [conv.weight, *(source for source in sources if source is not None)]
    # Tensors made in inference mode have no version, and cannot be written to outside of it.
    identities = tuple((each.data_ptr(), None if each.is_inference() else each._version) for each in tensors)
    weight = conv.weight.detach()
    samples = weight.as_strided((min(SAMPLES, weight.numel()),), (max(1, weight.numel() // SAMPLES),))
    kept = _kept.get(conv)
    if kept is None or kept.identities != identities or not torch.equal(kept.samples, samples):
        kept = _kept[conv] = _Kept(identities, samples.clone(), make())
    return kept.made
