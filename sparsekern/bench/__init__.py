"""Benchmarks beside every peer that is installed.

`measure` runs the suites of kernels, on a CPU and on a GPU; `training_step` and `memory` measure whole training steps.
Each returns a report: a header that describes the machine and `rows`, dicts with `case impl device dtype sparsity batch
ms ratio_to_dense bytes` and more. `markdown` renders it.
"""
