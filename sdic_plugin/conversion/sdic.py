"""Published SDIC checkpoints: `DIP.` (DIPN) and `SAF.` (DICN) beside e4e's `encoder.` and rosinality's `decoder.`."""

from __future__ import annotations

import math
from typing import Any

from sdic_plugin.checkpoints.key_map import Rule, StateDict, apply_rules, last_group, load_exactly, require_size
from sdic_plugin.conversion.e4e import unit_rules
from sdic_plugin.errors import CheckpointError
from sdic_plugin.models import DICN, DIPN

UNUSED = "stored in published checkpoints, but never used"
PUBLISHED_CONDITION_SIZE = 64


def _basic(pattern: str, target: str) -> list[Rule]:
    """Rules of one BasicConv: members `conv` and `bn` there, `conv` and `norm` here."""
    return [
        Rule(rf"{pattern}\.conv\.(weight)", lambda m: m.expand(target) + "conv.weight"),
        Rule(rf"{pattern}\.bn\.(\w+)", lambda m: f"{m.expand(target)}norm.{last_group(m)}"),
    ]


def _branch(source: str, target: str) -> list[Rule]:
    convs = [_basic(rf"{source}\.fe{i + 1}", f"{target}.convs.{i}.") for i in range(5)]
    return [rule for rules in convs for rule in rules]


def _upward_stage(source: str, target: str) -> list[Rule]:
    source = rf"feature_up\.{source}"
    return [
        *_basic(rf"{source}\.conv1", f"upward_path.{target}.upsample."),
        *_basic(rf"{source}\.conv2", f"upward_path.{target}.merge."),
    ]


def _context_fusion(source: str, target: str) -> list[Rule]:
    source, target = rf"hourglass_fusion\.{source}", f"hourglass.{target}"
    return [
        *_basic(rf"{source}\.semantic\.0", f"{target}.semantic.0."),
        Rule(rf"{source}\.semantic\.1\.(weight|bias)", rf"{target}.semantic.1.\1"),
        *_basic(rf"{source}\.att\.0", f"{target}.attention.0."),
        Rule(rf"{source}\.att\.1\.weight", f"{target}.attention.1.weight"),
        *_basic(rf"{source}\.agg", f"{target}.aggregate."),
    ]


DIPN_RULES = [
    Rule(r"(stem_2|stem_4|spx|spx_2|spx_4|semantic|agg)\..*", None, reason=UNUSED),
    Rule(r"hourglass_fusion\.conv1_up\.bn\..*", None, reason=UNUSED),
    *_branch("feature1", "original_branch"),
    *_branch("feature2", "initial_branch"),
    *_upward_stage("deconv8_4", "to_quarter"),
    *_upward_stage("deconv4_2", "to_half"),
    *_upward_stage("deconv2_1", "to_full"),
    *_basic(r"feature_up\.conv4", "upward_path.smooth."),
    *_basic(r"conv", "matching.0."),
    Rule(r"desc\.(weight|bias)", r"matching.1.\1"),
    *_basic(r"corr_stem", "volume_stem."),
    *_basic(r"hourglass_fusion\.conv1\.([01])", r"hourglass.down_half.\1."),
    *_basic(r"hourglass_fusion\.conv2\.([01])", r"hourglass.down_quarter.\1."),
    *_basic(r"hourglass_fusion\.conv3\.([01])", r"hourglass.down_eighth.\1."),
    *_basic(r"hourglass_fusion\.conv3_up", "hourglass.up_quarter."),
    *_basic(r"hourglass_fusion\.conv2_up", "hourglass.up_half."),
    Rule(r"hourglass_fusion\.conv1_up\.conv\.weight", "hourglass.up_full.weight"),
    *_basic(r"hourglass_fusion\.agg_0\.([012])", r"hourglass.merge_quarter.\1."),
    *_basic(r"hourglass_fusion\.agg_1\.([012])", r"hourglass.merge_half.\1."),
    *_context_fusion("CGF_32", "fuse_eighth"),
    *_context_fusion("CGF_16", "fuse_quarter"),
    *_context_fusion("CGF_8", "fuse_half"),
    *_basic(r"rgb1\.0", "head.0."),
    Rule(r"rgb1\.1\.weight", "head.1.weight"),
    Rule(r"rgb1\.2\.(\w+)", r"head.2.\1"),
    *unit_rules(r"rgb\.([012])", lambda m: f"to_rgb.{m[1]}."),
]

DICN_RULES = [
    Rule(r"(aff1|aff2|conv1|aff1d\.agg)\..*", None, reason=UNUSED),
    Rule(r"conv_layer1\.([012])\.(\w+)", r"features.stem.\1.\2"),
    *_basic(r"semantic\.([02])", r"features.semantic.\1."),
    Rule(r"semantic\.([13])\.weight", r"features.semantic.\1.weight"),
    *_basic(r"att\.0", "features.attention.0."),
    Rule(r"att\.1\.weight", "features.attention.1.weight"),
    Rule(r"condition_shift3\.([02])\.(weight|bias)", r"latents.condition.\1.\2"),
    Rule(r"aff1d\.sen\.([013])\.(\w+)", r"latents.semantic.\1.\2"),
    Rule(r"aff1d\.att\.([013])\.(\w+)", r"latents.scale.\1.\2"),
    Rule(r"aff1d\.att2\.([013])\.(\w+)", r"latents.shift.\1.\2"),
]


def dipn_config(state: StateDict, what: str = "DIPN part") -> dict[str, Any]:
    """Infer DIPN's configuration from its shapes."""
    hourglass = [f"hourglass_fusion.conv{i}.0.conv.weight" for i in (1, 2, 3)]
    return {
        "branch_channels": [require_size(state, f"feature1.fe{i}.conv.weight", 0, what) for i in range(1, 6)],
        "matching_channels": require_size(state, "desc.weight", 0, what),
        "volume_channels": [require_size(state, key, 0, what) for key in ("corr_stem.conv.weight", *hourglass)],
        "head_channels": require_size(state, "rgb1.0.conv.weight", 0, what),
    }


def dicn_config(state: StateDict, style_width: int | None = None, what: str = "DICN part") -> dict[str, Any]:
    """Infer DICN's configuration from its shapes and the generator's style width.

    Args:
        state: The `SAF.` tensors.
        style_width: Width of a style; None assumes the published condition size of 64.
        what: Name of the part, for messages.

    Raises:
        CheckpointError: If the style width does not fit the rows of the condition.
    """
    rows = require_size(state, "aff1d.sen.0.weight", 1, what)
    condition_channels = require_size(state, "condition_shift3.2.weight", 0, what)
    if style_width is None:
        style_width = condition_channels * PUBLISHED_CONDITION_SIZE**2 // rows
    condition_size = math.isqrt(rows * style_width // condition_channels)
    if condition_channels * condition_size**2 != rows * style_width:
        raise CheckpointError(
            f"The {what} reads its condition as {rows} rows of {condition_channels} square maps, which does not fit "
            f"the generator's style width of {style_width}: give files that belong together."
        )
    stem = ("conv_layer1.0.weight", "semantic.0.conv.weight")
    return {
        "feature_channels": require_size(state, "semantic.3.weight", 0, what),
        "num_styles": require_size(state, "aff1d.sen.3.weight", 0, what),
        "style_width": style_width,
        "condition_channels": condition_channels,
        "condition_size": condition_size,
        "stem_channels": [require_size(state, key, 0, what) for key in stem],
    }


def build_dipn(state: StateDict) -> tuple[DIPN, dict[str, str]]:
    """Build DIPN from a published checkpoint's `DIP.` tensors; returns it and the dropped keys."""
    dipn = DIPN(**dipn_config(state))
    mapped = apply_rules(state, DIPN_RULES, "DIPN part", "DIP.")
    load_exactly(dipn, mapped.state, "DIPN")
    return dipn.eval(), mapped.dropped


def build_dicn(state: StateDict, style_width: int | None) -> tuple[DICN, dict[str, str]]:
    """Build DICN from a published checkpoint's `SAF.` tensors; returns it and the dropped keys."""
    dicn = DICN(**dicn_config(state, style_width))
    mapped = apply_rules(state, DICN_RULES, "DICN part", "SAF.")
    load_exactly(dicn, mapped.state, "DICN")
    return dicn.eval(), mapped.dropped
