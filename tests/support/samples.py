"""Inputs of every operator: what the comparisons, gradcheck, opcheck and the benchmarks' gate run on."""

from collections.abc import Callable

import torch
from support.patterns import Pattern, Sample, mask, patterns, plain, strided, tiles
from support.samples_conv import conv2d, conv2d_backward, sampled_conv2d_gradient
from support.samples_index import INDICES, move_entries
from support.samples_masked import masked_conv2d, masked_conv2d_backward, masked_linear, masked_linear_backward
from support.samples_moment import conv2d_gradient_moment, gradient_moment, score_step, snr_update

from sparsekern.ops import bit_index as make_bits
from sparsekern.ops import narrow_pattern as narrow
from sparsekern.ops import segment_index as make_segments
from sparsekern.ops import tile_pattern as make_pattern

LEADING = {"vector": (), "batch": (5,), "sequence": (2, 3), "zero batch": (0,), "long": (300,)}


def linear(dtype: torch.dtype) -> list[Sample]:
    """input, values, index, bias, out_features"""
    samples = []
    for name, p in patterns().items():
        for batch, leading in LEADING.items():
            bias = plain(p.rows, dtype=dtype) if batch != "batch" else None
            args = (plain(*leading, p.cols, dtype=dtype), p.values(dtype), p.index(), bias, p.rows)
            samples.append(Sample(f"{name}, {batch}", args, p))
        args = (strided(4, p.cols, dtype=dtype), p.values(dtype), p.index(), None, p.rows)
        samples.append(Sample(f"{name}, strided", args, p))
        args = (plain(2, 3, p.cols, dtype=dtype), p.values(dtype), p.index(bits=True), None, p.rows)
        samples.append(Sample(f"{name}, bits", args, p))
    p = tiles()
    for make, *leading in ((plain, 0), (plain, 1), (plain, 64), (plain, 65), (strided, 2, 9), (plain, 600)):
        bias = plain(p.rows, dtype=dtype) if leading[0] != 64 else None
        args = (make(*leading, p.cols, dtype=dtype), p.values(dtype), p.index(bits=True), bias, p.rows)
        samples.append(Sample(f"tiles, {make.__name__} {leading}", args, p))
    p = Pattern(mask(520, 530, 0.05))
    args = (plain(5, p.cols, dtype=dtype), p.values(dtype), p.index(bits=True), plain(p.rows, dtype=dtype), p.rows)
    samples.append(Sample("many tiles", args, p))
    return samples


def linear_backward(dtype: torch.dtype) -> list[Sample]:
    """grad_output, input, values, index, need_input, need_values, need_bias"""
    samples = []
    for i, sample in enumerate(linear(dtype)):
        input, values, index, _, rows = sample.args
        make = strided if "strided" in sample.name else plain
        grad_output = make(*input.shape[:-1], rows, dtype=dtype)
        needs = (True, True, True) if i % 3 else (bool(i % 2), not i % 2, bool(i % 2))
        samples.append(Sample(sample.name, (grad_output, input, values, index, *needs), sample.pattern))
    return samples


def rows_of(dtype: torch.dtype) -> list[Sample]:
    """values, row_ptr, col, start, stop, cols"""
    return [
        Sample(f"{name}, rows {start}:{stop}", (p.values(dtype), p.row_ptr, p.col, start, stop, p.cols), p)
        for name, p in {**patterns(), "beyond the edges": tiles()}.items()
        for start, stop in {(0, p.rows), (p.rows // 2, p.rows), (p.rows // 3, 2 * p.rows // 3), (0, 0)}
    ]


def expand(dtype: torch.dtype) -> list[Sample]:
    """values, row_ptr, col or a compact index, start, stop, cols"""
    samples = []
    for sample in rows_of(dtype):
        values, row_ptr, col, start, stop, cols = sample.args
        samples.append(sample)
        for form, compact in {
            "tiles": make_pattern(row_ptr, col, cols, 48),
            "narrow": narrow(row_ptr, col, cols),
        }.items():
            args = (values, row_ptr, compact, start, stop, cols)
            samples.append(Sample(f"{sample.name}, {form}", args, sample.pattern))
    return samples


def expand_bits(dtype: torch.dtype) -> list[Sample]:
    """values, pointers, bits, start, stop, cols"""
    samples = []
    for sample in [*rows_of(dtype), *wide_rows(dtype)]:
        values, row_ptr, col, start, stop, cols = sample.args
        segment_ptr, bits = (op(row_ptr, col, cols) for op in (make_segments, make_bits))
        for pointers in (segment_ptr, row_ptr):
            samples.append(Sample(sample.name, (values, pointers, bits, start, stop, cols), sample.pattern))
    return samples


def wide_rows(dtype: torch.dtype) -> list[Sample]:
    """Arguments of `expand`: rows of many words, which vector instructions take up."""
    several = (Pattern(mask(9, 530, density)) for density in (0.1, 0.5, 0.97, 1.0))
    return [Sample(f"wide {p.rows}", (p.values(dtype), p.row_ptr, p.col, 2, 9, p.cols), p) for p in several]


def collect_bits(dtype: torch.dtype) -> list[Sample]:
    """dense, row_ptr, bits, start, stop, out"""
    samples = []
    for sample in [*rows_of(dtype), *wide_rows(dtype)]:
        values, row_ptr, col, start, stop, cols = sample.args
        for make in (plain, strided):
            bits, dense = make_bits(row_ptr, col, cols), make(stop - start, cols, dtype=dtype)
            args = (dense, row_ptr, bits, start, stop, torch.zeros_like(values))
            samples.append(Sample(f"{sample.name}, {make.__name__}", args, sample.pattern))
    return samples


def collect(dtype: torch.dtype) -> list[Sample]:
    """dense, row_ptr, col, start, stop, out"""
    samples = []
    for sample in expand(dtype):
        values, row_ptr, col, start, stop, cols = sample.args
        for make in (plain, strided):
            for source in {dtype, torch.float32}:
                dense = make(stop - start, cols, dtype=source)
                args = (dense, row_ptr, col, start, stop, torch.zeros_like(values))
                samples.append(Sample(f"{sample.name}, {make.__name__} {source}", args, sample.pattern))
    return samples


def sampled_gradient(dtype: torch.dtype) -> list[Sample]:
    """grad_output, input, coordinates"""
    samples = []
    for name, p in patterns().items():
        size = p.mask.numel()
        for batch, leading in LEADING.items():
            make = strided if batch == "sequence" else plain
            some = torch.randint(size, (37,)) if batch == "batch" else p.coordinates  # any order, repeated
            args = (make(*leading, p.rows, dtype=dtype), make(*leading, p.cols, dtype=dtype), some)
            samples.append(Sample(f"{name}, {batch}", args, p))
        same = plain(1, p.cols, dtype=dtype).expand(6, p.cols)
        samples.append(Sample(f"{name}, expanded", (plain(6, p.rows, dtype=dtype), same, torch.arange(size)), p))
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


def kth_largest(dtype: torch.dtype) -> list[Sample]:
    """scores, k, absolute"""
    zeros = torch.tensor([0.0, -0.0, -0.0, 0.0], dtype=dtype)
    extremes = [float("inf"), -float("inf"), 0.0, torch.finfo(dtype).tiny, -torch.finfo(dtype).max]
    extremes = torch.tensor(extremes, dtype=torch.float64)
    lists = {
        "one tensor": [plain(50, dtype=dtype)],
        "several": [plain(7, 3, dtype=dtype), plain(0, dtype=dtype), plain(4, 2, 5, dtype=dtype)],
        "strided": [strided(6, 5, dtype=dtype), plain(9, 4, dtype=dtype).t(), plain(3, 1, dtype=dtype).expand(3, 4)],
        "ties": [torch.randint(-2, 3, (30,)).to(dtype), torch.randint(-2, 3, (4, 5)).to(dtype), zeros],
        "all equal": [torch.full((40,), -1.5, dtype=dtype)],
        "narrow": [(1 + torch.rand(60, dtype=torch.float64) * 1e-5).to(dtype), -torch.ones(9, dtype=dtype)],
        "extremes": [extremes.to(dtype), zeros, plain(10, dtype=dtype) * 1e-30],
        "scalar": [torch.tensor(-2.0, dtype=dtype)],
        "many": [torch.randint(-999, 999, (6_000,)).to(dtype), plain(6_000, dtype=dtype)],
    }
    return [
        Sample(f"{name}, {k}{', absolute' * absolute}", (scores, k, absolute), Pattern(mask(1, 1, 0.0)))
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
    "sparse_conv2d": conv2d,
    "sparse_conv2d_backward": conv2d_backward,
    "expanded_conv2d": conv2d,
    "expanded_conv2d_backward": conv2d_backward,
    "masked_linear": masked_linear,
    "masked_linear_backward": masked_linear_backward,
    "masked_conv2d": masked_conv2d,
    "masked_conv2d_backward": masked_conv2d_backward,
    "expand": expand,
    "expand_bits": expand_bits,
    "collect": collect,
    "collect_bits": collect_bits,
    "sampled_gradient": sampled_gradient,
    "sampled_conv2d_gradient": sampled_conv2d_gradient,
    "guided_sample": guided_sample,
    **INDICES,
    "topk_mask": topk_mask,
    "topk_bits": topk_mask,
    "move_entries": move_entries,
    "kth_largest": kth_largest,
    "gradient_moment": gradient_moment,
    "conv2d_gradient_moment": conv2d_gradient_moment,
    "snr_update": snr_update,
    "score_step": score_step,
}

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
DTYPES: dict[str, tuple[torch.dtype, ...]] = {
    **dict.fromkeys(SAMPLES, FLOATS),
    **dict.fromkeys(INDICES, (torch.float32,)),  # of no meaning to them
}


def cases() -> list[tuple[str, torch.dtype]]:
    """Every operator with every dtype it takes."""
    return [(name, dtype) for name in SAMPLES for dtype in DTYPES[name]]
