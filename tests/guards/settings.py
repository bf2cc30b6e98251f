"""Where a generated case runs: instruction set and threads."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from sparsekern.ops import extension

ISAS = list(extension.isas()) if extension is not None else ["fallback"]
THREADS = (1, 1, 2)


@contextmanager
def running(isa: str, threads: int) -> Iterator[None]:
    """On these, and afterwards on those of before."""
    before = torch.get_num_threads(), extension.isa() if extension is not None else ""
    torch.set_num_threads(threads)
    if extension is not None:
        extension._set_isa(isa)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        if extension is not None:
            extension._set_isa(before[1])
