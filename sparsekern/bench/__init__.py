"""Benchmarks: kernels, memory and thresholds beside every peer that is installed.

`kernels.run`, `memory.run` and `threshold.run` return a report: a header that describes the machine and `rows`, dicts
with `case impl device dtype sparsity batch ms ratio_to_dense bytes` and more. `table` renders it as markdown.
"""
