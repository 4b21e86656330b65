"""Nearest neighbours in a network's features: whether a generator repeats images that it was trained on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from PIL import Image

from sdic_plugin.errors import ImageError
from sdic_plugin.images.sheets import grid

CELL_SIDE = 128
"""Least side of a picture of the sheet, in pixels."""


@dataclass
class Neighbours:
    """The nearest images of a set, nearest first.

    Attributes:
        indices: Of the images, [N, K].
        distances: 1 − cosine of the features, [N, K], from 0 on.
    """

    indices: torch.Tensor
    distances: torch.Tensor


def nearest_images(features: torch.Tensor, others: torch.Tensor, count: int = 3) -> Neighbours:
    """Find the nearest images by the cosine of their features.

    Args:
        features: Of the images to find neighbours for, [N, D].
        others: Of the images to look among, [M, D].
        count: Neighbours of each, at most M.

    Raises:
        ImageError: If the shapes do not fit.
    """
    if features.ndim != 2 or others.ndim != 2 or features.shape[1] != others.shape[1] or not 1 <= count <= len(others):
        raise ImageError(
            f"{count} neighbours of features of shape {list(features.shape)} among {list(others.shape)} were asked "
            "for: give [N, D] and [M, D], and at most M neighbours."
        )
    others = F.normalize(others.float(), dim=1)
    found = [(F.normalize(part.float(), dim=1) @ others.T).topk(count, dim=1) for part in features.split(1024)]
    cosines, indices = (torch.cat(parts) for parts in zip(*found, strict=True))
    return Neighbours(indices, (1 - cosines).clamp(min=0))


def nearest_sheet(images: torch.Tensor, neighbours: torch.Tensor, columns: int = 3) -> Image.Image:
    """Draw images beside their nearest ones, enlarged to `CELL_SIDE` where they are smaller.

    Args:
        images: [N, 3, H, W] in [-1, 1].
        neighbours: Theirs, nearest first, [N, K, 3, H, W] in [-1, 1].
        columns: Images per row, each followed by its neighbours and a gap.
    """
    factor = max(1, CELL_SIDE // images.shape[3])
    cells = torch.cat([images[:, None], neighbours], dim=1)  # [N, 1 + K, 3, H, W]
    cells = cells.repeat_interleave(factor, dim=3).repeat_interleave(factor, dim=4)
    gap = cells.shape[4] // 8
    # Half a gap sets the image itself apart from its neighbours.
    groups = torch.cat([F.pad(cells[:, 0], (0, gap // 2), value=1.0), *cells[:, 1:].unbind(1)], dim=3)
    return grid(F.pad(groups, (0, gap, 0, gap), value=1.0), min(columns, len(images)))
