"""Which shortcuts the networks take without gradients (`inference`, `packing`), and how to do without them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch

OPTIMIZATIONS = ("styles", "norms", "layout", "volumes", "packing")
"""The first four are told in `sdic_plugin.models.inference`, packing in `sdic_plugin.models.packing`."""

_left_out: frozenset[str] = frozenset()


@contextmanager
def without(*names: str) -> Iterator[None]:
    """Leave out some of `OPTIMIZATIONS` within this context; for tests and benchmarks, of one thread."""
    global _left_out
    before, _left_out = _left_out, _left_out | set(names)
    try:
        yield
    finally:
        _left_out = before


def plain_layers() -> AbstractContextManager[None]:
    """Within this context layers compute as their own `forward` says."""
    return without(*OPTIMIZATIONS)


def fast_path_applies(x: torch.Tensor, optimization: str) -> bool:
    """Whether an optimisation may stand in for a layer's own way: nothing is recorded, traced or compiled."""
    return (
        optimization not in _left_out
        and not torch.is_grad_enabled()
        and x.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
    )
