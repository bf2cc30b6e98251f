"""The Triton kernels against a computation on dense masks: on the GPU if there is one, else in Triton's interpreter."""

from typing import Any

import pytest
import samples
import torch
from devices import DEVICES, moved_sample
from expected import expected, run
from torch import Tensor

from sparsekern.ops import backend, cuda

pytest.importorskip("triton", reason="comes with the CUDA build of PyTorch")
from sparsekern.ops.triton.launch import recorded

DEVICE = DEVICES[-1]
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}
CASES = [
    pytest.param(name, dtype, id=f"{name}-{str(dtype)[6:]}")
    for name, dtype in samples.cases()
    if name in cuda.TRITON and (dtype != torch.float64 or name in cuda.FLOAT64)
]


def to_meta(argument: Any) -> Any:
    """Of the same shape and strides, without memory."""
    if isinstance(argument, list):
        return [to_meta(item) for item in argument]
    if not isinstance(argument, Tensor):
        return argument
    return torch.empty_strided(argument.shape, argument.stride(), dtype=argument.dtype, device="meta")


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_against_dense(name: str, dtype: torch.dtype) -> None:
    for sample in samples.SAMPLES[name](dtype):
        given = moved_sample(sample, DEVICE)
        for actual, want in zip(run(cuda.kernel(name), given, name), expected(name, sample), strict=True):
            exact = not want.is_floating_point()
            assert not exact or actual.dtype == want.dtype, sample.name
            scale = float(want.abs().max()) if not exact and want.numel() and want.isfinite().all() else 1
            tolerance = 0 if exact else TOLERANCE[dtype]
            torch.testing.assert_close(
                actual.cpu().to(want.dtype),
                want,
                rtol=tolerance,
                atol=tolerance * scale,
                msg=lambda message, s=sample: f"{s.name}: {message}",
            )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_moment_of_what_one_sample_moves(dtype: torch.dtype) -> None:
    """It is the square of the gradient: squares of 16-bit numbers are not rounded to 16 bits."""
    delta, h = (torch.randn(1, n, device=DEVICE).to(dtype) for n in (40, 50))
    for others in (0, 3):
        rest = (torch.zeros(others, n, dtype=dtype, device=DEVICE) for n in (40, 50))
        gradient, moment = cuda.kernel("gradient_moment")(
            *(torch.cat([some, none]) for some, none in zip((delta, h), rest, strict=True))
        )
        torch.testing.assert_close(moment, gradient**2, rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", [name for name in cuda.TRITON if name.startswith("sparse_")])
def test_a_step_waits_for_no_value(name: str) -> None:
    """Tensors without memory have none to read; what the kernels return is what compiled code is told to expect."""
    told = getattr(torch.ops.sparsekern, name)
    for sample in samples.SAMPLES[name](torch.float32):
        arguments = [to_meta(argument) for argument in sample.args]
        with recorded():
            results = cuda.kernel(name)(*arguments)
        wanted = told(*arguments)
        pairs = [(results, wanted)] if isinstance(results, Tensor) else zip(results, wanted, strict=True)
        for result, want in pairs:
            assert (result.shape, result.stride(), result.dtype) == (want.shape, want.stride(), want.dtype), sample.name


@pytest.mark.parametrize("name", cuda.TRITON)
def test_dispatch_takes_them_for_cuda_tensors(name: str) -> None:
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"sparsekern::{name}", "CUDA")


def test_choice_on_a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    assert backend.choose(1024, 1024, 0.02, card="A card").kernel == "dense"
    assert backend.choose_conv(64, 64, (3, 3), (1, 1), 0.02, card="A card").kernel == "dense"
    assert backend.choose(1024, 1024, 0.5, backend="sparse", card="A card").kernel == "bits"
    monkeypatch.setattr(backend, "_cards", lambda: {"A card": {"linear": 0.1}})
    assert backend.choose(1024, 1024, 0.1, card="A card").kernel == "bits"
    assert backend.choose(1024, 1024, 0.2, card="A card").kernel == "dense"
    assert backend.choose_conv(64, 64, (3, 3), (1, 1), 0.02, card="A card").kernel == "dense"
