"""Whether a tensor of a file is what the code expects: plain numbers in memory, as many as its shape says."""

from __future__ import annotations

import torch


def tensor_problem(tensor: torch.Tensor) -> str | None:
    """Say in words what a tensor is instead of plain numbers ("is sparse"); None if nothing is wrong with it."""
    if tensor.is_nested:
        return "is nested"
    if tensor.layout != torch.strided:
        return "is sparse"
    if tensor.is_meta:
        return "holds no numbers, only a shape"
    if tensor.is_quantized:
        return "is quantized"
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        return f"declares the shape {list(tensor.shape)}, but holds fewer numbers"
    return None
