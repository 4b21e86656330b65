"""What the processes of one run exchange.

Networks are not wrapped in DistributedDataParallel: it expects one forward pass per backward pass through the same
part of one network, while GANs pass several times, differentiate twice and leave parts unused. Gradients are averaged
after the backward pass instead, one network at a time.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

import torch
from accelerate import Accelerator
from accelerate.utils import parse_flag_from_env
from torch import nn


def computes_on_cpu() -> bool:
    """Whether accelerate must be told to use the CPU: by its own variable, or under `torchrun` where nothing else is.

    Without being told, accelerate takes the processes of `torchrun` on a machine without a GPU for unconnected runs.
    """
    launched = int(os.environ.get("LOCAL_RANK", -1)) != -1
    return parse_flag_from_env("ACCELERATE_USE_CPU") or (launched and not torch.accelerator.is_available())


@torch.no_grad()
def average_gradients(accelerator: Accelerator, parameters: list[nn.Parameter]) -> None:
    """Replace gradients by their mean over the processes; a parameter that none has used stays without one."""
    used = torch.tensor([float(p.grad is not None) for p in parameters], device=accelerator.device)
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    flat = torch.cat([used, *(gradient.flatten() for gradient in gradients)])
    flat = accelerator.reduce(flat, "mean")
    pieces = flat[len(parameters) :].split([p.numel() for p in parameters])
    for parameter, was_used, piece in zip(parameters, flat[: len(parameters)].tolist(), pieces, strict=True):
        parameter.grad = piece.view(parameter.shape).to(parameter.dtype) if was_used else None


@torch.no_grad()
def share_first(accelerator: Accelerator, tensors: Iterable[torch.Tensor]) -> None:
    """Give every process the first one's values."""
    for tensor in tensors:
        value = tensor if accelerator.is_main_process else torch.zeros_like(tensor)
        tensor.copy_(accelerator.reduce(value.contiguous(), "sum"))


@torch.no_grad()
def average_buffers(accelerator: Accelerator, models: Iterable[nn.Module]) -> None:
    """Replace float buffers, such as BatchNorm's statistics, by their mean over the processes.

    The mean is taken of the differences to the first process, so that what is equal stays exactly what it is.
    """
    for model in models:
        buffers = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
        if not buffers:
            continue
        mine = torch.cat([buffer.flatten().float() for buffer in buffers])
        first = accelerator.reduce(mine if accelerator.is_main_process else torch.zeros_like(mine), "sum")
        mean = first + accelerator.reduce(mine - first, "mean")
        for buffer, piece in zip(buffers, mean.split([buffer.numel() for buffer in buffers]), strict=True):
            buffer.copy_(piece.view(buffer.shape))


def mean_figures(accelerator: Accelerator, figures: list[dict[str, float]]) -> dict[str, float]:
    """Mean of each figure over micro-batches and processes, which must all have the same figures."""
    keys = list(figures[0])
    if len(figures) == 1 and accelerator.num_processes == 1:
        return figures[0]
    values = torch.tensor([[each[key] for key in keys] for each in figures], dtype=torch.float64).mean(dim=0)
    if accelerator.num_processes > 1:
        values = accelerator.reduce(values.to(accelerator.device), "mean")
    return dict(zip(keys, values.tolist(), strict=True))
