"""Identity of a face: ArcFace with IR-SE-50, from weights the user has."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from sdic_plugin.checkpoints.key_map import Rule, StateDict, apply_rules, load_exactly, require_size
from sdic_plugin.conversion.e4e import trunk_stages, unit_rules
from sdic_plugin.evaluation.lpips import read_network
from sdic_plugin.models.irse import irse_stage
from sdic_plugin.models.layers import conv3x3

CROP_ROWS, CROP_COLUMNS = (35 / 256, 223 / 256), (32 / 256, 220 / 256)
"""The part of an aligned FFHQ face that pSp's and e4e's identity loss looks at, as shares of height and width."""
INPUT_SIZE = 112


class IdentityNetwork(nn.Module):
    """ArcFace (Deng et al., 2019) on an IR-SE trunk: an aligned face in, a unit vector out.

    Args:
        stage_channels: Channels of the trunk's four stages.
        stage_units: Bottlenecks in each.
        embedding_width: Length of the vector.
    """

    label = "cosine of ArcFace IR-SE-50 embeddings"

    def __init__(
        self,
        stage_channels: Sequence[int] = (64, 128, 256, 512),
        stage_units: Sequence[int] = (3, 4, 14, 3),
        embedding_width: int = 512,
    ) -> None:
        super().__init__()
        stem, last = stage_channels[0], stage_channels[-1]
        self.stem = nn.Sequential(conv3x3(3, stem), nn.BatchNorm2d(stem), nn.PReLU(stem))
        widths = [stem, *stage_channels]
        units = [irse_stage(widths[i], widths[i + 1], count) for i, count in enumerate(stage_units)]
        self.body = nn.Sequential(*[unit for stage in units for unit in stage])
        self.norm = nn.BatchNorm2d(last)
        self.linear = nn.Linear(last * (INPUT_SIZE // 2 ** len(widths[1:])) ** 2, embedding_width)
        self.embedding_norm = nn.BatchNorm1d(embedding_width)

    def crop(self, image: torch.Tensor) -> torch.Tensor:
        """Cut the face out of FFHQ-aligned images [B, 3, H, W]: [B, 3, 112, 112].

        As pSp and e4e do: rows 35 to 223 and columns 32 to 220 of 256, averaged to 112 x 112; other sizes are brought
        to 256 x 256 first (averaged when larger, bilinear when smaller).
        """
        if tuple(image.shape[2:]) != (256, 256):
            smaller = min(image.shape[2:]) < 256
            options = {"mode": "bilinear", "align_corners": False} if smaller else {"mode": "area"}
            image = F.interpolate(image, (256, 256), **options)
        rows, columns = (slice(*(round(256 * edge) for edge in span)) for span in (CROP_ROWS, CROP_COLUMNS))
        return F.adaptive_avg_pool2d(image[:, :, rows, columns], INPUT_SIZE)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Embed FFHQ-aligned images [B, 3, H, W] in [-1, 1]: unit vectors [B, embedding_width]."""
        x = self.body(self.stem(self.crop(image.float())))
        return F.normalize(self.embedding_norm(self.linear(self.norm(x).flatten(1))), dim=1)

    def similarity(self, image: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Cosine of the embeddings of images [B, 3, H, W] in [-1, 1] ("ID"): [B], 1 for one and the same face."""
        return (self(image) * self(target)).sum(dim=1)


RULES = [
    Rule(r"(?:facenet\.)?input_layer\.([012])\.(\w+)", r"stem.\1.\2"),
    *unit_rules(r"(?:facenet\.)?body\.(\d+)", lambda m: f"body.{m[1]}."),
    Rule(r"(?:facenet\.)?output_layer\.0\.(\w+)", r"norm.\1"),
    Rule(r"(?:facenet\.)?output_layer\.3\.(weight|bias)", r"linear.\1"),
    Rule(r"(?:facenet\.)?output_layer\.4\.(\w+)", r"embedding_norm.\1"),
]


def load_identity(path: str | Path) -> IdentityNetwork:
    """Read ArcFace IR-SE-50, frozen.

    Args:
        path: `losses/identity.safetensors` that `sdic convert` kept from a published checkpoint, the folder of such a
            model, or ArcFace's own file (`model_ir_se50.pth`).

    Raises:
        CheckpointError: If the file cannot be read or holds another network, such as the MoCo-v2 of car models.
    """
    return build_identity(read_network(path, "identity"))


def build_identity(state: StateDict) -> IdentityNetwork:
    """Build the identity network from the tensors of a file, without a prefix; CheckpointError if they do not fit."""
    what = "identity network (ArcFace, IR-SE)"
    plain = {key.removeprefix("facenet."): tensor for key, tensor in state.items()}
    channels, units = trunk_stages(plain, what)
    mapped = apply_rules(state, RULES, what).state
    network = IdentityNetwork(channels, units, require_size(mapped, "linear.weight", 0, what))
    load_exactly(network, {key: _as_float(tensor) for key, tensor in mapped.items()}, what)
    return network.requires_grad_(False).eval()


def _as_float(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor
