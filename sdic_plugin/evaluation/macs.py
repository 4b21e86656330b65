"""Counting multiply-accumulates: what a call costs, whatever the machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


def count_macs(function: Callable[[], object]) -> int:
    """Run a function and count its multiply-accumulates.

    Every convolution (transposed and grouped ones too), linear layer and matrix product counts, wherever it is called
    from; element-wise operations do not.

    Args:
        function: Takes nothing; its result is dropped.
    """
    with _FlopCounter() as counter:
        function()
    # torch counts a multiplication and an addition as two.
    return counter.flops // 2


class _FlopCounter(TorchDispatchMode):
    """Adds up torch's own formulas; its `FlopCounterMode` also tracks modules, which fails without gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: tuple[type, ...],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> object:
        kwargs = kwargs or {}
        formula = flop_registry.get(func.overloadpacket)
        if formula is None:
            with self:
                # Under inference_mode, linear layers arrive whole.
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        result = func(*args, **kwargs)
        if formula is not None:
            self.flops += formula(*args, **kwargs, out_val=result)
        return result
