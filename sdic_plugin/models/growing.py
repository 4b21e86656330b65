"""Trained networks at another resolution or width, which begin by computing what they did before.

**Growing** a generator adds synthesis blocks whose ToRGB is zero: the picture is exactly the old one, upsampled by the
generator's own FIR filter. Rows of W+ and layers of StyleSpace keep their numbers, so that edits of the old generator
do to the new one what they did (`Edit.resized` gives them the rows that are missing).

Growing a discriminator puts blocks in front. A new block carries the colours through its convolutions as pairs of
channels of opposite sign, from which what is linear survives leaky ReLUs; its last convolution halves the picture with
a small filter and computes on it what the old `from_rgb` computed. So the old layers get exactly what they would get
of the *halved* picture. What is not exact is the filter (`HALVING`): halving what was upsampled gives nearly the
picture before. The block's other weights are free to learn: those that look at the picture start at random, those that
tell the old layers of it at zero.

**Shrinking** leaves the last blocks of a generator out; its picture is what the others had drawn, the skip image. Of a
discriminator the first blocks go, and a new `from_rgb` makes of each colour about what they made of areas in that
colour. How they saw edges and texture is lost, so that its scores are those of another discriminator at first.

**Widening** gives blocks more channels. The weights that make the new channels start at random, those with which old
channels depend on new ones at zero, where demodulation does not see them either. Pictures and scores stay what they
were up to rounding (with a wider 4x4 block of a discriminator up to about 1e-4, see `_put_end`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TypeVar

import torch
from diffusers.models.modeling_utils import ModelMixin
from torch import nn

from sdic_plugin.errors import SDICError
from sdic_plugin.models.discriminator import DiscriminatorBlock, StyleGAN2Discriminator, StyleGAN2DiscriminatorConfig
from sdic_plugin.models.layers import LEAKY_GAIN, EqualizedConv2d, EqualizedLinear, ModulatedConv2d, scaled_leaky_relu
from sdic_plugin.models.stylegan2 import (
    StyledConv,
    StyleGAN2Generator,
    StyleGAN2GeneratorConfig,
    SynthesisBlock,
    ToRGB,
    channel_table,
    check_geometry,
)

LARGEST = 1024
"""Side of the largest pictures, in pixels."""

HALVING = (-0.75, 2.5, -0.75)
"""Filter, along rows and columns, of the new block's last convolution, after the blur with [1, 3, 3, 1] / 8.

Together they are [-3, 1, 18, 18, 1, -3] / 32. Of a picture upsampled by the generator's filter this makes the one
before, up to [-3, 12, 110, 12, -3] / 128, and of a photo about what Lanczos resampling makes of it. (-1, 3, -1) would
do better on the former, (-0.5, 2, -0.5) on the latter.
"""

SLOPE = 0.2
"""Of leaky ReLUs, for negative values."""

Network = TypeVar("Network", bound=ModelMixin)
Layer = ModulatedConv2d | EqualizedConv2d | EqualizedLinear

# Generators.


@torch.no_grad()
def resize_generator(
    generator: StyleGAN2Generator,
    resolution: int | None = None,
    channels: Mapping[str, int] | None = None,
    feature_resolution: int | None = None,
) -> StyleGAN2Generator:
    """Grow, shrink or widen a generator, see this module's text; new weights come from torch's own random generator.

    Args:
        generator: It stays as it is.
        resolution: Side of its pictures in pixels, a power of two from 8 to 1024; None for what it is.
        channels: Channels by resolution, of blocks to widen and of new ones, such as {"64": 64, "128": 32}. By
            default blocks keep their channels, and new ones have what the published table says (where the generator
            follows it), else half the channels of the block before.
        feature_resolution: Resolution of the hook; None for what it is, or the picture's where that is smaller.

    Returns:
        A new generator of the same latent space (and `generator_id`); the same one if there is nothing to change.

    Raises:
        SDICError: If the resolution makes no sense, a block would get fewer channels than it has, or the hook or the
            rows of content do not fit.
    """
    config = generator.config
    resolution = config.resolution if resolution is None else resolution
    table = resized_table(config, resolution, channels)
    hook = min(config.feature_resolution, resolution) if feature_resolution is None else feature_resolution
    if table == _table_of(config) and hook == config.feature_resolution:
        return generator
    rows = _scaled_rows(config, resolution)
    check_geometry(resolution, hook, rows)
    resized = StyleGAN2Generator(
        resolution=resolution,
        style_width=config.style_width,
        mapping_layers=config.mapping_layers,
        channels=_config_channels(config, table),
        channel_multiplier=config.channel_multiplier,
        feature_resolution=hook,
        content_rows=rows,
        generator_id=config.generator_id,
        source=config.source,
        license=config.license,
    )
    resized.mapping_network.load_state_dict(generator.mapping_network.state_dict())
    resized.w_avg.copy_(generator.w_avg)
    for new, old in zip(resized.blocks, generator.blocks, strict=False):
        _put_synthesis_block(new, old)
    for new in resized.blocks[len(generator.blocks) :]:
        new.to_rgb.conv.weight.zero_()
    return _like(resized, generator)


def _scaled_rows(config: StyleGAN2GeneratorConfig, resolution: int) -> list[int] | None:
    rows = config.content_rows
    if rows is None:
        return None
    if any(row * resolution % config.resolution for row in rows):
        raise SDICError(
            f"content_rows is {list(rows)} of {config.resolution}, which are no whole rows of {resolution} pixels: "
            "choose a larger resolution."
        )
    return [row * resolution // config.resolution for row in rows]


def _put_synthesis_block(new: SynthesisBlock, old: SynthesisBlock) -> None:
    if old.up_conv is None:
        new.constant[:, : old.constant.shape[1]] = old.constant
    for wide, narrow in zip(new.styled_convs(), old.styled_convs(), strict=True):
        _put_styled_conv(wide, narrow)
    _put_to_rgb(new.to_rgb, old.to_rgb)


def _put_styled_conv(new: StyledConv, old: StyledConv) -> None:
    _put_modulated_conv(new.conv, old.conv)
    new.bias[: len(old.bias)] = old.bias
    new.noise_strength.copy_(old.noise_strength)
    new.noise.copy_(old.noise)


def _put_to_rgb(new: ToRGB, old: ToRGB) -> None:
    _put_modulated_conv(new.conv, old.conv)
    new.bias.copy_(old.bias)


def _put_modulated_conv(new: ModulatedConv2d, old: ModulatedConv2d) -> None:
    _put_weights(new, old)
    _put_layer(new.modulation, old.modulation)


# Discriminators.


@torch.no_grad()
def resize_discriminator(
    discriminator: StyleGAN2Discriminator,
    resolution: int | None = None,
    channels: Mapping[str, int] | None = None,
) -> StyleGAN2Discriminator:
    """Grow, shrink or widen a discriminator, see this module's text; new weights come from torch's random generator.

    Args:
        discriminator: It stays as it is.
        resolution: Side of the pictures that it judges, a power of two from 8 to 1024; None for what it is.
        channels: Channels by resolution, as for `resize_generator`. From 6 on a new block hands all colours down.

    Returns:
        A new discriminator; the same one if there is nothing to change.

    Raises:
        SDICError: If the resolution makes no sense, or a block would get fewer channels than it has.
    """
    config = discriminator.config
    resolution = config.resolution if resolution is None else resolution
    table = resized_table(config, resolution, channels)
    if table == _table_of(config):
        return discriminator
    resized = StyleGAN2Discriminator(
        resolution=resolution,
        channels=_config_channels(config, table),
        channel_multiplier=config.channel_multiplier,
    )
    added = len(resized.blocks) - len(discriminator.blocks)
    for new, old in zip(resized.blocks[max(added, 0) :], discriminator.blocks[max(-added, 0) :], strict=True):
        _put_discriminator_block(new, old)
    _put_end(resized, discriminator)
    from_rgb = EqualizedConv2d(3, table[min(resolution, config.resolution)], 1)
    if added >= 0:
        _put_layer(from_rgb, discriminator.from_rgb)
    else:
        _fit_from_rgb(from_rgb, discriminator, -added)
    for block in list(resized.blocks[: max(added, 0)])[::-1]:
        from_rgb = _put_halving(block, from_rgb)
    resized.from_rgb.load_state_dict(from_rgb.state_dict())
    return _like(resized, discriminator)


def _put_discriminator_block(new: DiscriminatorBlock, old: DiscriminatorBlock) -> None:
    _put_layer(new.conv1, old.conv1)
    _put_layer(new.conv2, old.conv2)
    _put_layer(new.skip, old.skip)


def _put_end(new: StyleGAN2Discriminator, old: StyleGAN2Discriminator) -> None:
    """Copy the layers that work on 4x4.

    New channels of the last block's output stay zero, and what reads them is random, not the other way round: their
    deviation over the batch counts in a mean over all channels, where it must not depend on the pictures. (It is 1e-4
    then, see `minibatch_deviation`, and the old layers see 1e-4 more for each time that the channels doubled.)
    """
    channels, before = new.final_conv.weight.shape[0], old.final_conv.weight.shape[0]
    last = new.blocks[-1]
    last.conv2.weight[before:] = 0
    last.skip.weight[before:] = 0
    gain = old.final_conv.weight_gain / new.final_conv.weight_gain
    new.final_conv.weight[:before, :before] = old.final_conv.weight[:, :before] * gain
    new.final_conv.weight[:before, channels] = old.final_conv.weight[:, before] * (gain * channels / before)
    _put_bias(new.final_conv, old.final_conv)
    _put_layer(new.final_linear, old.final_linear)
    _put_layer(new.score, old.score)


def _put_halving(block: DiscriminatorBlock, from_rgb: EqualizedConv2d) -> EqualizedConv2d:
    """Have a new block compute what a `from_rgb` did, of the halved picture; returns the block's own `from_rgb`.

    With colours c (orthonormal, as many as there are pairs of channels for, the most important first), and V, b the
    weights of the old layer: channels hold ±c·x, made anew by the first convolution, and the second one computes
    √2 (V c)ᵀ (c·x) + √2 b, of which leaky ReLU and the division by √2 at the block's end make the old features.
    """
    width = block.conv1.weight.shape[0]
    weights = from_rgb.weight[:, :, 0, 0] * from_rgb.weight_gain
    colours = torch.linalg.svd(weights, full_matrices=False).Vh[: width // 2]
    pairs = 2 * len(colours)
    signs = torch.kron(torch.eye(len(colours)), torch.tensor([[1.0], [-1.0]]))  # [pairs, colours]
    # Leaky ReLU of a, minus that of -a, is this many times a.
    read = signs.T / (LEAKY_GAIN * (1 + SLOPE))

    own = EqualizedConv2d(3, width, 1)
    own.weight[:pairs, :, 0, 0] = signs @ colours / own.weight_gain
    block.conv1.weight[:pairs] = 0
    block.conv1.weight[:pairs, :pairs, 1, 1] = signs @ read / block.conv1.weight_gain
    taps = torch.tensor(HALVING)
    block.conv2.weight.zero_()
    block.conv2.weight[:, :pairs] = (
        (math.sqrt(2) * weights @ colours.T @ read)[:, :, None, None] * torch.outer(taps, taps)
    ) / block.conv2.weight_gain
    _put_bias(block.conv2, from_rgb, math.sqrt(2))
    block.skip.weight.zero_()
    return own


def _fit_from_rgb(from_rgb: EqualizedConv2d, discriminator: StyleGAN2Discriminator, blocks: int) -> None:
    """Fit a layer to what the discriminator's own `from_rgb` and first blocks make of areas of one colour."""
    levels = torch.linspace(-1, 1, 6)
    colours = torch.cartesian_prod(levels, levels, levels)
    side = 16 * 2**blocks  # so that zeros beyond the edges do not reach the middle
    wanted = []
    for batch in colours.to(discriminator.device, discriminator.dtype).split(27):
        x = scaled_leaky_relu(discriminator.from_rgb(batch[:, :, None, None].expand(-1, -1, side, side)))
        for block in discriminator.blocks[:blocks]:
            x = block(x)
        wanted.append(x[:, :, 8, 8].double().cpu())
    fitted = _fit_activated(colours.double(), torch.cat(wanted))
    count = fitted.shape[0]
    from_rgb.weight[:count] = fitted[:, :3, None, None] / from_rgb.weight_gain
    assert from_rgb.bias is not None
    from_rgb.bias[:count] = fitted[:, 3]


def _fit_activated(inputs: torch.Tensor, wanted: torch.Tensor, rounds: int = 20) -> torch.Tensor:
    """Fit a linear layer with leaky ReLU to values, by least squares.

    Args:
        inputs: [N, I], float64.
        wanted: [N, O], float64.
        rounds: Each solves for the side of the leaky ReLU on which the round before had every value.

    Returns:
        Weights and, in the last column, biases, [O, I + 1].
    """
    inputs = torch.cat([inputs, torch.ones_like(inputs[:, :1])], dim=1)
    values = wanted
    for _ in range(rounds):
        factors = torch.full_like(values, LEAKY_GAIN).masked_fill_(values < 0, SLOPE * LEAKY_GAIN)
        squares = torch.einsum("ni,nj,no->oij", inputs, inputs, factors**2)
        products = torch.einsum("ni,no->oi", inputs, factors * wanted)
        fitted = torch.linalg.solve(squares, products[:, :, None])[:, :, 0]
        values = inputs @ fitted.T
    return fitted


# Weights.


def _like(resized: Network, old: Network) -> Network:
    """Put a network where the old one is, in its dtype and mode."""
    nn.Module.to(resized, device=old.device, dtype=old.dtype)  # diffusers' own `to` warns of any dtype
    return resized.train(old.training)


def _put_layer(new: EqualizedConv2d | EqualizedLinear, old: EqualizedConv2d | EqualizedLinear) -> None:
    _put_weights(new, old)
    if old.bias is not None:
        _put_bias(new, old)


def _put_weights(new: Layer, old: Layer) -> None:
    """Copy weights into a layer at least as wide; there, new inputs count nothing for what were its outputs before."""
    outputs, inputs = old.weight.shape[:2]
    new.weight[:outputs] = 0
    new.weight[:outputs, :inputs] = old.weight * (old.weight_gain / new.weight_gain)


def _put_bias(
    new: EqualizedConv2d | EqualizedLinear, old: EqualizedConv2d | EqualizedLinear, factor: float = 1.0
) -> None:
    assert new.bias is not None and old.bias is not None
    new.bias[: len(old.bias)] = old.bias * factor


# Tables of channels.


def resized_table(
    config: StyleGAN2GeneratorConfig | StyleGAN2DiscriminatorConfig,
    resolution: int,
    channels: Mapping[str, int] | None = None,
) -> dict[int, int]:
    """Channels by resolution of a resized network, see `resize_generator`.

    Raises:
        SDICError: If the resolution makes no sense, or a block would get fewer channels than it has.
    """
    if resolution != config.resolution and (resolution > LARGEST or resolution < 8 or resolution & (resolution - 1)):
        raise SDICError(
            f"The resolution is {resolution}, but networks are resized to a power of two from 8 to {LARGEST:,}: give "
            f"one of these, such as {min(2 * config.resolution, LARGEST)}."
        )
    before = _table_of(config)
    # Of the configuration's own table, which may know more resolutions than the network has.
    known = channel_table(resolution, None, config.channel_multiplier) if config.channels is None else config.channels
    known = {int(side): width for side, width in known.items()}
    asked = {int(side): width for side, width in (channels or {}).items()}
    table: dict[int, int] = {}
    for side in [2**power for power in range(2, int(math.log2(resolution)) + 1)]:
        width = before.get(side) or known.get(side) or max(1, table[side // 2] // 2)
        table[side] = asked.get(side, width)
        if table[side] < before.get(side, 0):
            raise SDICError(
                f"channels has {table[side]} for {side} pixels, but the model's block has {before[side]}: blocks can "
                "be widened, not narrowed, so give at least that many, leave channels out, or train from scratch."
            )
    return table


def _table_of(config: StyleGAN2GeneratorConfig | StyleGAN2DiscriminatorConfig) -> dict[int, int]:
    return channel_table(config.resolution, config.channels, config.channel_multiplier)


def _config_channels(
    config: StyleGAN2GeneratorConfig | StyleGAN2DiscriminatorConfig, table: dict[int, int]
) -> dict[str, int] | None:
    """What a configuration says of a table: None for the published one, where the network followed it before."""
    if config.channels is None and table == channel_table(max(table), None, config.channel_multiplier):
        return None
    return {str(side): width for side, width in table.items()}
