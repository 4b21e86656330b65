"""Eight clients at once, for 20 seconds; two minutes of it: python -m sdic_plugin.benchmarks.demo_load."""

from __future__ import annotations

import pytest

pytest.importorskip("gradio_client")

from sdic_plugin.benchmarks.demo_load import run_load


def test_eight_clients_at_once():
    report = run_load(clients=8, seconds=20)
    assert report.error_count == 0, report.errors
    assert report.wrong_pictures == 0
    assert report.answers >= 8  # one each; on a machine that does nothing else there are hundreds
    assert report.memory_end < 1.25 * report.memory_start
