"""Benchmarks: what `sdic bench` and `python -m sdic_plugin.benchmarks.NAME` run."""
