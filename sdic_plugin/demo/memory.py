"""Give freed memory back to the system, so that a server's memory stays flat."""

from __future__ import annotations

import contextlib
import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
"""Names of glibc's mallopt(3)."""

LARGE_BLOCK = 256 << 10
"""Bytes from which a block is mapped on its own, and unmapped when it is freed."""

ARENAS = 2


def return_freed_memory() -> None:
    """Tell glibc's malloc to keep no large freed blocks; other C libraries are left as they are.

    By default every thread of the server gets a heap of its own, and the size from which blocks are mapped on their
    own grows with use: tensors and photos then leave holes in all heaps, and memory creeps upwards although nothing
    leaks.
    """
    if not sys.platform.startswith("linux"):
        return
    with contextlib.suppress(OSError, AttributeError):  # another C library
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        for parameter, value in (
            (M_ARENA_MAX, ARENAS),
            (M_MMAP_THRESHOLD, LARGE_BLOCK),
            (M_TRIM_THRESHOLD, LARGE_BLOCK),
        ):
            mallopt(parameter, value)
