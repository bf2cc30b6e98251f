"""`sparsekern bench convolutions`: a row per operation, convolution and implementation."""

from collections.abc import Sequence
from typing import Any

from . import kernels
from .cases import Case
from .conv_cases import suite
from .conv_peers import PEERS


def run(cases: Sequence[Case] | None = None, *, quick: bool = False, **options: Any) -> dict:
    """`kernels.run` on the cases of `suite`, beside the peers that have convolutions."""
    options = {"peers": PEERS, **options}
    return kernels.run(suite(quick) if cases is None else cases, benchmark="convolutions", **options)
