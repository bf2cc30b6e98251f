"""Inputs of every operator: what the comparisons, gradcheck, opcheck and the benchmarks' gate run on."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Pattern:
    """A sparsity pattern as a dense mask and, made from it without the package, as CSR."""

    mask: Tensor
    slack: int = 0

    @property
    def rows(self) -> int:
        return self.mask.shape[0]

    @property
    def cols(self) -> int:
        return self.mask.shape[1]

    @property
    def coordinates(self) -> Tensor:
        return self.mask.flatten().nonzero().flatten()

    @property
    def row_ptr(self) -> Tensor:
        return torch.cat([torch.zeros(1, dtype=torch.long), self.mask.sum(1).cumsum(0)]).int()

    @property
    def col(self) -> Tensor:
        return torch.cat([self.mask.nonzero()[:, 1], torch.zeros(self.slack, dtype=torch.long)]).int()

    @property
    def slots(self) -> Tensor:
        """`[rows, cols]`: the slot of each active entry."""
        slots = torch.zeros(self.mask.shape, dtype=torch.long)
        slots[self.mask] = torch.arange(int(self.mask.sum()))
        return slots

    def values(self, dtype: torch.dtype) -> Tensor:
        """Normal values with NaN in the slack, which nobody may read."""
        filled = torch.randn(int(self.mask.sum()), dtype=torch.float64).to(dtype)
        return torch.cat([filled, torch.full((self.slack,), float("nan"), dtype=dtype)])

    def dense(self, values: Tensor) -> Tensor:
        return torch.where(self.mask, values[self.slots], 0) if values.numel() else torch.zeros(self.mask.shape)

    def index(self) -> list[Tensor]:
        """The seven tensors of `Topology.index`, without tiles."""
        col, t_slots = self.col, self.slots.t()[self.mask.t()]
        t_row, t_pos = torch.zeros_like(col), torch.zeros_like(col)
        t_row[: t_slots.numel()] = self.mask.t().nonzero()[:, 1].int()
        t_pos[: t_slots.numel()] = t_slots.int()
        t_ptr = torch.cat([torch.zeros(1, dtype=torch.long), self.mask.sum(0).cumsum(0)]).int()
        return [self.row_ptr, col, t_ptr, t_row, t_pos, col.new_empty(0), col.new_empty(0)]


@dataclass(frozen=True)
class Sample:
    """Arguments of an operator, and the pattern they describe, if any."""

    name: str
    args: tuple
    pattern: Pattern


def _mask(rows: int, cols: int, density: float, seed: int = 0) -> Tensor:
    return torch.rand(rows, cols, generator=torch.Generator().manual_seed(seed)) < density


def patterns() -> dict[str, Pattern]:
    empty_rows = _mask(9, 70, 0.3)
    empty_rows[::2] = False
    return {
        "odd widths": Pattern(_mask(13, 131, 0.2)),
        "slack": Pattern(_mask(10, 64, 0.4), slack=7),
        "empty rows": Pattern(empty_rows, slack=1),
        "empty matrix": Pattern(_mask(5, 6, 0.0)),
        "empty with slack": Pattern(_mask(5, 6, 0.0), slack=4),
        "one row": Pattern(_mask(1, 200, 0.3)),
        "one column": Pattern(_mask(40, 1, 0.5)),
        "one weight": Pattern(_mask(1, 1, 2.0)),
        "full": Pattern(_mask(6, 65, 2.0)),
    }


def _strided(*shape: int, dtype: torch.dtype) -> Tensor:
    """Normal numbers in every second column of a transposed tensor."""
    return torch.randn(2 * shape[-1], *shape[:-1], dtype=torch.float64).to(dtype).movedim(0, -1)[..., ::2]


def _plain(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(shape, dtype=torch.float64).to(dtype)


LEADING = {"vector": (), "batch": (5,), "sequence": (2, 3), "zero batch": (0,), "long": (300,)}


def linear(dtype: torch.dtype) -> list[Sample]:
    """input, values, index, bias, out_features"""
    samples = []
    for name, p in patterns().items():
        for batch, leading in LEADING.items():
            bias = _plain(p.rows, dtype=dtype) if batch != "batch" else None
            args = (_plain(*leading, p.cols, dtype=dtype), p.values(dtype), p.index(), bias, p.rows)
            samples.append(Sample(f"{name}, {batch}", args, p))
        args = (_strided(4, p.cols, dtype=dtype), p.values(dtype), p.index(), None, p.rows)
        samples.append(Sample(f"{name}, strided", args, p))
    return samples


def linear_backward(dtype: torch.dtype) -> list[Sample]:
    """grad_output, input, values, index, need_input, need_values, need_bias"""
    samples = []
    for i, sample in enumerate(linear(dtype)):
        input, values, index, _, rows = sample.args
        make = _strided if "strided" in sample.name else _plain
        grad_output = make(*input.shape[:-1], rows, dtype=dtype)
        needs = (True, True, True) if i % 3 else (bool(i % 2), not i % 2, bool(i % 2))
        samples.append(Sample(sample.name, (grad_output, input, values, index, *needs), sample.pattern))
    return samples


def expand(dtype: torch.dtype) -> list[Sample]:
    """values, row_ptr, col, start, stop, cols"""
    return [
        Sample(f"{name}, rows {start}:{stop}", (p.values(dtype), p.row_ptr, p.col, start, stop, p.cols), p)
        for name, p in patterns().items()
        for start, stop in {(0, p.rows), (p.rows // 2, p.rows), (p.rows // 3, 2 * p.rows // 3), (0, 0)}
    ]


def collect(dtype: torch.dtype) -> list[Sample]:
    """dense, row_ptr, col, start, stop, out"""
    samples = []
    for sample in expand(dtype):
        values, row_ptr, col, start, stop, cols = sample.args
        for make in (_plain, _strided):
            for source in {dtype, torch.float32}:
                dense = make(stop - start, cols, dtype=source)
                args = (dense, row_ptr, col, start, stop, torch.zeros_like(values))
                samples.append(Sample(f"{sample.name}, {make.__name__[1:]} {source}", args, sample.pattern))
    return samples


def sampled_gradient(dtype: torch.dtype) -> list[Sample]:
    """grad_output, input, coordinates"""
    samples = []
    for name, p in patterns().items():
        size = p.mask.numel()
        for batch, leading in LEADING.items():
            make = _strided if batch == "sequence" else _plain
            some = torch.randint(size, (37,)) if batch == "batch" else p.coordinates  # any order, repeated
            args = (make(*leading, p.rows, dtype=dtype), make(*leading, p.cols, dtype=dtype), some)
            samples.append(Sample(f"{name}, {batch}", args, p))
        same = _plain(1, p.cols, dtype=dtype).expand(6, p.cols)
        samples.append(Sample(f"{name}, expanded", (_plain(6, p.rows, dtype=dtype), same, torch.arange(size)), p))
    return samples


def guided_sample(dtype: torch.dtype) -> list[Sample]:
    """row_weight, col_weight, row_ptr, col, n, seed"""
    samples = []
    for name, p in patterns().items():
        inactive = int((~p.mask).sum())
        dead_rows, dead_cols = torch.rand(p.rows) < 0.5, torch.rand(p.cols) < 0.5
        row, col = torch.rand(p.rows), torch.rand(p.cols)
        weights = {
            "random": (row.to(dtype), col.to(dtype)),
            "strided": (torch.rand(2 * p.rows).to(dtype)[::2], torch.rand(p.cols, 3).to(dtype)[:, 1]),
            "dead units": ((row * ~dead_rows).to(dtype), (col * ~dead_cols).to(dtype)),
            "skewed": ((1e-3 ** (9 * row)).to(dtype), (1e-3 ** (9 * col)).to(dtype)),
            "all zero": (torch.zeros(p.rows, dtype=dtype), torch.ones(p.cols, dtype=dtype)),
        }
        for kind, (row_weight, col_weight) in weights.items():
            for n in sorted({0, min(1, inactive), inactive // 2, max(0, inactive - 1), inactive}):
                args = (row_weight, col_weight, p.row_ptr, p.col, n, n + 7)
                samples.append(Sample(f"{name}, {kind}, {n}", args, p))
    return samples


def random_subset(dtype: torch.dtype) -> list[Sample]:
    """out, size, seed"""
    none = Pattern(_mask(1, 1, 0.0))
    sizes = [(0, 0), (0, 5), (5, 5), (3, 10), (8, 10), (2000, 5000), (3000, 5000), (3000, 2**40), (1000, 2**62)]
    return [
        Sample(f"{n} of {size}", (torch.zeros(n, dtype=torch.int64), size, seed), none)
        for n, size in sizes
        for seed in (0, -3, 2**63 - 1)
    ]


def compress(dtype: torch.dtype) -> list[Sample]:
    """coordinates, rows, cols, capacity"""
    return [
        Sample(f"{name}, {order}", (coordinates, p.rows, p.cols, p.coordinates.numel() + p.slack), p)
        for name, p in {**patterns(), "many": Pattern(_mask(60, 100, 0.5), slack=2)}.items()
        for order, coordinates in {
            "ascending": p.coordinates,
            "shuffled": p.coordinates[torch.randperm(p.coordinates.numel())],
            "strided": torch.stack([p.coordinates.flip(0)] * 2, dim=1)[:, 1],
        }.items()
    ]


def rewire(dtype: torch.dtype) -> list[Sample]:
    """row_ptr, col, keep, grow, capacity, cols"""
    samples = []
    for name, p in patterns().items():
        nnz = p.coordinates.numel()
        for kind, share in {"keep all": 2.0, "drop some": 0.6, "drop all": 0.0}.items():
            keep = torch.rand(nnz) < share
            kept = torch.zeros(p.mask.numel(), dtype=torch.bool)
            kept[p.coordinates[keep]] = True
            free = (~kept).nonzero().flatten()
            for grown in sorted({0, min(3, free.numel()), free.numel()}):
                grow = free[torch.randperm(free.numel())[:grown]].sort().values
                capacity = int(keep.sum()) + grown + p.slack
                args = (p.row_ptr, p.col, keep, grow, capacity, p.cols)
                samples.append(Sample(f"{name}, {kind}, grow {grown}", args, p))
    return samples


def transpose_index(dtype: torch.dtype) -> list[Sample]:
    """row_ptr, col, cols"""
    return [Sample(name, (p.row_ptr, p.col, p.cols), p) for name, p in patterns().items()]


tile_index = transpose_index


def kth_largest(dtype: torch.dtype) -> list[Sample]:
    """scores, k, absolute"""
    zeros = torch.tensor([0.0, -0.0, -0.0, 0.0], dtype=dtype)
    extremes = [float("inf"), -float("inf"), 0.0, torch.finfo(dtype).tiny, -torch.finfo(dtype).max]
    extremes = torch.tensor(extremes, dtype=torch.float64)
    lists = {
        "one tensor": [_plain(50, dtype=dtype)],
        "several": [_plain(7, 3, dtype=dtype), _plain(0, dtype=dtype), _plain(4, 2, 5, dtype=dtype)],
        "strided": [_strided(6, 5, dtype=dtype), _plain(9, 4, dtype=dtype).t(), _plain(3, 1, dtype=dtype).expand(3, 4)],
        "ties": [torch.randint(-2, 3, (30,)).to(dtype), torch.randint(-2, 3, (4, 5)).to(dtype), zeros],
        "all equal": [torch.full((40,), -1.5, dtype=dtype)],
        "narrow": [(1 + torch.rand(60, dtype=torch.float64) * 1e-5).to(dtype), -torch.ones(9, dtype=dtype)],
        "extremes": [extremes.to(dtype), zeros, _plain(10, dtype=dtype) * 1e-30],
        "scalar": [torch.tensor(-2.0, dtype=dtype)],
        "many": [torch.randint(-999, 999, (150_000,)).to(dtype), _plain(150_000, dtype=dtype)],
    }
    return [
        Sample(f"{name}, {k}{', absolute' * absolute}", (scores, k, absolute), Pattern(_mask(1, 1, 0.0)))
        for name, scores in lists.items()
        for total in [sum(score.numel() for score in scores)]
        for k in sorted({1, total // 3 + 1, (total + 1) // 2, total})
        for absolute in (False, True)
    ]


def topk_mask(dtype: torch.dtype) -> list[Sample]:
    """scores, k, absolute"""
    samples = kth_largest(dtype)
    none = [Sample(f"{s.name}, none", (s.args[0], 0, False), s.pattern) for s in samples if s.args[1:] == (1, False)]
    return samples + none


SAMPLES: dict[str, Callable[[torch.dtype], list[Sample]]] = {
    "sparse_linear": linear,
    "sparse_linear_backward": linear_backward,
    "expanded_linear": linear,
    "expanded_linear_backward": linear_backward,
    "expand": expand,
    "collect": collect,
    "sampled_gradient": sampled_gradient,
    "guided_sample": guided_sample,
    "random_subset": random_subset,
    "compress": compress,
    "rewire": rewire,
    "transpose_index": transpose_index,
    "tile_index": tile_index,
    "topk_mask": topk_mask,
    "kth_largest": kth_largest,
}

INDICES = ("random_subset", "compress", "rewire", "transpose_index", "tile_index")
WIDE = (torch.float32, torch.float64, torch.bfloat16)
ALL = (*WIDE, torch.float16)
DTYPES: dict[str, tuple[torch.dtype, ...]] = {
    **dict.fromkeys(SAMPLES, WIDE),
    **dict.fromkeys(INDICES, (torch.float32,)),  # of no meaning to them
    **dict.fromkeys(("expand", "collect", "sampled_gradient", "topk_mask", "kth_largest"), ALL),
}


def cases() -> list[tuple[str, torch.dtype]]:
    """Every operator with every dtype it takes."""
    return [(name, dtype) for name in SAMPLES for dtype in DTYPES[name]]
