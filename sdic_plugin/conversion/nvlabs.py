"""NVlabs' StyleGAN2 layout (`G_ema`, `G`, `D`), as in pickles of stylegan2-ada-pytorch and stylegan3."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import torch

from sdic_plugin.checkpoints.key_map import Rule, StateDict, count_numbered, last_group, require_size
from sdic_plugin.checkpoints.nvlabs_pickle import NVlabsNetwork
from sdic_plugin.conversion.layout import Layout, default_feature_resolution
from sdic_plugin.errors import CheckpointError

FILTER_REASON = "the FIR filter is a constant"
LARGEST_RESOLUTION = 4096

GENERATOR_SETTINGS = {
    r"(synthesis\.)?img_channels": 3,
    r"synthesis\.b\d+\.architecture": "skip",
    r"(mapping\.fc\d+|synthesis\.b\d+\.conv[01])\.activation": "lrelu",
    r"mapping\.fc\d+\.bias_gain": 0.01,
    r"synthesis\.b\d+\.conv[01]\.use_noise": True,
}
DISCRIMINATOR_SETTINGS = {
    r"(b\d+\.)?img_channels": 3,
    r"b\d+\.architecture": "resnet",
    r"(b\d+\.(conv[01]?|fromrgb|fc))\.activation": "lrelu",
    r"b4\.mbstd\.num_channels": 1,
}
"""Attributes that our networks assume, with the value they must have where they are stored."""


def _block(resolution: str) -> int:
    return int(math.log2(int(resolution))) - 2


def _layer(match: re.Match[str]) -> str:
    return f"blocks.{_block(match[1])}.{'up_conv' if match[2] == '0' else 'conv'}."


def _to_rgb(match: re.Match[str]) -> str:
    return f"blocks.{_block(match[1])}.to_rgb."


def _modulated_rules(pattern: str, target: Callable[[re.Match[str]], str]) -> list[Rule]:
    return [
        Rule(rf"{pattern}\.weight", lambda m: target(m) + "conv.weight"),
        Rule(rf"{pattern}\.affine\.(weight|bias)", lambda m: f"{target(m)}conv.modulation.{last_group(m)}"),
        Rule(rf"{pattern}\.bias", lambda m: target(m) + "bias"),
    ]


GENERATOR_RULES = [
    Rule(r"mapping\.fc(\d+)\.(weight|bias)", r"mapping_network.layers.\1.\2"),
    Rule(r"mapping\.w_avg", "w_avg"),
    Rule(r"synthesis\.b4\.const", "blocks.0.constant", lambda tensor: tensor[None]),
    *_modulated_rules(r"synthesis\.b(\d+)\.conv([01])", _layer),
    *_modulated_rules(r"synthesis\.b(\d+)\.torgb", _to_rgb),
    Rule(r"synthesis\.b(\d+)\.conv([01])\.noise_strength", lambda m: _layer(m) + "noise_strength", torch.flatten),
    Rule(r"synthesis\.b(\d+)\.conv([01])\.noise_const", lambda m: _layer(m) + "noise", lambda t: t[None, None]),
    Rule(r".*\.resample_filter", None, reason=FILTER_REASON),
]


def _discriminator_rules(state: StateDict) -> list[Rule]:
    """Key map of a discriminator, whose blocks count from the finest on."""
    finest = _finest(state, r"b(\d+)\.conv0\.weight", "NVlabs discriminator")

    def block(match: re.Match[str]) -> str:
        return f"blocks.{_block(str(finest)) - _block(match[1])}."

    return [
        Rule(rf"b{finest}\.fromrgb\.(weight|bias)", r"from_rgb.\1"),
        Rule(r"b(\d+)\.conv0\.(weight|bias)", lambda m: f"{block(m)}conv1.{m[2]}"),
        Rule(r"b(\d+)\.conv1\.(weight|bias)", lambda m: f"{block(m)}conv2.{m[2]}"),
        Rule(r"b(\d+)\.skip\.weight", lambda m: f"{block(m)}skip.weight"),
        Rule(r"b4\.conv\.(weight|bias)", r"final_conv.\1"),
        Rule(r"b4\.fc\.(weight|bias)", r"final_linear.\1"),
        Rule(r"b4\.out\.(weight|bias)", r"score.\1"),
        Rule(r".*\.resample_filter", None, reason=FILTER_REASON),
    ]


def _finest(state: StateDict, pattern: str, what: str) -> int:
    """The largest resolution that the first group of `pattern` takes over the keys; none may be missing below it."""
    found = sorted({int(match[1]) for key in state if (match := re.fullmatch(pattern, key))})
    if not found or found != [8 * 2**i for i in range(len(found))] or found[-1] > LARGEST_RESOLUTION:
        raise CheckpointError(
            f"The {what} has blocks of the resolutions {found[:10]}, but 8, 16, 32 and so on are needed, "
            "so the file is incomplete or of another architecture."
        )
    return found[-1]


def generator_config(state: StateDict, what: str) -> dict[str, Any]:
    """Infer the configuration of a generator from its shapes."""
    resolution = _finest(state, r"synthesis\.b(\d+)\.conv0\.weight", what)
    sizes = [4 * 2**i for i in range(_block(str(resolution)) + 1)]
    return {
        "resolution": resolution,
        "style_width": require_size(state, "synthesis.b4.conv1.affine.weight", 1, what),
        "mapping_layers": count_numbered(state, r"mapping\.fc(\d+)\."),
        "channels": {str(size): require_size(state, f"synthesis.b{size}.conv1.weight", 0, what) for size in sizes},
        "feature_resolution": default_feature_resolution(resolution),
    }


def discriminator_config(state: StateDict, what: str) -> dict[str, Any]:
    """Infer the configuration of a discriminator from its shapes."""
    resolution = _finest(state, r"b(\d+)\.conv0\.weight", what)
    channels = {str(resolution): require_size(state, f"b{resolution}.conv0.weight", 0, what)}
    for i in range(_block(str(resolution))):
        size = resolution // 2**i
        channels[str(size // 2)] = require_size(state, f"b{size}.conv1.weight", 0, what)
    return {"resolution": resolution, "channels": channels}


LAYOUT = Layout(
    name="NVlabs",
    generator_rules=lambda _: GENERATOR_RULES,
    discriminator_rules=_discriminator_rules,
    generator_config=generator_config,
    discriminator_config=discriminator_config,
    filter_suffix=".resample_filter",
)


def check_network(network: NVlabsNetwork, component: str, entry: str, file: str) -> None:
    """Raise CheckpointError, naming the entry, unless our networks can do what this one does."""
    if "synthesis.input.freqs" in network.state:
        raise CheckpointError(
            f"{file} holds a StyleGAN3 generator under {entry!r}, but only StyleGAN2 is supported: give a pickle of "
            'a StyleGAN2 network (in stylegan3, "--cfg=stylegan2").'
        )
    labels = network.settings.get("c_dim", 0)
    foreign = "mapping.embed." if component == "generator" else "mapping."
    if labels != 0 or any(key.startswith(foreign) for key in network.state):
        raise CheckpointError(
            f"{file} holds a conditional network under {entry!r} (c_dim is {labels}), but only "
            "unconditional ones are supported: give one that was trained without labels."
        )
    expected = GENERATOR_SETTINGS if component == "generator" else DISCRIMINATOR_SETTINGS
    for name, value in network.settings.items():
        needed = next((wanted for pattern, wanted in expected.items() if re.fullmatch(pattern, name)), value)
        if value != needed:
            raise CheckpointError(
                f"{file} holds a network with {name} = {value!r} under {entry!r}, but only {needed!r} is supported: "
                "give a StyleGAN2 network of the usual architecture."
            )
