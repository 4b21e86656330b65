"""Counting multiply-accumulates: what a call costs, whatever the machine."""

from __future__ import annotations

from collections.abc import Callable

from torch.utils.flop_counter import FlopCounterMode


def count_macs(function: Callable[[], object]) -> int:
    """Run a function and count its multiply-accumulates.

    Every convolution (transposed and grouped ones too), linear layer and matrix product counts, wherever it is called
    from; element-wise operations do not.

    Args:
        function: Takes nothing; its result is dropped.
    """
    counter = FlopCounterMode(display=False)
    with counter:
        function()
    # torch counts a multiplication and an addition as two.
    return counter.get_total_flops() // 2
