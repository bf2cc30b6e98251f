"""Every operator, compiled and reference, against a computation on dense masks that knows neither."""

import re
from collections.abc import Callable
from functools import partial

import pytest
import torch
from support import samples
from support.devices import DEVICES, moved, moved_sample
from support.expected import TOLERANCE, compare, expected, run
from support.samples import Pattern, Sample
from torch import Tensor

from sparsekern import ops
from sparsekern.ops import extension
from sparsekern.ops.library import OPERATORS

_ops = torch.ops.sparsekern
CASES = [pytest.param(*case, id=f"{case[0]}-{str(case[1])[6:]}") for case in samples.cases()]
DRAWS = ("guided_sample", "random_subset")  # defined by their references, which have tests of their own

pytestmark = pytest.mark.usefixtures("poisoned")


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_against_dense(name: str, dtype: torch.dtype, device: str) -> None:
    _check(getattr(_ops, name), name, dtype, device)


@pytest.mark.parametrize(("name", "dtype"), [case for case in CASES if case.values[0] not in DRAWS])
def test_references_against_dense(name: str, dtype: torch.dtype) -> None:
    _check(OPERATORS[name].reference, name, dtype, "cpu")


def _check(function: Callable, name: str, dtype: torch.dtype, device: str) -> None:
    for given in samples.SAMPLES[name](dtype):
        sample = moved_sample(given, device)
        before = [a.clone() if isinstance(a, Tensor) else a for a in sample.args]
        compare(run(function, sample, name), name, given, dtype)
        for a, b in zip(sample.args, before, strict=True):
            assert not isinstance(a, Tensor) or torch.equal(a.nan_to_num(), b.nan_to_num()), f"{sample.name} changed"


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dtype", samples.FLOATS, ids=str)
@pytest.mark.parametrize("name", ["gradient_moment", "conv2d_gradient_moment", "snr_update", "score_step"])
def test_moments_on_every_instruction_set(name: str, dtype: torch.dtype) -> None:
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    for sample in samples.SAMPLES[name](dtype):
        results = run(getattr(_ops, name), sample, name)
        for actual, want in zip(results, expected(name, sample), strict=True):
            scale = float(want.abs().max()) if want.numel() else 1
            torch.testing.assert_close(
                actual.double(),
                want.double(),
                rtol=tolerance,
                atol=tolerance * scale,
                msg=lambda message, s=sample: f"{s.name}: {message}",
            )
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        dtypes = [wide, wide, dtype] if name == "score_step" else [wide, wide]
        assert [result.dtype for result in results] == dtypes[: len(results)]


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dtype", samples.DTYPES["sampled_gradient"], ids=str)
def test_sampled_gradient_on_every_instruction_set(dtype: torch.dtype) -> None:
    for sample in samples.sampled_gradient(dtype):
        actual, want = ops.sampled_gradient(*sample.args), expected("sampled_gradient", sample)[0]
        scale = float(want.abs().max()) if want.numel() else 1
        torch.testing.assert_close(actual.double(), want, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype] * scale)
        assert actual.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("name", ["bit_columns", "compact_columns", "expand", "collect"])
def test_columns_on_every_instruction_set(name: str) -> None:
    for sample in samples.SAMPLES[name](torch.float64):
        for actual, want in zip(run(getattr(_ops, name), sample, name), expected(name, sample), strict=True):
            assert torch.equal(actual.double(), want.double()), sample.name


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_opcheck(name: str, dtype: torch.dtype) -> None:
    inputs = samples.SAMPLES[name](dtype)
    for sample in (inputs[1], inputs[-1]):
        args = [a.nan_to_num() if isinstance(a, Tensor) and a.is_floating_point() else a for a in sample.args]
        torch.library.opcheck(getattr(_ops, name).default, tuple(args))


@pytest.mark.parametrize(
    "name",
    ["sparse_linear", "expanded_linear", "sparse_conv2d", "expanded_conv2d", "masked_linear", "masked_conv2d"],
)
def test_gradcheck(name: str) -> None:
    found = samples.SAMPLES[name](torch.float64)
    if "linear" in name:
        found = [sample for sample in found if sample.name.endswith(("sequence", "strided"))]
    assert found
    for sample in found:
        input, values, _, bias, *_ = sample.args
        leaves = [t.detach().nan_to_num().requires_grad_() for t in (input, values, bias) if t is not None]

        def apply(input: Tensor, values: Tensor, bias: Tensor | None = None, s: Sample = sample) -> Tensor:
            options = (*s.args[4:-1], True) if "masked" in name else s.args[4:]  # straight through is no derivative
            return getattr(_ops, name)(input, values, s.args[2], bias, *options)

        assert torch.autograd.gradcheck(apply, leaves, fast_mode=bool(re.search("conv2d|masked", name))), sample.name


@pytest.mark.parametrize("name", [n for n in samples.SAMPLES if not re.search("linear|conv2d|_moment", n)])
def test_threads_do_not_matter(name: str, threads: Callable[[int], None]) -> None:
    for sample in [*samples.SAMPLES[name](torch.float32), *LARGE.get(name, list)()]:
        threads(1)
        one = run(getattr(_ops, name), sample, name)
        threads(2)
        two = run(getattr(_ops, name), sample, name)
        assert all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(one, two, strict=True)), sample.name


def _large_pattern() -> Pattern:
    return Pattern(torch.rand(300, 400) < 0.2)


def _large_gradient() -> list[Sample]:
    p = _large_pattern()
    return [Sample("large", (torch.randn(70, p.rows), torch.randn(70, p.cols), p.coordinates), p)]


def _large_sample() -> list[Sample]:
    p = _large_pattern()
    return [Sample("large", (torch.rand(p.rows), torch.rand(p.cols), p.row_ptr, p.col, 50_000, 1), p)]


def _large_scores() -> list[Sample]:
    scores = [torch.randn(900_000), torch.randint(-9, 9, (500_000,)).float()]
    return [Sample("large", (scores, k, True), _large_pattern()) for k in (70_000, 700_000)]


LARGE: dict[str, Callable[[], list[Sample]]] = {
    "sampled_gradient": _large_gradient,
    "guided_sample": _large_sample,
    **dict.fromkeys(("topk_mask", "topk_bits"), _large_scores),
    "kth_largest": _large_scores,
}


def _error_cases(device: str = "cpu") -> dict[str, tuple[str, Callable[[], object]]]:
    p = Pattern(torch.tensor([[True, False, True], [False, True, False]]), slack=1)
    row_ptr, col, index = moved([p.row_ptr, p.col, p.index()], device)
    x, values, delta = moved([torch.randn(4, 3), torch.randn(4), torch.randn(4, 2)], device)
    keep, none = moved([torch.ones(3, dtype=torch.bool), torch.empty(0, dtype=torch.int64)], device)
    ones = moved((torch.ones(2), torch.ones(3)), device)
    at = partial(torch.tensor, device=device)

    def linear(x: Tensor = x, values: Tensor = values, index: list = index, bias: Tensor | None = None) -> Tensor:
        return ops.sparse_linear(x, values, index, bias)

    def grow(coordinates: Tensor, keep: Tensor = keep, capacity: int = 9) -> object:
        return ops.rewire(row_ptr, col, keep, coordinates, capacity, 3)

    def guided(row: Tensor = ones[0], col_weight: Tensor = ones[1], n: int = 1) -> object:
        return ops.guided_sample(row, col_weight, row_ptr, col, n, 0)

    return {
        "features": ("must have 3 features", lambda: linear(x[:, :2])),
        "scalar": ("must have 3 features", lambda: linear(at(1.0))),
        "values": (r"values must have the shape \(4,\)", lambda: linear(values=values[:3])),
        "values dtype": ("input's dtype torch.float32, got torch.float64", lambda: linear(values=values.double())),
        "bias": (r"bias must be torch.float32 \(2,\), got torch.float32 \(3,\)", lambda: linear(bias=ones[1])),
        "index": ("8 tensors", lambda: linear(index=index[:2])),
        "rows": ("describes 2 rows, but out_features is 3", lambda: ops.expanded_linear(x, values, index, None, 3)),
        "layout": ("dense tensor", lambda: linear(x.to_sparse())),
        "device": ("on one device", lambda: linear(x.to("meta"))),
        "gradient dtype": ("floating-point dtype", lambda: ops.sampled_gradient(delta.double(), x, none)),
        "gradient batch": ("leading dimensions", lambda: ops.sampled_gradient(delta[:3], x, none)),
        "coordinates dtype": ("int64", lambda: ops.sampled_gradient(delta, x, none.int())),
        "coordinate 6": (r"\[0, 6\)", lambda: ops.sampled_gradient(delta, x, at([6]))),
        "coordinate -1": (r"\[0, 6\)", lambda: ops.sampled_gradient(delta, x, at([0, -1]))),
        "compress range": (r"\[0, 6\)", lambda: ops.compress(at([1, 6]), 2, 3)),
        "compress below": (r"\[0, 6\)", lambda: ops.compress(at([-1, 2]), 2, 3)),
        "compress twice": ("distinct", lambda: ops.compress(at([4, 1, 4]), 2, 3)),
        "compress capacity": ("capacity", lambda: ops.compress(at([4, 1]), 2, 3, 1)),
        "compress dtype": ("int64", lambda: ops.compress(at([4.0]), 2, 3)),
        "compress_mask capacity": (
            "at least nnz = 2",
            lambda: ops.compress_mask(keep[None, :2], 1),
        ),
        "compress_mask dtype": ("bool", lambda: ops.compress_mask(at([[1.0]]))),
        "compress extent": (r"below 2\*\*31", lambda: ops.compress(at([1]), 2**31, 1)),
        "rewire range": (r"\[0, 6\)", lambda: grow(at([6]))),
        "rewire below": (r"\[0, 6\)", lambda: grow(at([-1]))),
        "rewire twice": ("ascending and distinct", lambda: grow(at([1, 1]))),
        "rewire order": ("ascending and distinct", lambda: grow(at([3, 1]))),
        "rewire active": ("active", lambda: grow(at([1, 2]))),
        "rewire capacity": ("5 nonzeros do not fit the capacity 4", lambda: grow(at([1, 3]), capacity=4)),
        "rewire keep": ("keep", lambda: grow(none, keep[:2])),
        "rewire keep dtype": ("keep must be a 1-D torch.bool", lambda: grow(none, keep.int())),
        "subset": ("between 0 and 3", lambda: ops.random_subset(4, 3, 0)),
        "guided count": ("between 0 and 3, the number of inactive", lambda: guided(n=4)),
        "guided negative count": ("between 0 and 3", lambda: guided(n=-1)),
        "guided negative": ("row_weight must be finite and not negative", lambda: guided(at([1.0, -1.0]))),
        "guided nan": ("col_weight must be finite", lambda: guided(col_weight=at([1.0, float("nan"), 1.0]))),
        "guided inf": ("row_weight must be finite", lambda: guided(at([1.0, float("inf")]))),
        "guided rows": ("row_weight must have 2 elements", lambda: guided(ones[1])),
        "guided dtype": ("floating-point vector", lambda: guided(at([1, 1]))),
        "k": ("k must be between 0 and 4", lambda: ops.topk_mask([values], 5)),
        "k below": ("k must be between 0 and 4", lambda: ops.topk_mask([values], -1)),
        "kth zero": ("k must be between 1 and 4", lambda: ops.kth_largest([values], 0)),
        "kth above": ("k must be between 1 and 4", lambda: ops.kth_largest([values], 5)),
        "scores dtype": ("one floating-point dtype", lambda: ops.topk_mask([at([1, 2])], 1)),
        "scores dtypes": ("one floating-point dtype", lambda: ops.topk_mask([values, values.double()], 1)),
        "no scores": ("must not be empty", lambda: ops.kth_largest([], 1)),
    }


# What would cost a GPU a wait for the host: `test_what_a_gpu_does_not_check`.
UNCHECKED = {"coordinate 6", "coordinate -1", "compress_mask capacity"}


@pytest.mark.parametrize(
    ("case", "device"), [(c, d) for d in DEVICES for c in _error_cases() if d == "cpu" or c not in UNCHECKED]
)
def test_refuses(case: str, device: str) -> None:
    message, call = _error_cases(device)[case]
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("device", [device for device in DEVICES if device != "cpu"])
def test_what_a_gpu_does_not_check(device: str) -> None:
    delta, x = torch.randn(4, 2, device=device), torch.randn(4, 3, device=device)
    sampled = ops.sampled_gradient(delta, x, torch.tensor([6, 0, -1], device=device))
    assert sampled.isnan().tolist() == [True, False, True]
    row_ptr, col = ops.compress_mask(torch.ones(1, 2, dtype=torch.bool, device=device), 1)
    assert (row_ptr.tolist(), col.tolist()) == ([0, 2], [0])


def test_compiled_kernels_are_in_use() -> None:
    """What the tests above compare is the extension where there is one."""
    for name in samples.SAMPLES:
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"sparsekern::{name}", "CPU") == (
            extension is not None
            and not name.startswith(("expanded_conv2d", "masked_"))
            and name != "sampled_conv2d_gradient"
        ), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", ["sparse_linear", "expanded_linear"])
def test_linear_under_autocast(name: str, dtype: torch.dtype) -> None:
    sample = next(s for s in samples.linear(torch.float32) if s.name == "slack, batch")
    input, values, index, _, rows = sample.args
    values = values.nan_to_num().requires_grad_()
    with torch.autocast("cpu", dtype):
        output = getattr(ops, name)(input, values, index, torch.zeros(rows))
    output.sum().backward()
    assert output.dtype == dtype
    assert values.grad is not None
    assert values.grad.dtype == torch.float32
    plain = getattr(ops, name)(input, values.detach(), index)
    torch.testing.assert_close(output.float(), plain, rtol=2e-2, atol=5e-2)
