"""NumPy's numbers and arrays inside PyTorch files."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy._core import multiarray

DTYPES = ("bool", "float16", "float32", "float64", "int32", "int64", "uint8")
NUMPY_GLOBALS: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    multiarray._reconstruct,
    multiarray.scalar,
    (multiarray._reconstruct, "numpy.core.multiarray._reconstruct"),  # as NumPy 1 wrote them
    (multiarray.scalar, "numpy.core.multiarray.scalar"),
    np.ndarray,
    np.dtype,
    *(type(np.dtype(name)) for name in DTYPES),
]
"""What rebuilds NumPy's arrays and numbers inside a .pt file; nothing but arrays can come of it."""
