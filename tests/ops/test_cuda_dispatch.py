"""Operators and layers on tensors that say they are on a GPU and have no memory: shapes, dtypes and devices."""

from typing import Any

import pytest
import torch
from support import samples
from support.expected import run
from support.patterns import Sample
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

import sparsekern as sk
from sparsekern.ops.index import Index
from sparsekern.ops.library import OPERATORS

DTYPES = [(name, dtype) for name in samples.SAMPLES for dtype in (torch.float32, torch.bfloat16)]
CASES = [
    pytest.param(name, dtype, id=f"{name}-{str(dtype)[6:]}") for name, dtype in DTYPES if dtype in samples.DTYPES[name]
]


def faked(mode: FakeTensorMode, argument: Any) -> Any:
    if isinstance(argument, list | tuple):
        return type(argument)(faked(mode, item) for item in argument)
    if not isinstance(argument, Tensor):
        return argument
    fake = mode.from_tensor(argument.detach())
    with mode:
        return fake.to("cuda")


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_results_are_like_those_on_the_cpu(name: str, dtype: torch.dtype) -> None:
    op = getattr(torch.ops.sparsekern, name)
    plain = OPERATORS[name].reference
    every = samples.SAMPLES[name](dtype)
    for sample in (every[0], every[-1]):
        wanted = run(plain, sample, name)
        mode = FakeTensorMode()
        given = Sample(sample.name, faked(mode, sample.args), sample.pattern)
        with mode:
            results = run(op, given, name)
        for got, want in zip(results, wanted, strict=True):
            assert (got.shape, got.dtype) == (want.shape, want.dtype), sample.name
            assert got.device.type == "cuda"


def to_gpu(layer: Any, mode: FakeTensorMode) -> None:
    index = [faked(mode, tensor) for tensor in layer.index]
    for name, parameter in layer._parameters.items():
        layer._parameters[name] = nn.Parameter(faked(mode, parameter)) if parameter is not None else None
    layer._index = Index(*index)


LAYERS = {
    "SparseLinear": (lambda **o: sk.SparseLinear(70, 20, sparsity=0.8, **o), (4, 70)),
    "MaskedLinear": (lambda **o: sk.MaskedLinear(70, 20, sparsity=0.8, **o), (4, 70)),
    "MaskedLinear, moment": (
        lambda **o: sk.MaskedLinear(70, 20, sparsity=0.8, weight_gradient="moment", **o),
        (4, 3, 70),
    ),
    "SparseConv2d": (lambda **o: sk.SparseConv2d(6, 8, 3, padding=1, sparsity=0.8, **o), (4, 6, 5, 5)),
    "MaskedConv2d": (lambda **o: sk.MaskedConv2d(6, 8, 3, padding=1, sparsity=0.8, **o), (4, 6, 5, 5)),
}


@pytest.mark.parametrize("kernel", ["dense", "bits"])
@pytest.mark.parametrize("name", LAYERS)
def test_layers_look_at_no_number(name: str, kernel: str) -> None:
    """A fake tensor has none: whatever waited for the GPU would raise. Autograd itself needs a driver."""
    make, shape = LAYERS[name]
    layer = make(dtype=torch.bfloat16)
    layer.set_kernel("dense", "for the test")
    wanted = layer(torch.randn(shape, dtype=torch.bfloat16))
    layer.set_kernel(kernel, "for the test")
    mode = FakeTensorMode()
    to_gpu(layer, mode)
    with mode:
        output = layer(torch.empty(shape, dtype=torch.bfloat16, device="cuda", requires_grad=True))
    assert (output.shape, output.dtype, output.device.type) == (wanted.shape, torch.bfloat16, "cuda")
    assert output.requires_grad
