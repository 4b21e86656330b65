"""What training at the published size computes."""

from __future__ import annotations

from sdic_plugin.benchmarks.large_model_cost import count_steps


def test_each_second_look_adds_itself_and_the_rendering_it_looks_at():
    without, one, two = (count_steps(looks, channels=32) for looks in (0, 1, 2))
    assert 0 < without["compensation, DICN alone"] < without["compensation"]
    for stage in without:
        assert without[stage] < one[stage] < two[stage]
        assert abs((two[stage] - one[stage]) / (one[stage] - without[stage]) - 1) < 0.01, stage
