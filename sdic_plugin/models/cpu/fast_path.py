"""Which shortcuts the networks take without gradients (`inference`, `packing`), and how to switch them off."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar

import torch

OPTIMIZATIONS = ("styles", "norms", "layout", "volumes", "packing")
"""The first four are documented in `sdic_plugin.models.cpu.inference`, packing, of fused networks only, in
`sdic_plugin.models.cpu.packing`."""

_left_out: ContextVar[frozenset[str]] = ContextVar("left_out", default=frozenset())


@contextmanager
def without(*names: str) -> Iterator[None]:
    """Leave out some of `OPTIMIZATIONS` within this context, in this thread; for tests and benchmarks."""
    token = _left_out.set(_left_out.get() | set(names))
    try:
        yield
    finally:
        _left_out.reset(token)


def plain_layers() -> AbstractContextManager[None]:
    """Within this context layers compute as their own `forward` says."""
    return without(*OPTIMIZATIONS)


def fast_path_applies(x: torch.Tensor, optimization: str) -> bool:
    """Whether an optimisation may stand in for a layer's own way: nothing is recorded, traced or compiled."""
    return (
        not torch.compiler.is_compiling()
        and not torch.is_grad_enabled()
        and x.device.type == "cpu"
        and not torch.jit.is_tracing()
        and optimization not in _left_out.get()
    )
