"""Keyword arguments of renderings, as types for functions that pass them on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np
import torch

from sdic_plugin.images.processor import ImageInput
from sdic_plugin.pipeline.auto_mask import AutoMask

MaskInput = ImageInput | AutoMask | Sequence[ImageInput]
"""What `mask` takes: an image or array, one per photo, "auto" or an `AutoMask`."""

LatentsInput = torch.Tensor | np.ndarray | Sequence[Any]
"""What `latents` takes, and `styles` of each layer: a tensor, an array, or nested lists of numbers."""


class RenderOptions(TypedDict, total=False):
    """How a photo's detail is put back; see `SDICPipeline.edit`."""

    feature_edit: str | None
    compensation: float
    mask: MaskInput | None


class EditOptions(RenderOptions, total=False):
    """Arguments of `SDICPipeline.edit` beside the edits and the kind of output."""

    latents: LatentsInput | None
    latents_from: str
    styles: Sequence[LatentsInput] | None
    batch_size: int


class CallOptions(RenderOptions, total=False):
    """Arguments of `SDICPipeline.__call__` beside the edits and the kind of output."""

    latents: LatentsInput | None
    generator: torch.Generator | list[torch.Generator] | None
    batch_size: int
