"""Sample sheets of a training run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from sdic_plugin.image_processor import SDICImageProcessor


def save_sheet(rows: list[torch.Tensor], path: Path) -> None:
    """Save rows of images, each [B, 3, H, W] in [-1, 1], as one PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    processor = SDICImageProcessor(*rows[0].shape[2:])
    lines = [np.concatenate([np.asarray(p) for p in processor.postprocess(row.cpu(), "pil")], axis=1) for row in rows]
    Image.fromarray(np.concatenate(lines, axis=0)).save(path)
