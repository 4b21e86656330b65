"""What becomes of freed memory: kept for the next tensor, which is fast, or given back to the system, which is frugal.

By default glibc asks the system for every block of more than 32 MiB and gives it back when it is freed, so that a
feature map costs more time to be mapped, page by page, than to be computed. And every thread gets a heap of its own,
in which tensors and photos leave holes. Both functions set glibc's mallopt(3) for the whole process; other C
libraries are left as they are. Call one of them once, at the start of a program.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
from typing import TYPE_CHECKING

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

if TYPE_CHECKING:
    import torch

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -3, -4, -8
"""Names of mallopt's parameters."""

LARGE_BLOCK = 256 << 10
"""Size in bytes from which a server's blocks are mapped on their own, and unmapped when they are freed."""

NEVER = -1

ARENAS = 2


def keep_freed_memory() -> None:
    """Keep what is freed for what comes next: the process stays at its largest size, and feature maps cost no mapping.

    All commands but `sdic demo` do this. Scripts and notebooks must call it themselves, as it affects the whole
    process.
    """
    _set_malloc({M_MMAP_MAX: 0, M_TRIM_THRESHOLD: NEVER})


def return_freed_memory() -> None:
    """Keep no large freed blocks, so that a server's memory stays flat.

    By default the size from which blocks are mapped on their own grows with use: tensors and photos then leave holes
    in the heaps of all threads, and memory creeps upwards although nothing leaks.
    """
    _set_malloc({M_ARENA_MAX: ARENAS, M_MMAP_THRESHOLD: LARGE_BLOCK, M_TRIM_THRESHOLD: LARGE_BLOCK})


def _set_malloc(parameters: dict[int, int]) -> None:
    if not sys.platform.startswith("linux"):
        return
    with contextlib.suppress(OSError, AttributeError):  # a C library without mallopt
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        for parameter, value in parameters.items():
            mallopt(parameter, value)


def peak_memory(device: torch.device) -> int | None:
    """Most memory in bytes so far: of tensors on a GPU, else of this process; None where the system does not say."""
    if device.type == "cuda":
        import torch  # after arguments are checked: commands import this module first

        return torch.cuda.max_memory_allocated(device)
    if resource is None:
        return None
    # Linux counts in kibibytes, macOS in bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
