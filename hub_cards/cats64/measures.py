"""What the edits of cats64 are found by: measures on pixels of an aligned cat's face.

Any function of this kind serves `sdic edits find --method interfacegan --measure MODULE:FUNCTION`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from sdic_plugin.edits import discovery
from sdic_plugin.edits.discovery import Measure, brightness, luma


def muzzle(images: torch.Tensor) -> torch.Tensor:
    """How much lighter the muzzle (below the middle of an aligned face) is than the whole image.

    Images [B, 3, R, R] in [0, 1] to [B].
    """
    height, width = images.shape[2:]
    region = luma(images)[:, round(0.7 * height) :, round(0.33 * width) : round(0.67 * width)]
    return region.mean(dim=(1, 2)) - brightness(images)


def stripes(images: torch.Tensor) -> torch.Tensor:
    """Strength of patterns finer than a tenth of the width, such as a tabby's stripes: RMS of luma less its blur.

    Images [B, 3, R, R] in [0, 1] to [B].
    """
    light = luma(images)[:, None]
    radius = max(1, round(light.shape[3] / 21))
    padded = F.pad(light, (radius,) * 4, mode="reflect")
    return (light - F.avg_pool2d(padded, 2 * radius + 1, stride=1)).square().mean(dim=(1, 2, 3)).sqrt()


def blaze(images: torch.Tensor) -> torch.Tensor:
    """How much lighter the middle of an aligned face is, from forehead to nose, than its sides.

    Images [B, 3, R, R] in [0, 1] to [B].
    """
    light = luma(images)
    height, width = light.shape[1:]

    def band(left: float, right: float) -> torch.Tensor:
        columns = slice(round(left * width), round(right * width))
        return light[:, round(0.15 * height) : round(0.75 * height), columns].mean(dim=(1, 2))

    return band(0.42, 0.58) - (band(0.12, 0.3) + band(0.7, 0.88)) / 2


MEASURES: dict[str, Measure] = {**discovery.MEASURES, "muzzle": muzzle, "stripes": stripes, "blaze": blaze}
"""Measures by name."""
