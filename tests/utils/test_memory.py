"""Freed memory is kept or given back, whichever the program asked for."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

import sdic_plugin

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc only")

MODULE = Path(sdic_plugin.__file__).parent / "utils" / "memory.py"
START = """
import os, resource, runpy, sys
from pathlib import Path
import numpy as np
set_malloc = runpy.run_path(sys.argv[1])  # alone: the package would take seconds to import
resident = lambda: int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
"""


def run(code: str) -> str:
    """Run code in a process of its own; returns what it prints."""
    command = [sys.executable, "-c", START + code, str(MODULE)]
    return subprocess.run(command, check=True, timeout=120, capture_output=True, text=True).stdout


def test_freed_memory_goes_back_to_the_system():
    """Blocks of the size that raises glibc's own threshold are freed between small ones that stay."""
    run("""
set_malloc["return_freed_memory"]()
np.ones(20 << 20, np.uint8)  # freed: without the setting, blocks of up to this size are no longer mapped alone
before, kept = resident(), []
for _ in range(4):
    large = [(np.ones(8 << 20, np.uint8), kept.append(np.ones(4000, np.uint8))) for _ in range(8)]
    assert resident() > before + 50
    del large
assert resident() < before + 10, (before, resident())
""")


def test_freed_memory_is_kept_for_what_comes_next():
    """A feature map of 64 MiB costs page faults once, not every time."""
    again = """
np.ones(64 << 20, np.uint8)
before = faults()
for _ in range(5):
    np.ones(64 << 20, np.uint8)
print(faults() - before)
"""
    kept = int(run('set_malloc["keep_freed_memory"]()' + again))
    assert kept < 100
    assert int(run(again)) > 10 * max(kept, 10)  # else the setting would do nothing
