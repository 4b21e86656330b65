"""Which precision a device computes by itself: bfloat16 that is emulated is slower than float32, not faster."""

from __future__ import annotations

import contextlib
import logging
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


def computes_bfloat16(device: torch.device) -> bool:
    """Whether a device has instructions for products of bfloat16 (on CPUs: AVX-512 BF16 or AMX)."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return False


def warn_of_emulation(dtype: torch.dtype, device: torch.device) -> None:
    """Log one sentence where a pipeline is to run in bfloat16 on a CPU that only emulates it."""
    if dtype == torch.bfloat16 and device.type == "cpu" and not computes_bfloat16(device):
        logger.warning(
            "bfloat16 was asked for, which this CPU has no instructions for, so that everything takes many times as "
            "long as in float32: leave --dtype out."
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

    Warns where bfloat16 was asked for by name of a CPU that only emulates it.

    Raises:
        SDICError: If float16 was asked for of a CPU, where accelerate would train in float32 and not say so.
    """
    if wanted == "fp16" and device.type == "cpu":
        raise SDICError("mixed_precision is 'fp16', which only GPUs train in: give 'bf16', 'no' or 'auto' on a CPU.")
    native = computes_bfloat16(device)
    if wanted == "auto":
        return "bf16" if native else "no"
    if wanted == "bf16" and device.type == "cpu" and not native:
        warnings.warn(
            'mixed_precision is "bf16", which this CPU has no instructions for, so that a step takes many times as '
            'long as in float32: set it to "auto" or "no".',
            stacklevel=3,
        )
    return wanted
