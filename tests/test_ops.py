"""Every operator, compiled and reference, against a computation on dense masks that knows neither."""

from collections.abc import Callable, Iterator
from itertools import permutations, product

import numpy as np
import pytest
import samples
import torch
from samples import Pattern, Sample
from torch import Tensor

from sparsekern import ops
from sparsekern.ops import extension, reference

_ops = torch.ops.sparsekern
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}
CASES = [pytest.param(*case, id=f"{case[0]}-{str(case[1])[6:]}") for case in samples.cases()]


@pytest.fixture(autouse=True)
def _poisoned() -> Iterator[None]:
    """Fresh tensors are full of NaN, so that what a kernel leaves unwritten shows."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


# ---- what the operators should give


def _wide(*tensors: Tensor) -> list[Tensor]:
    return [t.double() for t in tensors]


def linear(p: Pattern, input: Tensor, values: Tensor, index: list, bias: Tensor | None, rows: int) -> Tensor:
    x, weight = _wide(input, p.dense(values))
    return x @ weight.t() + (0 if bias is None else bias.double())


def linear_backward(
    p: Pattern, grad_output: Tensor, input: Tensor, values: Tensor, index: list, *need: bool
) -> list[Tensor]:
    delta, x, weight = _wide(grad_output, input, p.dense(values))
    dense = delta.reshape(-1, p.rows).t() @ x.reshape(-1, p.cols)
    grad_values = torch.cat([dense[p.mask], torch.zeros(p.slack, dtype=torch.float64)])
    every = [delta @ weight, grad_values, delta.reshape(-1, p.rows).sum(0)]
    return [g if wanted else torch.empty(0).double() for g, wanted in zip(every, need, strict=True)]


def expand(p: Pattern, values: Tensor, row_ptr: Tensor, col: Tensor, start: int, stop: int, cols: int) -> Tensor:
    return p.dense(values)[start:stop].double()


def collect(p: Pattern, dense: Tensor, row_ptr: Tensor, col: Tensor, start: int, stop: int, out: Tensor) -> Tensor:
    full = torch.zeros(p.mask.shape, dtype=torch.float64)
    full[start:stop] = dense
    return torch.cat([full[p.mask], torch.zeros(p.slack)])


def sampled_gradient(p: Pattern, grad_output: Tensor, input: Tensor, coordinates: Tensor) -> Tensor:
    delta, x = _wide(grad_output, input)
    return (delta.reshape(-1, p.rows).t() @ x.reshape(-1, p.cols)).flatten()[coordinates]


def compress(p: Pattern, coordinates: Tensor, rows: int, cols: int, capacity: int) -> list[Tensor]:
    return [p.row_ptr, p.col]


def rewire(
    p: Pattern, row_ptr: Tensor, col: Tensor, keep: Tensor, grow: Tensor, capacity: int, cols: int
) -> list[Tensor]:
    mask = torch.zeros(p.mask.numel(), dtype=torch.bool)
    source = torch.full((p.mask.numel(),), -1)
    mask[p.coordinates[keep]] = mask[grow] = True
    source[p.coordinates[keep]] = keep.nonzero().flatten()
    new = Pattern(mask.reshape(p.mask.shape), capacity - int(mask.sum()))
    return [new.row_ptr, new.col, torch.cat([source[mask], torch.full((new.slack,), -1)]).int()]


def transpose_index(p: Pattern, row_ptr: Tensor, col: Tensor, cols: int) -> list[Tensor]:
    return p.index()[2:5]


def tile_index(p: Pattern, ptr: Tensor, index: Tensor, extent: int) -> Tensor:
    edges = [min(64 * t, p.cols) for t in range((p.cols + 63) // 64 + 1)]
    return torch.stack([p.row_ptr[:-1] + p.mask[:, :edge].sum(1) for edge in edges], dim=1).int()


def _flat(scores: list[Tensor], absolute: bool) -> np.ndarray:
    flat = np.concatenate([score.double().numpy().ravel() for score in scores])
    return np.abs(flat) if absolute else flat


def topk_mask(p: Pattern, scores: list[Tensor], k: int, absolute: bool) -> list[Tensor]:
    flat = _flat(scores, absolute)
    mask = torch.zeros(flat.size, dtype=torch.bool)
    mask[np.argsort(-flat, kind="stable")[:k]] = True
    return [part.reshape(s.shape) for part, s in zip(mask.split([s.numel() for s in scores]), scores, strict=True)]


def kth_largest(p: Pattern, scores: list[Tensor], k: int, absolute: bool) -> Tensor:
    return torch.tensor(-np.sort(-_flat(scores, absolute))[k - 1], dtype=torch.float64)


def guided_sample(p: Pattern, *args: object) -> list[Tensor]:
    return list(reference.guided_sample(*args))  # type: ignore[arg-type]


def random_subset(p: Pattern, out: Tensor, size: int, seed: int) -> Tensor:
    reference.random_subset(out, size, seed)
    return out


EXPECTED: dict[str, Callable] = {
    "sparse_linear": linear,
    "sparse_linear_backward": linear_backward,
    "expanded_linear": linear,
    "expanded_linear_backward": linear_backward,
    **{f.__name__: f for f in (expand, collect, sampled_gradient, guided_sample, random_subset, compress, rewire)},
    **{f.__name__: f for f in (transpose_index, tile_index, topk_mask, kth_largest)},
}
MUTATED = {"collect": 5, "random_subset": 0}  # which argument is the result


def run(function: Callable, sample: Sample, name: str) -> list[Tensor]:
    args = list(sample.args)
    if name in MUTATED:
        args[MUTATED[name]] = args[MUTATED[name]].clone()
    result = function(*args)
    result = args[MUTATED[name]] if name in MUTATED else result
    return [result] if isinstance(result, Tensor) else list(result)


def expected(name: str, sample: Sample) -> list[Tensor]:
    args = [a.clone() if i == MUTATED.get(name) else a for i, a in enumerate(sample.args)]
    result = EXPECTED[name](sample.pattern, *args)
    return [result] if isinstance(result, Tensor) else list(result)


@pytest.mark.parametrize("backend", ["dispatched", "reference"])
@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_against_dense(name: str, dtype: torch.dtype, backend: str) -> None:
    function = getattr(_ops if backend == "dispatched" else reference, name)
    for sample in samples.SAMPLES[name](dtype):
        before = [a.clone() if isinstance(a, Tensor) else a for a in sample.args]
        wanted = expected(name, sample)
        for actual, want in zip(run(function, sample, name), wanted, strict=True):
            exact = not want.is_floating_point()
            assert not exact or actual.dtype == want.dtype, sample.name
            scale = float(want.abs().max()) if not exact and want.numel() and want.isfinite().all() else 1
            tolerance = 0 if exact else TOLERANCE[dtype]
            torch.testing.assert_close(
                actual.to(want.dtype),
                want,
                rtol=tolerance,
                atol=tolerance * scale,
                msg=lambda message, s=sample: f"{s.name}: {message}",
            )
        for a, b in zip(sample.args, before, strict=True):
            assert not isinstance(a, Tensor) or torch.equal(a.nan_to_num(), b.nan_to_num()), f"{sample.name} changed"


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dtype", samples.DTYPES["sampled_gradient"], ids=str)
def test_sampled_gradient_on_every_instruction_set(dtype: torch.dtype) -> None:
    for sample in samples.sampled_gradient(dtype):
        actual, want = ops.sampled_gradient(*sample.args), expected("sampled_gradient", sample)[0]
        scale = float(want.abs().max()) if want.numel() else 1
        torch.testing.assert_close(actual.double(), want, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype] * scale)
        assert actual.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_opcheck(name: str, dtype: torch.dtype) -> None:
    inputs = samples.SAMPLES[name](dtype)
    for sample in (inputs[1], inputs[-1]):
        args = [a.nan_to_num() if isinstance(a, Tensor) and a.is_floating_point() else a for a in sample.args]
        torch.library.opcheck(getattr(_ops, name).default, tuple(args))


@pytest.mark.parametrize("name", ["sparse_linear", "expanded_linear"])
def test_gradcheck(name: str) -> None:
    for sample in samples.linear(torch.float64):
        input, values, index, bias, _ = sample.args
        leaves = [t.detach().nan_to_num().requires_grad_() for t in (input, values, bias) if t is not None]
        if not sample.name.endswith(("sequence", "strided")):
            continue

        def apply(input: Tensor, values: Tensor, bias: Tensor | None = None, index: list[Tensor] = index) -> Tensor:
            return getattr(ops, name)(input, values, index, bias)

        assert torch.autograd.gradcheck(apply, leaves)


@pytest.mark.parametrize("name", [n for n in samples.SAMPLES if "linear" not in n])
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


LARGE: dict[str, Callable[[], list[Sample]]] = {"sampled_gradient": _large_gradient, "guided_sample": _large_sample}


# ---- selection


@pytest.mark.parametrize("absolute", [False, True])
def test_selection_from_every_short_list(absolute: bool) -> None:
    p = Pattern(torch.zeros(1, 1, dtype=torch.bool))
    for numbers in product([-1.0, -0.0, 0.0, 1.0], repeat=4):
        scores = [torch.tensor(numbers[:1]), torch.tensor(numbers[1:]).reshape(3, 1)]
        for k in range(5):
            masks = ops.topk_mask(scores, k, absolute)
            assert all(torch.equal(a, b) for a, b in zip(masks, topk_mask(p, scores, k, absolute), strict=True))
            if k:
                assert ops.kth_largest(scores, k, absolute) == kth_largest(p, scores, k, absolute)


def test_ties_go_to_the_first() -> None:
    scores = [torch.zeros(3), torch.ones(2, 2), torch.full((400_000,), -1.0), torch.ones(3)]
    masks = ops.topk_mask(scores, 6, absolute=False)
    assert [mask.sum().item() for mask in masks] == [0, 4, 0, 2]
    assert masks[3].tolist() == [True, True, False]
    masks = ops.topk_mask(scores, 300_000, absolute=True)
    assert [mask.sum().item() for mask in masks] == [0, 4, 299_996, 0]
    assert bool(masks[2][:299_996].all())


def test_selection_ignores_gradients_and_takes_infinity() -> None:
    scores = [torch.tensor([1.0, -torch.inf, 3.0], requires_grad=True), torch.tensor([torch.inf])]
    assert ops.kth_largest(scores, 2).item() == 3
    assert not ops.kth_largest(scores, 2).requires_grad
    assert ops.topk_mask([], 0) == []


@pytest.mark.parametrize("dtype", samples.DTYPES["topk_mask"], ids=str)
@pytest.mark.parametrize("sign", [1, -1])
def test_selection_refuses_nan(dtype: torch.dtype, sign: int) -> None:
    nan = torch.tensor(float("nan")).copysign(torch.tensor(float(sign)))
    scores = [torch.ones(5, dtype=dtype), torch.stack([torch.tensor(2.0), nan]).to(dtype)]
    for absolute in (False, True):
        for k in (0, 1, 7):
            with pytest.raises(ValueError, match="scores must not contain NaN"):
                ops.topk_mask(scores, k, absolute)
        with pytest.raises(ValueError, match="scores must not contain NaN"):
            ops.kth_largest(scores, 3, absolute)


# ---- chance


def chi_square_bound(freedom: int) -> float:
    """The value that chi-square exceeds once in ten thousand (Wilson and Hilferty, 1931)."""
    return freedom * (1 - 2 / (9 * freedom) + 3.719 * (2 / (9 * freedom)) ** 0.5) ** 3


def chi_square(counts: dict, law: dict) -> float:
    total = sum(counts.values())
    assert set(counts) <= set(law)
    return sum((counts.get(key, 0) - total * p) ** 2 / (total * p) for key, p in law.items())


def successive_law(weight: dict[int, float], n: int) -> dict[tuple, float]:
    """Probability of every set that `n` draws without replacement can make."""
    law: dict[tuple, float] = {}
    for order in permutations(weight, n):
        probability, left = 1.0, sum(weight.values())
        for item in order:
            probability *= weight[item] / left
            left -= weight[item]
        law[tuple(sorted(order))] = law.get(tuple(sorted(order)), 0) + probability
    return law


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_guided_sample_draws_successively(n: int) -> None:
    mask = torch.tensor([[False, True, False, False], [False, False, True, False]])
    p = Pattern(mask)
    row, col = torch.tensor([1.0, 3.0]), torch.tensor([4.0, 1.0, 2.0, 0.7])
    flat = (row[:, None] * col).flatten()
    law = successive_law({i: float(flat[i]) for i in (~mask).flatten().nonzero().flatten().tolist()}, n)
    counts: dict[tuple, int] = {}
    for seed in range(4000):
        chosen, rest = ops.guided_sample(row, col, p.row_ptr, p.col, n, seed)
        counts[tuple(chosen.tolist())] = counts.get(tuple(chosen.tolist()), 0) + 1
        assert rest == 0
    assert chi_square(counts, law) < chi_square_bound(len(law) - 1)
    even = dict.fromkeys(law, 1 / len(law))
    assert chi_square(counts, even) > chi_square_bound(len(law) - 1), "the test could not tell laws apart"


def test_guided_sample_fills_uniformly_beyond_the_support() -> None:
    p = Pattern(torch.tensor([[False, True, False], [False, False, True]]))
    counts: dict[tuple, int] = {}
    for seed in range(2000):
        chosen, rest = ops.guided_sample(torch.tensor([1.0, 0.0]), torch.ones(3), p.row_ptr, p.col, 3, seed)
        assert rest == 1
        counts[tuple(chosen.tolist())] = counts.get(tuple(chosen.tolist()), 0) + 1
    assert chi_square(counts, {(0, 2, 3): 0.5, (0, 2, 4): 0.5}) < chi_square_bound(1)


def test_guided_sample_gives_up_on_hopeless_weights() -> None:
    """Weights that span 1e-15: 32 rounds find what is likely, chance the rest."""
    p = Pattern(torch.rand(20, 20) < 0.3)
    row = torch.full((20,), 1e-15)
    row[3] = 1
    n = int((~p.mask).sum()) // 2
    chosen, rest = ops.guided_sample(row, torch.ones(20), p.row_ptr, p.col, n, 0)
    likely = int((~p.mask[3]).sum())
    assert n - likely <= int(rest) < n
    assert int(((chosen >= 60) & (chosen < 80)).sum()) > likely / 2
    assert chosen.unique().numel() == n


@pytest.mark.parametrize("dtype", samples.DTYPES["guided_sample"], ids=str)
def test_guided_sample_is_distinct_and_inactive(dtype: torch.dtype) -> None:
    for sample in samples.guided_sample(dtype):
        row, col, row_ptr, index, n, seed = sample.args
        chosen, rest = ops.guided_sample(row, col, row_ptr, index, n, seed)
        positive = (row.double()[:, None] * col.double()).flatten() > 0
        assert chosen.shape == (n,)
        assert bool((chosen[1:] > chosen[:-1]).all()), sample.name
        assert not sample.pattern.mask.flatten()[chosen].any(), sample.name
        assert int((~positive[chosen]).sum()) <= int(rest) <= n, sample.name
        if "random" in sample.name and n <= int((~sample.pattern.mask).sum()) // 2:
            assert int(rest) == 0, sample.name


def test_guided_sample_scale_does_not_matter() -> None:
    p = Pattern(torch.rand(20, 30) < 0.3)
    row, col = torch.rand(20, dtype=torch.float64), torch.rand(30, dtype=torch.float64)
    chosen, _ = ops.guided_sample(row, col, p.row_ptr, p.col, 50, 3)
    for scale in (2.0**-900, 2.0**900):
        assert torch.equal(ops.guided_sample(row * scale, col * scale, p.row_ptr, p.col, 50, 3)[0], chosen)
    assert not torch.equal(ops.guided_sample(row, col, p.row_ptr, p.col, 50, 4)[0], chosen)


@pytest.mark.parametrize("n", [2, 3])
def test_random_subset_is_uniform(n: int) -> None:
    counts: dict[tuple, int] = {}
    for seed in range(3000):
        chosen = tuple(ops.random_subset(n, 5, seed).tolist())
        counts[chosen] = counts.get(chosen, 0) + 1
    law = successive_law(dict.fromkeys(range(5), 1.0), n)
    assert chi_square(counts, law) < chi_square_bound(len(law) - 1)


def test_random_subset_does_not_favour_small_numbers() -> None:
    """Below 3 * 2**61, where the remainder of 63 random bits would hit the lower third twice as often."""
    size = 3 * 2**61
    chosen = ops.random_subset(3000, size, 0)
    thirds = torch.bincount(chosen // 2**61, minlength=3)
    assert chi_square(dict(enumerate(thirds.tolist())), dict.fromkeys(range(3), 1 / 3)) < chi_square_bound(2)


# ---- refusals


def _error_cases() -> dict[str, tuple[str, Callable[[], object]]]:
    p = Pattern(torch.tensor([[True, False, True], [False, True, False]]), slack=1)
    row_ptr, col, index = p.row_ptr, p.col, p.index()
    x, values, delta = torch.randn(4, 3), torch.randn(4), torch.randn(4, 2)
    keep, none = torch.ones(3, dtype=torch.bool), torch.empty(0, dtype=torch.int64)
    ones = (torch.ones(2), torch.ones(3))
    at = torch.tensor

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
        "bias": (r"bias must be torch.float32 \(2,\), got torch.float32 \(3,\)", lambda: linear(bias=torch.ones(3))),
        "index": ("7 tensors", lambda: linear(index=index[:2])),
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
        "guided rows": ("row_weight must have 2 elements", lambda: guided(torch.ones(3))),
        "guided dtype": ("floating-point vector", lambda: guided(at([1, 1]))),
        "k": ("k must be between 0 and 4", lambda: ops.topk_mask([values], 5)),
        "k below": ("k must be between 0 and 4", lambda: ops.topk_mask([values], -1)),
        "kth zero": ("k must be between 1 and 4", lambda: ops.kth_largest([values], 0)),
        "kth above": ("k must be between 1 and 4", lambda: ops.kth_largest([values], 5)),
        "scores dtype": ("one floating-point dtype", lambda: ops.topk_mask([at([1, 2])], 1)),
        "scores dtypes": ("one floating-point dtype", lambda: ops.topk_mask([values, values.double()], 1)),
        "no scores": ("must not be empty", lambda: ops.kth_largest([], 1)),
    }


@pytest.mark.parametrize("case", _error_cases())
def test_refuses(case: str) -> None:
    message, call = _error_cases()[case]
    with pytest.raises(ValueError, match=message):
        call()


def test_compiled_kernels_are_in_use() -> None:
    """What the tests above compare is the extension where there is one."""
    for name in samples.SAMPLES:
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"sparsekern::{name}", "CPU") == (
            extension is not None and not name.startswith("expanded_linear")
        ), name


@pytest.mark.parametrize("name", ["sparse_linear", "expanded_linear"])
def test_linear_under_autocast(name: str) -> None:
    sample = next(s for s in samples.linear(torch.float32) if s.name == "slack, batch")
    input, values, index, _, rows = sample.args
    values = values.nan_to_num().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        output = getattr(ops, name)(input, values, index, torch.zeros(rows))
    output.sum().backward()
    assert output.dtype == torch.bfloat16
    assert values.grad is not None
    assert values.grad.dtype == torch.float32
    plain = getattr(ops, name)(input, values.detach(), index)
    torch.testing.assert_close(output.float(), plain, rtol=2e-2, atol=5e-2)
