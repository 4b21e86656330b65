"""Which precision a device is fast in: bfloat16 is slower than float32 on many CPUs, not faster."""

from __future__ import annotations

import contextlib
import functools
import logging
import time
import warnings
from collections.abc import Iterator
from typing import Literal, get_args

import torch

from sdic_plugin.errors import SDICError

logger = logging.getLogger(__name__)

DTYPES = ("float32", "float16", "bfloat16")
"""Names of the dtypes that commands take; attributes of torch."""

Precision = Literal["auto", "no", "bf16", "fp16"]
PRECISIONS = get_args(Precision)
"""Values of the setting `mixed_precision`; "auto" becomes "bf16" or "no", by the device."""


MEASURED_SIDE, MEASURED_REPEATS = 512, 5
WORTHWHILE = 1.2
"""Times as fast as float32 that bfloat16 must be on a CPU, to be worth its rounding and the measurement's noise."""


def bfloat16_pays(device: torch.device) -> bool:
    """Whether products are faster in bfloat16 than in float32: on GPUs by their kind, on CPUs by a measurement.

    A CPU's flags do not tell: some with AVX-512 BF16 instructions multiply matrices twice as fast in float32.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and bfloat16_speedup(torch.get_num_threads()) >= WORTHWHILE


@functools.cache
def bfloat16_speedup(threads: int) -> float:
    """Rate of a matrix product in bfloat16 over that in float32 on this CPU, measured once in some milliseconds.

    Args:
        threads: That torch computes with; for another number it is measured again.
    """
    return _seconds_of_product(torch.float32) / _seconds_of_product(torch.bfloat16)


def _seconds_of_product(dtype: torch.dtype) -> float:
    """Least time of a product of two square matrices, the first of which warms up."""
    matrix = torch.ones(MEASURED_SIDE, MEASURED_SIDE, dtype=dtype)
    times = []
    for _ in range(1 + MEASURED_REPEATS):
        start = time.perf_counter()
        matrix @ matrix
        times.append(time.perf_counter() - start)
    return min(times[1:])


def warn_of_slow_bfloat16(dtype: torch.dtype, device: torch.device) -> None:
    """Log one sentence where a pipeline is to run in bfloat16 on a CPU that is faster in float32."""
    if dtype == torch.bfloat16 and device.type == "cpu" and not bfloat16_pays(device):
        logger.warning(
            f"bfloat16 was asked for, in which this CPU multiplies {bfloat16_speedup(torch.get_num_threads()):.2g} "
            "times as fast as in float32: leave --dtype out."
        )


FALSE_ALARMS = {
    "diffusers.pipelines.pipeline_utils": "Pipelines loaded with `dtype=torch.float16` cannot run with `cpu`",
    "diffusers.models.modeling_utils": "that should be kept in float32: [].",
}
"""By logger, what diffusers warns of when a pipeline is moved or cast, and what is not so.

PyTorch computes in float16 on CPUs all that these networks need, and none of their modules must stay in float32.
"""


@contextlib.contextmanager
def without_false_alarms() -> Iterator[None]:
    """Leave out diffusers' `FALSE_ALARMS`, and no other message."""

    def is_true(record: logging.LogRecord) -> bool:
        return FALSE_ALARMS[record.name] not in record.getMessage()

    loggers = [logging.getLogger(name) for name in FALSE_ALARMS]
    for each in loggers:
        each.addFilter(is_true)
    try:
        yield
    finally:
        for each in loggers:
            each.removeFilter(is_true)


def resolve_precision(wanted: Precision, device: torch.device) -> Precision:
    """Return the precision to train in: "no", "bf16" or "fp16".

    Warns where bfloat16 was asked for by name of a CPU that is faster in float32.

    Raises:
        SDICError: If float16 was asked for of a CPU, where accelerate would train in float32 and not say so.
    """
    if wanted == "fp16" and device.type == "cpu":
        raise SDICError("mixed_precision is 'fp16', which only GPUs train in: give 'bf16', 'no' or 'auto' on a CPU.")
    if wanted == "auto":
        return "bf16" if bfloat16_pays(device) else "no"
    if wanted == "bf16" and device.type == "cpu" and not bfloat16_pays(device):
        warnings.warn(
            f'mixed_precision is "bf16", in which this CPU multiplies {bfloat16_speedup(torch.get_num_threads()):.2g} '
            'times as fast as in float32: set it to "auto" or "no".',
            stacklevel=3,
        )
    return wanted
