"""Which images contribute to BatchNorm's running statistics.

In training BatchNorm normalises with the batch's own statistics, and keeps their moving average for evaluation mode. A
step that also passes other images than photos (synthetic or edited ones) would mix theirs in, and photos, which are
all that a pipeline sees, would later be normalised with statistics they never had in training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d


def batch_norms(*networks: nn.Module) -> list[BatchNorm]:
    """Return the BatchNorm layers of networks."""
    return [module for network in networks for module in network.modules() if isinstance(module, BatchNorm)]


@contextmanager
def keep_statistics(*networks: nn.Module) -> Iterator[None]:
    """Keep the running statistics of the networks' BatchNorm layers as they are inside the block."""
    layers = [layer for layer in batch_norms(*networks) if layer.training]
    momenta = [layer.momentum for layer in layers]
    counts = [_batches_seen(layer).clone() for layer in layers]
    for layer in layers:
        layer.momentum = 0.0
    try:
        yield
    finally:
        for layer, momentum, count in zip(layers, momenta, counts, strict=True):
            layer.momentum = momentum
            _batches_seen(layer).copy_(count)


def _batches_seen(layer: BatchNorm) -> torch.Tensor:
    assert layer.num_batches_tracked is not None  # all layers here track statistics
    return layer.num_batches_tracked


@torch.no_grad()
def estimate_statistics(
    networks: Iterable[nn.Module], forward: Callable[[torch.Tensor], object], batches: Iterable[torch.Tensor]
) -> None:
    """Set BatchNorm's running statistics to the average over batches, in place; the networks end in evaluation mode.

    Args:
        networks: Networks whose layers are set.
        forward: Passes a batch through them.
        batches: Images, as `forward` takes them.
    """
    networks = list(networks)
    layers = batch_norms(*networks)
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # the plain average of all batches
        layer.train()
    for batch in batches:
        forward(batch)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    for network in networks:
        network.eval()
