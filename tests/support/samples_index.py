"""Inputs of the operators on indices, which take no values."""

from collections.abc import Callable

import torch
from support.patterns import Pattern, Sample, mask, patterns, strips, tiles

from sparsekern import ops
from sparsekern.ops import bit_index as make_bits
from sparsekern.ops import narrow_pattern as make_narrow
from sparsekern.ops import tile_pattern as make_pattern


def random_subset(dtype: torch.dtype) -> list[Sample]:
    """out, size, seed"""
    none = Pattern(mask(1, 1, 0.0))
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
        for name, p in {**patterns(), "many": Pattern(mask(60, 100, 0.5), slack=2)}.items()
        for order, coordinates in {
            "ascending": p.coordinates,
            "shuffled": p.coordinates[torch.randperm(p.coordinates.numel())],
            "strided": torch.stack([p.coordinates.flip(0)] * 2, dim=1)[:, 1],
        }.items()
    ]


def compress_mask(dtype: torch.dtype) -> list[Sample]:
    """mask, capacity"""
    return [
        Sample(f"{name}, {layout}", (m, p.coordinates.numel() + p.slack), p)
        for name, p in {**patterns(), "many": Pattern(mask(60, 1003, 0.5), slack=2)}.items()
        for layout, m in {"contiguous": p.mask, "strided": p.mask.t().contiguous().t()}.items()
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


def tile_pattern(dtype: torch.dtype) -> list[Sample]:
    """row_ptr, col, cols, side"""
    sides = {16: patterns(), 64: patterns()}
    return [
        Sample(f"{name}, {side}", (p.row_ptr, p.col, p.cols, side), p)
        for side, all_patterns in sides.items()
        for name, p in all_patterns.items()
    ]


def narrow_pattern(dtype: torch.dtype) -> list[Sample]:
    """row_ptr, col, cols"""
    return [Sample(name, (p.row_ptr, p.col, p.cols), p) for name, p in {**patterns(), "strips": strips()}.items()]


def compact_columns(dtype: torch.dtype) -> list[Sample]:
    """row_ptr, compact, cols, capacity"""
    samples = []
    for name, p in {**patterns(), "beyond the edges": tiles(), "strips": strips()}.items():
        index = p.row_ptr, p.col, p.cols
        forms = {str(side): make_pattern(*index, side) for side in (16, 96, 240)} | {"narrow": make_narrow(*index)}
        samples += [
            Sample(f"{name}, {form}", (p.row_ptr, compact, p.cols, p.col.numel()), p) for form, compact in forms.items()
        ]
    return samples


def bit_columns(dtype: torch.dtype) -> list[Sample]:
    """row_ptr, bits, cols, capacity"""
    return [
        Sample(name, (p.row_ptr, make_bits(p.row_ptr, p.col, p.cols), p.cols, p.col.numel()), p)
        for name, p in {**patterns(), **{f"wide {d}": Pattern(mask(9, 530, d)) for d in (0.1, 0.5, 0.97)}}.items()
    ]


def mask_bits(dtype: torch.dtype) -> list[Sample]:
    """mask"""
    masks = {**patterns(), **{f"wide {d}": Pattern(mask(9, 530, d)) for d in (0.1, 0.97)}}
    return [
        Sample(f"{name}, {layout}", (m,), p)
        for name, p in masks.items()
        for layout, m in {"contiguous": p.mask, "strided": p.mask.t().contiguous().t()}.items()
    ]


def bit_pointers(dtype: torch.dtype) -> list[Sample]:
    """bits"""
    return [Sample(s.name, s.args[1:2], s.pattern) for s in bit_columns(dtype)]


def common_bits(dtype: torch.dtype) -> list[Sample]:
    """left, right"""
    samples = []
    for sample in bit_columns(dtype):
        _, bits, cols, _ = sample.args
        for share in (0.0, 0.5, 1.0):
            both = Pattern(sample.pattern.mask & (torch.rand(sample.pattern.mask.shape) < share))
            other = both.mask | ~sample.pattern.mask
            right = make_bits(*ops.compress_mask(other), cols)
            samples.append(Sample(f"{sample.name}, {share}", (bits, right), both))
    return samples


def drop_bits(dtype: torch.dtype) -> list[Sample]:
    """row_ptr, bits, keep, cols"""
    samples = []
    for sample in bit_columns(dtype):
        row_ptr, bits, cols, _ = sample.args
        for share in (0.0, 0.4, 1.0):
            keep = torch.rand(int(row_ptr[-1])) < share
            left = torch.zeros_like(sample.pattern.mask).masked_scatter_(sample.pattern.mask, keep)
            packed = make_bits(torch.tensor([0, int(keep.sum())]).int(), keep.nonzero().flatten().int(), keep.numel())
            samples.append(Sample(f"{sample.name}, {share}", (row_ptr, bits, packed, cols), Pattern(left)))
    return samples


def positions(dtype: torch.dtype) -> list[Sample]:
    """row_ptr, columns, coordinates, cols"""
    samples = []
    for sample in bit_columns(dtype):
        p, (row_ptr, bits, cols, _) = sample.pattern, sample.args
        asked = torch.randperm(p.mask.numel())[: 3 * p.mask.numel() // 4]
        for form, columns in {"columns": p.col, "bits": bits}.items():
            samples.append(Sample(f"{sample.name}, {form}", (row_ptr, columns, asked, cols), p))
        strided = torch.stack([asked, asked], dim=1)[:, 0]
        samples.append(Sample(f"{sample.name}, strided", (row_ptr, p.col, strided, cols), p))
    return samples


def move_entries(dtype: torch.dtype) -> list[Sample]:
    """source, target, keep, size, old, used, fill"""
    samples = []
    for size, slack in ((0, 0), (1, 2), (64, 0), (200, 5)):
        for share in (0.0, 0.6, 1.0):
            keep = torch.rand(size) < share
            kept = int(keep.sum())
            for grown in (0, 1, 77):
                old = torch.zeros(kept + grown, dtype=torch.bool)
                old[torch.randperm(kept + grown)[:kept]] = True
                source, target = torch.randn(size + slack).to(dtype), torch.ones(kept + grown + slack, dtype=dtype)
                for used in {0, kept + grown}:
                    marks = old if used else old[:0]
                    bits = [ops.mask_bits(mark[None]) for mark in (keep, marks)]
                    args = (source, target, bits[0], size, bits[1], used, torch.tensor(0.5, dtype=dtype))
                    want = Pattern((old if used else torch.arange(len(old)) < kept)[None])
                    samples.append(Sample(f"{size}, {share}, {grown}, {used}", args, want))
    return samples


def coordinates(dtype: torch.dtype) -> list[Sample]:
    """row_ptr, col, cols, nnz"""
    return [Sample(name, (p.row_ptr, p.col, p.cols, p.coordinates.numel()), p) for name, p in patterns().items()]


INDICES: dict[str, Callable[[torch.dtype], list[Sample]]] = {
    "random_subset": random_subset,
    "compress": compress,
    "compress_mask": compress_mask,
    "rewire": rewire,
    "transpose_index": transpose_index,
    "segment_index": transpose_index,
    "tile_pattern": tile_pattern,
    "narrow_pattern": narrow_pattern,
    "compact_columns": compact_columns,
    "bit_index": transpose_index,
    "bit_columns": bit_columns,
    "bit_pointers": bit_pointers,
    "mask_bits": mask_bits,
    "common_bits": common_bits,
    "drop_bits": drop_bits,
    "positions": positions,
    "coordinates": coordinates,
}
