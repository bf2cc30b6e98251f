"""The Triton kernels against a computation on dense masks: on the GPU if there is one, else in Triton's interpreter."""

from typing import Any

import pytest
import torch
from support import samples
from support.devices import DEVICES, moved_sample
from support.expected import compare, run
from torch import Tensor

from sparsekern.ops import cuda, host

pytest.importorskip("triton", reason="comes with the CUDA build of PyTorch")
from sparsekern.ops.triton.launch import recorded

DEVICE = DEVICES[-1]
CASES = [
    pytest.param(name, dtype, id=f"{name}-{str(dtype)[6:]}")
    for name, dtype in samples.cases()
    if name in cuda.TRITON and (dtype != torch.float64 or name in cuda.FLOAT64)
]
# Of many samples, every so manieth: these are for the counting of the CPU, and the interpreter is slow.
EVERY = {"topk_mask": 5, "kth_largest": 7}


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
    for sample in samples.SAMPLES[name](dtype)[:: EVERY.get(name, 1) if DEVICE == "cpu" else 1]:
        given = moved_sample(sample, DEVICE)
        compare(run(cuda.kernel(name), given, name), name, sample, dtype)


@pytest.mark.usefixtures("poisoned")
def test_largest_wherever_they_are() -> None:
    """Tensors that begin anywhere, in any order of dimensions, of several chunks, with ties across them."""
    flat = torch.randint(-99, 99, (9000,)).float()
    images = torch.randint(-99, 99, (2, 3, 4, 5)).float()
    scores = [
        flat[1:5001],
        images.contiguous(memory_format=torch.channels_last),
        images[None].transpose(1, 4),
        flat[:0],
    ]
    for k in (17, 2500):
        masks = cuda.kernel("topk_mask")([s.to(DEVICE) for s in scores], k, True)
        want = torch.zeros(5240, dtype=torch.bool)
        want[torch.cat([s.flatten() for s in scores]).abs().argsort(descending=True, stable=True)[:k]] = True
        assert torch.equal(torch.cat([m.flatten().cpu() for m in masks]), want)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_largest_refuses_nan(dtype: torch.dtype, sign: int) -> None:
    nan = torch.tensor(float("nan")).copysign(torch.tensor(float(sign)))
    scores = [torch.ones(5, dtype=dtype, device=DEVICE), torch.stack([torch.tensor(2.0), nan]).to(DEVICE, dtype)]
    for name, k in (("topk_mask", 0), ("topk_mask", 3), ("kth_largest", 1)):
        with pytest.raises(ValueError, match="scores must not contain NaN"):
            cuda.kernel(name)(scores, k, k == 3)


def test_refusals_are_told_with_the_next_numbers_or_at_the_end() -> None:
    scores, some = torch.tensor([1.0, float("nan")], device=DEVICE), torch.ones(3, device=DEVICE).count_nonzero()
    gathered = host.deferred_checks()
    gathered.__enter__()
    cuda.kernel("topk_mask")([scores], 1, False)
    with pytest.raises(ValueError, match="scores must not contain NaN"):
        host.read_ints([some])
    assert host.read_ints([some]) == [3]
    cuda.kernel("topk_mask")([scores], 1, False)
    with pytest.raises(ValueError, match="scores must not contain NaN"):
        gathered.__exit__(None, None, None)
    with host.deferred_checks():
        cuda.kernel("topk_mask")([scores[:1]], 1, False)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_moment_of_what_one_sample_moves(dtype: torch.dtype) -> None:
    """It is the square of the gradient: squares of 16-bit numbers are not rounded to 16 bits."""
    delta, h = (torch.randn(1, n, device=DEVICE).to(dtype) for n in (40, 50))
    for others in (0, 3):
        rest = (torch.zeros(others, n, dtype=dtype, device=DEVICE) for n in (40, 50))
        gradient, moment = cuda.kernel("gradient_moment")(
            *(torch.cat([some, none]) for some, none in zip((delta, h), rest, strict=True))
        )
        torch.testing.assert_close(moment, gradient**2, rtol=2e-6, atol=0)


def test_gradient_at_no_place_of_the_weight() -> None:
    delta, x = torch.randn(2, 4, 5, 5, device=DEVICE), torch.randn(2, 3, 5, 5, device=DEVICE)
    coordinates = torch.tensor([11, -1, 12, 2**40], device=DEVICE)
    window = [1, 1], [1, 1], [0, 0, 0, 0], [1, 1], 1
    gradient = cuda.kernel("sampled_conv2d_gradient")(delta, x, coordinates, *window).cpu()
    torch.testing.assert_close(gradient[0], (delta[:, 3] * x[:, 2]).sum().cpu())
    assert gradient[1:].isnan().all()


@pytest.mark.parametrize("name", [name for name in cuda.TRITON if name.startswith(("sparse_", "sampled_"))])
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
