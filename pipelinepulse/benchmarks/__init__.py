"""Benchmarks: what we do against a bare loop that does the same, in the same run.

`make bench` runs them; figures are ratios, because absolute times belong to a machine. Each
benchmark is a module with `run(bench) -> list[Figure]`.
"""
