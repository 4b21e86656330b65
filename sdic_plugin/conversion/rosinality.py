"""rosinality's StyleGAN2 layout (`g_ema`, `g`, `d`, `latent_avg`), also inside e4e and SDIC files as `decoder.`."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch

from sdic_plugin.checkpoints.key_map import Rule, StateDict, count_numbered, last_group, require_size
from sdic_plugin.conversion.layout import Layout, default_feature_resolution
from sdic_plugin.errors import CheckpointError

FIR_REASON = "the FIR kernel is a constant"

KeyStart = Callable[[re.Match[str]], str]
"""Start of our key, by the match of theirs."""


def _squeeze(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.squeeze(0)


def _block_conv(match: re.Match[str]) -> str:
    block, second = divmod(int(match[1]), 2)
    return f"blocks.{block + 1}.{'conv' if second else 'up_conv'}."


def _noise_buffer(match: re.Match[str]) -> str:
    number = int(match[1])
    if number == 0:
        return "blocks.0.conv.noise"
    return f"blocks.{(number + 1) // 2}.{'up_conv' if number % 2 else 'conv'}.noise"


def _styled_conv_rules(pattern: str, target: KeyStart) -> list[Rule]:
    return [
        Rule(rf"{pattern}\.conv\.weight", lambda m: target(m) + "conv.weight", _squeeze),
        Rule(rf"{pattern}\.conv\.modulation\.(weight|bias)", lambda m: f"{target(m)}conv.modulation.{last_group(m)}"),
        Rule(rf"{pattern}\.noise\.weight", lambda m: target(m) + "noise_strength"),
        Rule(rf"{pattern}\.activate\.bias", lambda m: target(m) + "bias"),
    ]


def _to_rgb_rules(pattern: str, target: KeyStart) -> list[Rule]:
    return [
        Rule(rf"{pattern}\.conv\.weight", lambda m: target(m) + "conv.weight", _squeeze),
        Rule(rf"{pattern}\.conv\.modulation\.(weight|bias)", lambda m: f"{target(m)}conv.modulation.{last_group(m)}"),
        Rule(rf"{pattern}\.bias", lambda m: target(m) + "bias", torch.flatten),
    ]


GENERATOR_RULES = [
    Rule(r"style\.(\d+)\.(weight|bias)", lambda m: f"mapping_network.layers.{int(m[1]) - 1}.{m[2]}"),
    Rule(r"input\.input", "blocks.0.constant"),
    *_styled_conv_rules(r"conv1", lambda m: "blocks.0.conv."),
    *_to_rgb_rules(r"to_rgb1", lambda m: "blocks.0.to_rgb."),
    *_styled_conv_rules(r"convs\.(\d+)", _block_conv),
    *_to_rgb_rules(r"to_rgbs\.(\d+)", lambda m: f"blocks.{int(m[1]) + 1}.to_rgb."),
    Rule(r"noises\.noise_(\d+)", _noise_buffer),
    Rule(r".*\.kernel", None, reason=FIR_REASON),
]

DISCRIMINATOR_RULES = [
    Rule(r"convs\.0\.0\.weight", "from_rgb.weight"),
    Rule(r"convs\.0\.1\.bias", "from_rgb.bias"),
    Rule(r"convs\.(\d+)\.conv1\.0\.weight", lambda m: f"blocks.{int(m[1]) - 1}.conv1.weight"),
    Rule(r"convs\.(\d+)\.conv1\.1\.bias", lambda m: f"blocks.{int(m[1]) - 1}.conv1.bias"),
    Rule(r"convs\.(\d+)\.conv2\.1\.weight", lambda m: f"blocks.{int(m[1]) - 1}.conv2.weight"),
    Rule(r"convs\.(\d+)\.conv2\.2\.bias", lambda m: f"blocks.{int(m[1]) - 1}.conv2.bias"),
    Rule(r"convs\.(\d+)\.skip\.1\.weight", lambda m: f"blocks.{int(m[1]) - 1}.skip.weight"),
    Rule(r"final_conv\.0\.weight", "final_conv.weight"),
    Rule(r"final_conv\.1\.bias", "final_conv.bias"),
    Rule(r"final_linear\.0\.(weight|bias)", r"final_linear.\1"),
    Rule(r"final_linear\.1\.(weight|bias)", r"score.\1"),
    Rule(r".*\.kernel", None, reason=FIR_REASON),
]


def generator_config(state: StateDict, what: str) -> dict[str, Any]:
    """Infer the configuration of a rosinality generator from its shapes."""
    blocks = count_numbered(state, r"to_rgbs\.(\d+)\.")
    channels = {"4": require_size(state, "conv1.conv.weight", 1, what)}
    for i in range(blocks):
        channels[str(8 * 2**i)] = require_size(state, f"convs.{2 * i + 1}.conv.weight", 1, what)
    resolution = 4 * 2**blocks
    if not blocks:
        raise CheckpointError(f"The {what} lacks the keys 'to_rgbs.', so it is incomplete: give the whole checkpoint.")
    return {
        "resolution": resolution,
        "style_width": require_size(state, "style.1.weight", 0, what),
        "mapping_layers": count_numbered(state, r"style\.(\d+)\."),
        "channels": channels,
        "feature_resolution": default_feature_resolution(resolution),
    }


def discriminator_config(state: StateDict, what: str) -> dict[str, Any]:
    """Infer the configuration of a rosinality discriminator from its shapes."""
    blocks = count_numbered(state, r"convs\.(\d+)\.conv1\.")
    resolution = 4 * 2**blocks
    channels = {str(resolution): require_size(state, "convs.0.0.weight", 0, what)}
    for i in range(blocks):
        channels[str(resolution // 2 ** (i + 1))] = require_size(state, f"convs.{i + 1}.conv2.1.weight", 0, what)
    return {"resolution": resolution, "channels": channels}


LAYOUT = Layout(
    name="rosinality",
    generator_rules=lambda _: GENERATOR_RULES,
    discriminator_rules=lambda _: DISCRIMINATOR_RULES,
    generator_config=generator_config,
    discriminator_config=discriminator_config,
    filter_suffix=".kernel",
)
