"""Eight clients at once, for 20 seconds; two minutes of it: python -m sdic_plugin.benchmarks.demo_load."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("gradio_client")

import sdic_plugin
from sdic_plugin.benchmarks.demo_load import memory_thirds, run_load


def test_eight_clients_at_once():
    report = run_load(clients=8, seconds=20)
    assert report.error_count == 0, report.errors
    assert report.wrong_pictures == 0
    assert report.answers >= 8  # one each; on a machine that does nothing else there are hundreds
    assert report.growth < 15  # of half a minute that is mostly warm-up; two minutes say more


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc only")
def test_freed_memory_goes_back_to_the_system():
    """Blocks of the size that raises glibc's own threshold are freed between small ones that stay."""
    code = """
import os
import runpy
import sys
from pathlib import Path
import numpy as np
runpy.run_path(sys.argv[1])["return_freed_memory"]()  # alone: the package would take seconds to import
resident = lambda: int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20
np.ones(20 << 20, np.uint8)  # freed: without the setting, blocks of up to this size are no longer mapped alone
before, kept = resident(), []
for _ in range(4):
    large = [(np.ones(8 << 20, np.uint8), kept.append(np.ones(4000, np.uint8))) for _ in range(8)]
    assert resident() > before + 50
    del large
assert resident() < before + 10, (before, resident())
"""
    module = Path(sdic_plugin.__file__).parent / "demo/memory.py"
    subprocess.run([sys.executable, "-c", code, str(module)], check=True, timeout=120)


def test_growth_is_judged_after_the_warm_up():
    flat = [500.0 + min(second, 60) for second in range(180)]
    assert memory_thirds(flat) == [560.0, 560.0, 560.0]
    assert memory_thirds([float(second) for second in range(18)]) == [10.0, 13.0, 16.0]
