"""Loading a pipeline for a program: quietly, and as fast as this machine lets it be."""

from __future__ import annotations

import torch
from diffusers.utils import logging

from sdic_plugin.models.cpu.packing import packing_supported
from sdic_plugin.pipeline.sdic import SDICPipeline


def load_pipeline(model: str, dtype: str = "float32") -> SDICPipeline:
    """Load a model without diffusers' own progress bars, which would drown what the program has to say.

    Args:
        model: An existing folder, else a bundled name, else a Hub id.
        dtype: Name of a floating-point type of torch.
    """
    logging.disable_progress_bar()
    pipe = SDICPipeline.from_pretrained(model, dtype=getattr(torch, dtype))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def fuse_where_it_pays(pipe: SDICPipeline) -> bool:
    """Fuse a pipeline that a program loaded for itself, if it is in bfloat16 on a CPU that can; returns whether."""
    pays = pipe.dtype == torch.bfloat16 and pipe.device.type == "cpu" and packing_supported()
    if pays:
        pipe.fuse_convolutions()
    return pays
