"""LPIPS v0.1 with AlexNet (Zhang et al., 2018), from weights the user has; it needs no torchvision."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from sdic_plugin.checkpoints.key_map import Rule, StateDict, apply_rules, load_exactly, require_size
from sdic_plugin.checkpoints.readers import read_checkpoint

ALEXNET_CHANNELS = (64, 192, 384, 256, 256)
_GEOMETRY = ((11, 4, 2), (5, 1, 2), (3, 1, 1), (3, 1, 1), (3, 1, 1))
"""Kernel, stride and padding of AlexNet's convolutions."""
_POOLED = (1, 2)
"""Convolutions that a 3x3 maximum with stride 2 comes before."""
_SOURCE_LAYERS = (0, 3, 6, 8, 10)
"""Their indices in AlexNet's `features`."""
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""ImageNet's mean and deviation, for images in [-1, 1]."""

_DERIVED = "follows from the definition of LPIPS"
RULES = [
    Rule(r"net\.(mean|std)|scaling_layer\.(shift|scale)", None, reason=_DERIVED),
    # As published SDIC, e4e and pSp checkpoints hold it ("lpips_loss." there).
    Rule(r"net\.layers\.(0|3|6|8|10)\.(weight|bias)", lambda m: f"convs.{_SOURCE_LAYERS.index(int(m[1]))}.{m[2]}"),
    Rule(r"lin\.(\d)\.1\.weight", r"weights.\1", transform=torch.flatten),
    # As the package `lpips` holds it; the heads are there twice.
    Rule(r"net\.slice\d\.(0|3|6|8|10)\.(weight|bias)", lambda m: f"convs.{_SOURCE_LAYERS.index(int(m[1]))}.{m[2]}"),
    Rule(r"lin(\d)\.model\.1\.weight", r"weights.\1", transform=torch.flatten),
    Rule(r"lins\.\d\.model\.1\.weight", None, reason="the same tensors as lin0 to lin4"),
]


class LPIPS(nn.Module):
    """Perceptual distance: weighted differences of AlexNet's unit-length features after each of its five ReLUs.

    Args:
        channels: Of the five convolutions.
    """

    shift: torch.Tensor
    scale: torch.Tensor

    def __init__(self, channels: Sequence[int] = ALEXNET_CHANNELS) -> None:
        super().__init__()
        widths = [3, *channels]
        self.convs = nn.ModuleList(
            [nn.Conv2d(widths[i], widths[i + 1], *geometry) for i, geometry in enumerate(_GEOMETRY)]
        )
        self.weights = nn.ParameterList([torch.full((width,), 1 / width) for width in channels])
        self.register_buffer("shift", torch.tensor(_SHIFT)[:, None, None], persistent=False)
        self.register_buffer("scale", torch.tensor(_SCALE)[:, None, None], persistent=False)

    def features(self, image: torch.Tensor) -> list[torch.Tensor]:
        """Compute the five feature maps of images [B, 3, H, W] in [-1, 1], of unit length over the channels."""
        x = (image.float() - self.shift) / self.scale
        outputs = []
        for i, conv in enumerate(self.convs):
            x = F.relu(conv(F.max_pool2d(x, 3, 2) if i in _POOLED else x))
            # The root is differentiable at 0 only with the tiny number inside it.
            length = (x.square().sum(dim=1, keepdim=True) + 1e-20).sqrt()
            outputs.append(x / (length + 1e-10))
        return outputs

    def forward(self, image: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Measure the distance of images [B, 3, H, W] in [-1, 1], of 32 pixels or more: [B], 0 where equal."""
        distances = [
            ((x - y).square() * weight[:, None, None]).sum(dim=1).mean(dim=(1, 2))
            for x, y, weight in zip(self.features(image), self.features(target), self.weights, strict=True)
        ]
        return torch.stack(distances).sum(dim=0)


def load_lpips(path: str | Path) -> LPIPS:
    """Read LPIPS-AlexNet, frozen.

    Args:
        path: `losses/lpips.safetensors` that `sdic convert` kept from a published checkpoint, the folder of such a
            model, or a file of the package `lpips` (its whole state dict, the AlexNet included).

    Raises:
        CheckpointError: If the file cannot be read or holds another network.
    """
    return build_lpips(read_network(path, "lpips"))


def build_lpips(state: StateDict) -> LPIPS:
    """Build LPIPS from the tensors of a file, without a prefix; CheckpointError if they do not fit."""
    what = "perceptual network (LPIPS, AlexNet)"
    mapped = apply_rules(state, RULES, what).state
    lpips = LPIPS([require_size(mapped, f"convs.{i}.weight", 0, what) for i in range(len(_GEOMETRY))])
    load_exactly(lpips, {key: tensor.float() for key, tensor in mapped.items()}, what)
    return lpips.requires_grad_(False).eval()


def read_network(path: str | Path, name: str) -> StateDict:
    """Read the tensors of a loss network, from its file or from the model folder it was converted into.

    Args:
        path: File or folder.
        name: "lpips" or "identity", as in `losses/NAME.safetensors`.
    """
    path = Path(path)
    for candidate in (path / "losses" / f"{name}.safetensors", path / f"{name}.safetensors"):
        if candidate.is_file():
            path = candidate
    content = read_checkpoint(path)
    return {key: tensor for key, tensor in content.items() if isinstance(tensor, torch.Tensor)}
