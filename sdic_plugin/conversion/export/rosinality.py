"""Our StyleGAN2 as a rosinality checkpoint (`g_ema`, `latent_avg`, `d`), which most tools of the field read."""

from __future__ import annotations

import os
import re
from pathlib import Path

import torch

from sdic_plugin.checkpoints.key_map import Rule, StateDict, apply_rules
from sdic_plugin.models import StyleGAN2Discriminator, StyleGAN2Generator
from sdic_plugin.utils.files import replacing_file


def _layer(match: re.Match[str]) -> str:
    block = int(match[1])
    return "conv1." if block == 0 else f"convs.{2 * block - (1 if match[2] == 'conv' else 2)}."


def _noise(match: re.Match[str]) -> str:
    block = int(match[1])
    return f"noises.noise_{2 * block - (match[2] == 'up_conv')}"


def _to_rgb(match: re.Match[str]) -> str:
    block = int(match[1])
    return "to_rgb1." if block == 0 else f"to_rgbs.{block - 1}."


def _batch_axis(tensor: torch.Tensor) -> torch.Tensor:
    return tensor[None]


STYLED = r"blocks\.(\d+)\.(up_conv|conv)"
TO_RGB = r"blocks\.(\d+)\.to_rgb"
GENERATOR_RULES = [
    Rule(r"mapping_network\.layers\.(\d+)\.(weight|bias)", lambda m: f"style.{int(m[1]) + 1}.{m[2]}"),
    Rule(r"w_avg", None, reason="stored as latent_avg"),
    Rule(r"blocks\.0\.constant", "input.input"),
    Rule(rf"{STYLED}\.conv\.weight", lambda m: _layer(m) + "conv.weight", _batch_axis),
    Rule(rf"{STYLED}\.conv\.(modulation\.\w+)", lambda m: f"{_layer(m)}conv.{m[3]}"),
    Rule(rf"{STYLED}\.noise_strength", lambda m: _layer(m) + "noise.weight"),
    Rule(rf"{STYLED}\.bias", lambda m: _layer(m) + "activate.bias"),
    Rule(rf"{STYLED}\.noise", _noise),
    Rule(rf"{TO_RGB}\.conv\.weight", lambda m: _to_rgb(m) + "conv.weight", _batch_axis),
    Rule(rf"{TO_RGB}\.conv\.(modulation\.\w+)", lambda m: f"{_to_rgb(m)}conv.{m[2]}"),
    Rule(rf"{TO_RGB}\.bias", lambda m: _to_rgb(m) + "bias", lambda tensor: tensor[None, :, None, None]),
]
DISCRIMINATOR_RULES = [
    Rule(r"from_rgb\.weight", "convs.0.0.weight"),
    Rule(r"from_rgb\.bias", "convs.0.1.bias"),
    Rule(r"blocks\.(\d+)\.conv1\.weight", lambda m: f"convs.{int(m[1]) + 1}.conv1.0.weight"),
    Rule(r"blocks\.(\d+)\.conv1\.bias", lambda m: f"convs.{int(m[1]) + 1}.conv1.1.bias"),
    Rule(r"blocks\.(\d+)\.conv2\.weight", lambda m: f"convs.{int(m[1]) + 1}.conv2.1.weight"),
    Rule(r"blocks\.(\d+)\.conv2\.bias", lambda m: f"convs.{int(m[1]) + 1}.conv2.2.bias"),
    Rule(r"blocks\.(\d+)\.skip\.weight", lambda m: f"convs.{int(m[1]) + 1}.skip.1.weight"),
    Rule(r"final_conv\.weight", "final_conv.0.weight"),
    Rule(r"final_conv\.bias", "final_conv.1.bias"),
    Rule(r"final_linear\.(weight|bias)", r"final_linear.0.\1"),
    Rule(r"score\.(weight|bias)", r"final_linear.1.\1"),
]


def rosinality_generator(generator: StyleGAN2Generator) -> StateDict:
    """The generator's tensors in rosinality's layout, float32, complete for a strict `load_state_dict`."""
    state = apply_rules(_float_state(generator), GENERATOR_RULES, "generator").state
    for block in range(1, len(generator.blocks)):
        state[f"convs.{2 * block - 2}.conv.blur.kernel"] = _fir_kernel(4)
        state[f"to_rgbs.{block - 1}.upsample.kernel"] = _fir_kernel(4)
    return state


def rosinality_discriminator(discriminator: StyleGAN2Discriminator) -> StateDict:
    """The discriminator's tensors in rosinality's layout, float32, complete for a strict `load_state_dict`."""
    state = apply_rules(_float_state(discriminator), DISCRIMINATOR_RULES, "discriminator").state
    for block in range(1, len(discriminator.blocks) + 1):
        state[f"convs.{block}.conv2.0.kernel"] = _fir_kernel(1)
        state[f"convs.{block}.skip.0.kernel"] = _fir_kernel(1)
    return state


def export_rosinality(
    generator: StyleGAN2Generator, path: str | os.PathLike[str], discriminator: StyleGAN2Discriminator | None = None
) -> None:
    """Write a rosinality checkpoint, whole or not at all.

    Args:
        generator: Becomes `g_ema`, its mean w `latent_avg`.
        path: The file, usually .pt.
        discriminator: Becomes `d`.

    Raises:
        CheckpointError: If a weight is not finite.
    """
    content: dict[str, object] = {
        "g_ema": rosinality_generator(generator),
        "latent_avg": generator.w_avg.detach().cpu().float().clone(),
    }
    if discriminator is not None:
        content["d"] = rosinality_discriminator(discriminator)
    with replacing_file(Path(path)) as temporary:
        torch.save(content, temporary)


def _float_state(model: torch.nn.Module) -> StateDict:
    return {key: tensor.detach().cpu().float().clone() for key, tensor in model.state_dict().items()}


def _fir_kernel(gain: int) -> torch.Tensor:
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
    return torch.outer(taps, taps) / 64 * gain
