"""Clients at once, for seconds; two minutes of eight: python -m sdic_plugin.benchmarks.demo_load."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import pytest

pytest.importorskip("gradio_client")

from testing.demo_server import serving

from sdic_plugin.benchmarks import demo_load
from sdic_plugin.benchmarks.demo_load import memory_thirds, run_load


@pytest.mark.filterwarnings("ignore:Mean of empty slice", "ignore:invalid value")  # of three seconds' memory
def test_two_clients_at_once(cats64, monkeypatch):
    """A server in this process, whose memory says nothing."""

    @contextlib.contextmanager
    def serving_here(model: str) -> Iterator[tuple[str, int]]:
        with serving(cats64, model) as server:
            yield server.url, os.getpid()

    monkeypatch.setattr(demo_load, "serving_process", serving_here)
    report = run_load(clients=2, seconds=3, model="cats64")
    assert report.error_count == 0, report.errors
    assert report.wrong_pictures == 0
    assert report.answers >= 2  # one each


@pytest.mark.slow
def test_eight_clients_at_once():
    report = run_load(clients=8, seconds=20, model="cats64")
    assert report.error_count == 0, report.errors
    assert report.wrong_pictures == 0
    assert report.answers >= 8  # one each; on a machine that does nothing else there are hundreds
    assert report.growth < 15  # of half a minute that is mostly warm-up; two minutes say more


def test_growth_is_judged_after_the_warm_up():
    flat = [500.0 + min(second, 60) for second in range(180)]
    assert memory_thirds(flat) == [560.0, 560.0, 560.0]
    assert memory_thirds([float(second) for second in range(18)]) == [10.0, 13.0, 16.0]
