"""The benchmarks of kernels: what `sparsekern bench NAME` measures on each kind of device."""

from functools import partial

import torch

from ..ops.views import BITMASK
from . import (
    convolution_gpu_peers,
    convolution_peers,
    convolutions,
    linear,
    linear_gpu_peers,
    linear_peers,
    moment_peers,
    moments,
    threshold,
)
from .case import Suite
from .problem import Problem

_two = tuple(peer for peer in linear_peers.PEERS if peer.name in ("dense", "sparsekern"))
_images = partial(convolutions.ConvProblem, views=BITMASK, layout=torch.channels_last)

SUITES: dict[str, dict[str, Suite]] = {
    "cpu": {
        "kernels": Suite(linear_peers.PEERS, linear.cpu_cases, Problem),
        "convolutions": Suite(convolution_peers.PEERS, convolutions.cpu_cases, convolutions.ConvProblem),
        "crossovers": Suite(_two, linear.crossover_cases, Problem, budget=0.4),
        "moments": Suite(moment_peers.PEERS, moments.cpu_cases, moments.MomentProblem),
        "threshold": Suite(threshold.PEERS, threshold.cpu_cases, threshold.KthLargest, budget=6.0),
    },
    "cuda": {
        "kernels": Suite(linear_gpu_peers.GPU_PEERS, linear.gpu_cases, partial(Problem, views=BITMASK)),
        "convolutions": Suite(convolution_gpu_peers.GPU_PEERS, convolutions.gpu_cases, _images),
        "moments": Suite(moment_peers.GPU_PEERS, moments.gpu_cases, moments.gpu_problem),
        "threshold": Suite(threshold.GPU_PEERS, threshold.gpu_cases, threshold.LargestMask),
    },
}
