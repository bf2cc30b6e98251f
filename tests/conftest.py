"""Fixtures that every test file may use."""

import os
import signal
import sys
from collections.abc import Callable, Iterator

import pytest
import torch
from support.devices import DEVICES
from support.interpreter import use_interpreter

from sparsekern.ops import extension

if torch.cuda.is_available():
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without which cuBLAS is not deterministic
    torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic = False, True
else:
    use_interpreter()

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell tells its background jobs so, and they their children
    signal.signal(signal.SIGINT, signal.default_int_handler)

# What was measured on this machine is its user's: tests go by the committed tables.
os.environ["SPARSEKERN_CACHE"] = os.path.join(os.path.dirname(__file__), "no", "cache")

ISAS = list(extension.isas()) if extension is not None else ["fallback"]


@pytest.fixture(autouse=True)
def _deterministic() -> Iterator[None]:
    """The same seed, one thread and compilation for every test, whatever ran before it."""
    threads = torch.get_num_threads()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    if "torch._dynamo" in sys.modules:
        torch.compiler.set_stance("default")  # a sparsifier that was armed when its test ended
        torch.compiler.reset()  # PyTorch compiles the forward of a class anew eight times at most


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    """Runs the test on the CPU and, if there is one, on a GPU."""
    return request.param


@pytest.fixture
def poisoned() -> Iterator[None]:
    """Fresh tensors are full of NaN, so that what a kernel leaves unwritten shows."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs the test once for every instruction set of this processor, or once on plain PyTorch."""
    if extension is None:
        yield request.param
        return
    before = extension.isa()
    extension._set_isa(request.param)
    yield request.param
    extension._set_isa(before)


@pytest.fixture
def threads() -> Callable[[int], None]:
    """`threads(n)` computes with `n` threads from here to the end of the test."""
    return torch.set_num_threads
