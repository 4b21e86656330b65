"""The weights-by-name rule of `tests/parity`: a checkpoint of any size, every tensor drawn from its own key."""

from __future__ import annotations

import json
import math
import zlib
from pathlib import Path

import numpy as np
import torch

PARITY = Path(__file__).parents[1] / "parity"
PUBLISHED_CHANNELS = {4: 512, 8: 512, 16: 512, 32: 512, 64: 512, 128: 256, 256: 128, 512: 64, 1024: 32}
UNCHANGED_WHEN_NARROWED = ("DIP.", "SAF.aff1d.", "SAF.condition_shift3.", "decoder.noises.")


# Shapes.


def published_shapes(resolution: int = 256) -> dict[str, list[int]]:
    """Key and shape of every tensor of a published SDIC checkpoint with a generator of that resolution (from 256).

    The stored table has a 256-pixel generator; larger ones have further blocks, heads (which read the fine level and
    have six convolutions) and wider `SAF.aff1d`.
    """
    shapes = json.loads((PARITY / "sdic_256.keys.json").read_text())
    styles = 2 * int(math.log2(resolution)) - 2
    for i in range(14, styles):
        shapes |= {
            key.replace("styles.13.", f"styles.{i}."): shape
            for key, shape in shapes.items()
            if key.startswith("encoder.styles.13.")
        }
    shapes |= {f"decoder.{key}": shape for key, shape in generator_shapes(resolution).items()}
    for key in shapes:
        if key.startswith("SAF.aff1d."):
            shapes[key] = [styles if size == 14 else size for size in shapes[key]]
    return shapes


def generator_shapes(resolution: int, channels: dict[int, int] | None = None, width: int = 512, mapping: int = 8):
    """Key and shape of every tensor of a rosinality generator."""
    channels = channels or PUBLISHED_CHANNELS
    shapes: dict[str, list[int]] = {"input.input": [1, channels[4], 4, 4], "noises.noise_0": [1, 1, 4, 4]}
    for i in range(1, mapping + 1):
        shapes |= {f"style.{i}.weight": [width, width], f"style.{i}.bias": [width]}

    def modulated(name: str, inputs: int, outputs: int, kernel: int) -> dict[str, list[int]]:
        return {
            f"{name}.conv.weight": [1, outputs, inputs, kernel, kernel],
            f"{name}.conv.modulation.weight": [inputs, width],
            f"{name}.conv.modulation.bias": [inputs],
        }

    def styled(name: str, inputs: int, outputs: int) -> dict[str, list[int]]:
        return modulated(name, inputs, outputs, 3) | {f"{name}.noise.weight": [1], f"{name}.activate.bias": [outputs]}

    shapes |= styled("conv1", channels[4], channels[4])
    shapes |= modulated("to_rgb1", channels[4], 3, 1) | {"to_rgb1.bias": [1, 3, 1, 1]}
    for k in range(int(math.log2(resolution)) - 2):
        size = 8 * 2**k
        shapes |= styled(f"convs.{2 * k}", channels[size // 2], channels[size])
        shapes |= styled(f"convs.{2 * k + 1}", channels[size], channels[size])
        shapes |= modulated(f"to_rgbs.{k}", channels[size], 3, 1) | {f"to_rgbs.{k}.bias": [1, 3, 1, 1]}
        shapes |= {f"convs.{2 * k}.conv.blur.kernel": [4, 4], f"to_rgbs.{k}.upsample.kernel": [4, 4]}
        shapes |= {f"noises.noise_{i}": [1, 1, size, size] for i in (2 * k + 1, 2 * k + 2)}
    return shapes


def discriminator_shapes(resolution: int, channels: dict[int, int]) -> dict[str, list[int]]:
    """Key and shape of every tensor of a rosinality discriminator."""
    shapes = {"convs.0.0.weight": [channels[resolution], 3, 1, 1], "convs.0.1.bias": [channels[resolution]]}
    for i in range(1, int(math.log2(resolution)) - 1):
        inputs, outputs = channels[resolution // 2 ** (i - 1)], channels[resolution // 2**i]
        shapes |= {
            f"convs.{i}.conv1.0.weight": [inputs, inputs, 3, 3],
            f"convs.{i}.conv1.1.bias": [inputs],
            f"convs.{i}.conv2.0.kernel": [4, 4],
            f"convs.{i}.conv2.1.weight": [outputs, inputs, 3, 3],
            f"convs.{i}.conv2.2.bias": [outputs],
            f"convs.{i}.skip.0.kernel": [4, 4],
            f"convs.{i}.skip.1.weight": [outputs, inputs, 1, 1],
        }
    last = channels[4]
    return shapes | {
        "final_conv.0.weight": [last, last + 1, 3, 3],
        "final_conv.1.bias": [last],
        "final_linear.0.weight": [last, last * 16],
        "final_linear.0.bias": [last],
        "final_linear.1.weight": [1, last],
        "final_linear.1.bias": [1],
    }


def narrow(shapes: dict[str, list[int]], factor: int = 16) -> dict[str, list[int]]:
    """Divide all channels of an SDIC checkpoint by `factor`, DIPN and DICN's latent path excepted."""
    return {
        key: shape
        if key.startswith(UNCHANGED_WHEN_NARROWED) or key.endswith(".kernel")
        else _narrow_shape(shape, factor)
        for key, shape in shapes.items()
    }


def _narrow_shape(shape: list[int], factor: int) -> list[int]:
    channels, kernel = (shape[:-2], shape[-2:]) if len(shape) >= 4 else (shape, [])
    return [size if size in (1, 3) else max(size // factor, 1) for size in channels] + kernel


# Values.


def draw(key: str, shape: list[int], norm_parents: set[str]) -> torch.Tensor:
    """Draw one tensor by the first rule that fits its key."""
    parent, _, leaf = key.rpartition(".")
    if leaf == "num_batches_tracked":
        return torch.zeros(shape, dtype=torch.long)
    if leaf == "kernel":
        taps = np.array([1, 3, 3, 1], np.float32)
        return torch.from_numpy(np.outer(taps, taps) / 64 * 4)
    n = np.random.RandomState(zlib.crc32(key.encode())).standard_normal(shape).astype(np.float32)
    return torch.from_numpy(np.asarray(_scale(key, parent, leaf, n, norm_parents), dtype=np.float32))


def _scale(key: str, parent: str, leaf: str, n: np.ndarray, norm_parents: set[str]) -> np.ndarray:
    if leaf == "running_mean":
        return 0.1 * n
    if leaf == "running_var":
        return 1 + 0.1 * np.abs(n)
    if parent in norm_parents:
        return 1 + 0.1 * n if leaf == "weight" else 0.1 * n
    if leaf == "bias":
        return 0.1 * n + (1 if ".modulation." in key else 0)
    if key.startswith("decoder."):
        if key.endswith(".noise.weight"):
            return 0.1 * n
        return 100 * n if key.startswith("decoder.style.") else n
    if ".linear.weight" in key or ".condition_shift3." in key:
        return n
    if n.ndim == 1:
        return 0.25 + 0.05 * n
    gain = 1 if key.startswith("encoder.") else 2
    return n * math.sqrt(gain / np.prod(n.shape[1:]))


def state_dict(shapes: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    """Draw every tensor of a checkpoint."""
    norm_parents = {key.rpartition(".")[0] for key in shapes if key.endswith(".running_mean")}
    return {key: draw(key, shape, norm_parents) for key, shape in shapes.items()}


def generator_state(shapes: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    """Draw a rosinality generator: the same values as under `decoder.` in an SDIC checkpoint."""
    state = state_dict({f"decoder.{key}": shape for key, shape in shapes.items()})
    return {key.removeprefix("decoder."): tensor for key, tensor in state.items()}


def latent_avg(num_styles: int = 14, width: int = 512) -> torch.Tensor:
    return torch.from_numpy((0.3 * np.random.RandomState(11).standard_normal((num_styles, width))).astype(np.float32))


def direction() -> torch.Tensor:
    return torch.from_numpy(
        (np.random.RandomState(12).standard_normal((1, 512)) / math.sqrt(512) * 3).astype(np.float32)
    )


def z() -> torch.Tensor:
    return torch.from_numpy(np.random.RandomState(13).standard_normal((2, 512)).astype(np.float32))
