"""The problems of each kind."""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from typing import Any

import torch

from ..moments import Conv2d, Linear
from .case import Case
from .convolutions import convolution_cases
from .linear import linear_cases
from .moments import moment_cases
from .threshold import threshold_cases

DTYPES = (torch.bfloat16, torch.float32)
SPARSITIES = (0.8, 0.9, 0.95, 0.98)
LINEAR = [(4096, 4096, batch) for batch in (1, 16, 64, 128, 256, 1024, 8192)]  # in, out, batch
LINEAR += [(1024, 1024, batch) for batch in (128, 8192)]
# in, out, kernel, stride, height and width, batch
CONVOLUTIONS = [(64, 64, 3, 1, 32, 128), (256, 256, 3, 1, 8, 128), (512, 512, 1, 1, 14, 128)]
MOMENTS = [
    *(Linear(4096, 4096, samples, 0, 0.9) for samples in (16, 64, 256, 1024, 8192)),
    *(Linear(4096, 4096, samples, 64, 0.9) for samples in (4, 16, 128)),
    *(Linear(1024, 1024, samples, 0, 0.9) for samples in (128, 8192)),
    Linear(1024, 1024, 64, 16, 0.9),
    Linear(1024, 1024, 128, 64, 0.9),
    Conv2d(64, 64, 32, 128, 0.9),
    Conv2d(256, 256, 8, 128, 0.9),
    Conv2d(512, 512, 14, 128, 0.9, kernel=1),
]
# Of each kind what makes its cases, and from what, beside dtype and device.
SUITE: dict[str, tuple[Callable[..., list[Case]], list[Any]]] = {
    "kernels": (linear_cases, list(product(LINEAR, SPARSITIES))),
    "convolutions": (convolution_cases, list(product(CONVOLUTIONS, SPARSITIES))),
    "moments": (moment_cases, [(layer,) for layer in MOMENTS]),
    "threshold": (threshold_cases, [(100_000_000,)]),
}
QUICK: dict[str, list[Any]] = {
    "kernels": list(product([(96, 160, 8)], SPARSITIES)),
    "convolutions": list(product([(8, 8, 3, 1, 6, 2)], SPARSITIES)),
    "moments": [(Linear(96, 160, 8, 0, 0.9),), (Linear(96, 160, 3, 5, 0.9),), (Conv2d(8, 6, 6, 4, 0.9),)],
    "threshold": [(10_000,)],
}


def suite(kind: str, device: torch.device, quick: bool = False) -> Iterator[Callable[[], list[Case]]]:
    """Makers of the cases of a kind, so that one problem lives at a time; `quick` has a few small ones."""
    make, problems = SUITE[kind]
    for dtype in DTYPES if kind != "threshold" else (torch.float32,):  # in 16 bits many weights are equally large
        yield from (partial(make, *problem, dtype, device) for problem in (QUICK[kind] if quick else problems))


def implementations(kind: str) -> list[str]:
    """The names of all that are compared."""
    cases = [case for make in suite(kind, torch.device("cpu"), quick=True) for case in make()]
    return list(dict.fromkeys(name for case in cases for name in (*case.calls, *case.missing)))
