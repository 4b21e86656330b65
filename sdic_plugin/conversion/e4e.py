"""e4e and pSp encoders (`encoder.` keys, also inside SDIC files)."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch

from sdic_plugin.checkpoints.key_map import (
    Rule,
    StateDict,
    apply_rules,
    check_finite,
    count_numbered,
    last_group,
    load_exactly,
    require_size,
)
from sdic_plugin.errors import CheckpointError
from sdic_plugin.models import E4EEncoder

UNIT_RULES = [
    (r"shortcut_layer\.0\.weight", "shortcut.0.weight"),
    (r"shortcut_layer\.1\.(\w+)", "shortcut.1.{0}"),
    (r"res_layer\.0\.(\w+)", "norm1.{0}"),
    (r"res_layer\.1\.weight", "conv1.weight"),
    (r"res_layer\.2\.weight", "activation.weight"),
    (r"res_layer\.3\.weight", "conv2.weight"),
    (r"res_layer\.4\.(\w+)", "norm2.{0}"),
    (r"res_layer\.5\.(fc[12])\.weight", "squeeze_excitation.{0}.weight"),
]
"""Keys of one IR(-SE) bottleneck, to ours."""


def unit_rules(pattern: str, target: Callable[[re.Match[str]], str]) -> list[Rule]:
    """Rules for every bottleneck whose key starts with `pattern`; `target(match)` is our key's start."""

    def rule(source: str, ours: str) -> Rule:
        return Rule(rf"{pattern}\.{source}", lambda m: target(m) + ours.format(last_group(m)))

    return [rule(source, ours) for source, ours in UNIT_RULES]


def trunk_stages(state: StateDict, what: str = "encoder") -> tuple[list[int], list[int]]:
    """Infer the trunk's channels and units per stage; a stage ends where the channels change."""
    channels: list[int] = []
    units: list[int] = []
    for i in range(count_numbered(state, r"body\.(\d+)\.")):
        width = require_size(state, f"body.{i}.res_layer.1.weight", 0, what)
        if channels and channels[-1] == width:
            units[-1] += 1
        else:
            channels.append(width)
            units.append(1)
    if len(channels) != 4:
        raise CheckpointError(
            f"The {what}'s trunk has {len(channels)} stages of different width {channels}, but four are needed: the "
            "file is incomplete or of another architecture."
        )
    return channels, units


def encoder_rules(units: list[int]) -> list[Rule]:
    """Key map of an encoder whose trunk has that many units per stage."""

    def unit(match: re.Match[str]) -> str:
        index, stage = int(match[1]), 0
        while index >= units[stage]:
            index -= units[stage]
            stage += 1
        return f"stages.{stage}.{index}."

    return [
        Rule(r"input_layer\.([012])\.(\w+)", r"stem.\1.\2"),
        *unit_rules(r"body\.(\d+)", unit),
        Rule(r"latlayer1\.(weight|bias)", r"lateral_middle.\1"),
        Rule(r"latlayer2\.(weight|bias)", r"lateral_fine.\1"),
        Rule(r"styles\.(\d+)\.convs\.(\d+)\.(\w+)", lambda m: f"heads.{m[1]}.convs.{int(m[2]) // 2}.{m[3]}"),
        Rule(r"styles\.(\d+)\.linear\.(weight|bias)", r"heads.\1.linear.\2"),
    ]


def encoder_config(state: StateDict, what: str = "encoder") -> dict[str, Any]:
    """Infer the configuration of an e4e encoder from its shapes."""
    channels, units = trunk_stages(state, what)
    planes = require_size(state, "input_layer.0.weight", 1, what)
    if planes != 3:
        raise CheckpointError(
            f"The {what} reads {planes} image channels, as ReStyle's does, but only encoders of 3 channels are "
            "supported: give an e4e or pSp checkpoint."
        )
    return {
        "image_size": 16 * 2 ** count_numbered(state, r"styles\.0\.convs\.(\d+)\."),
        "num_styles": count_numbered(state, r"styles\.(\d+)\."),
        "style_width": require_size(state, "styles.0.linear.weight", 0, what),
        "stage_channels": channels,
        "stage_units": units,
        "head_channels": require_size(state, "styles.0.linear.weight", 1, what),
    }


def build_encoder(
    state: StateDict, latent_avg: torch.Tensor, progressive: bool = True, prefix: str = "encoder."
) -> tuple[E4EEncoder, dict[str, str]]:
    """Build our encoder; returns it and the dropped keys with their reasons.

    Args:
        state: The encoder's tensors, without the prefix.
        latent_avg: Mean latent, [num_styles, D], [1, num_styles, D], [D] or [1, D].
        progressive: True for e4e, False for pSp; the keys do not tell.
        prefix: Prefix the keys had in the file.

    Raises:
        CheckpointError: For keys, shapes or a mean latent that do not fit.
    """
    config = encoder_config(state)
    encoder = E4EEncoder(**config, progressive=progressive)
    mapped = apply_rules(state, encoder_rules(config["stage_units"]), "encoder", prefix)
    load_exactly(encoder, mapped.state, "encoder", optional={"latent_avg"})
    encoder.latent_avg.copy_(_mean_latents(latent_avg, config["num_styles"], config["style_width"]))
    return encoder.eval(), mapped.dropped


def _mean_latents(latent_avg: torch.Tensor, num_styles: int, style_width: int) -> torch.Tensor:
    check_finite(latent_avg, "latent_avg", "encoder")
    if latent_avg.numel() not in (style_width, num_styles * style_width):
        raise CheckpointError(
            f"The encoder's latent_avg has shape {list(latent_avg.shape)}, but its heads make {num_styles} styles of "
            f"width {style_width}: the file is damaged, or put together from two models."
        )
    return latent_avg.reshape(-1, style_width)
