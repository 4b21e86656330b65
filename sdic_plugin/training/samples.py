"""Sample sheets of a training run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from sdic_plugin.atomic import replacing_file
from sdic_plugin.image_processor import SDICImageProcessor


def save_sheet(rows: list[torch.Tensor], path: Path) -> None:
    """Save rows of images, each [B, 3, H, W] in [-1, 1], as one PNG, whole or not at all."""
    processor = SDICImageProcessor(*rows[0].shape[2:])
    lines = [np.concatenate([np.asarray(p) for p in processor.postprocess(row.cpu(), "pil")], axis=1) for row in rows]
    with replacing_file(path) as temporary:
        Image.fromarray(np.concatenate(lines, axis=0)).save(temporary, format="PNG")
