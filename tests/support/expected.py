"""What the operators should give, computed from dense masks without the package.

Random sets have no such form: they are those of the reference, whose law is tested by itself.
"""

from collections.abc import Callable

import numpy as np
import torch
from support.samples import Pattern, Sample
from support.samples_conv import convolve
from support.samples_masked import (
    expected_masked_conv2d,
    expected_masked_conv2d_backward,
    expected_masked_linear,
    expected_masked_linear_backward,
)
from support.samples_moment import (
    expected_conv2d_gradient_moment,
    expected_gradient_moment,
    expected_score_step,
    expected_snr_update,
)
from torch import Tensor

from sparsekern.ops.guided_sample import guided_sample_reference
from sparsekern.ops.random_subset import random_subset_reference


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


def conv2d(p: Pattern, input: Tensor, values: Tensor, index: list, bias: Tensor | None, *window) -> Tensor:
    return convolve(*_wide(input, p.dense(values)), None if bias is None else bias.double(), *window)


def conv2d_backward(
    p: Pattern, grad_output: Tensor, input: Tensor, values: Tensor, index: list, *need_and_window
) -> list[Tensor]:
    need, window = need_and_window[:3], need_and_window[3:]
    leaves = [t.detach().requires_grad_() for t in (*_wide(input, p.dense(values)), torch.zeros(p.rows).double())]
    grad_input, dense, grad_bias = torch.autograd.grad(convolve(*leaves, *window), leaves, grad_output.double())
    every = [grad_input, torch.cat([dense[p.mask], torch.zeros(p.slack).double()]), grad_bias]
    return [g if wanted else torch.empty(0).double() for g, wanted in zip(every, need, strict=True)]


def expand(p: Pattern, values: Tensor, row_ptr: Tensor, col: Tensor, start: int, stop: int, cols: int) -> Tensor:
    return p.dense(values)[start:stop].double()


def expand_bits(p: Pattern, values: Tensor, segment_ptr: Tensor, bits: Tensor, *rows_and_cols: int) -> Tensor:
    start, stop, _ = rows_and_cols
    return p.dense(values)[start:stop].double()


def narrow_pattern(p: Pattern, row_ptr: Tensor, col: Tensor, cols: int) -> Tensor:
    """The bytes, nonzero by nonzero."""
    nnz, by_columns = int(p.mask.sum()), p.mask.t().nonzero().tolist()
    starts = [0, *p.mask.sum(0).cumsum(0).tolist()]
    places = [int(p.mask[r, c // 192 * 192 : c].sum()) for c, r in by_columns]
    counts = [p.mask[:, c : c + 192].sum(1).tolist() for c in range(0, p.cols, 192)]
    parts = [
        np.array([p.rows, p.cols, 0, nnz, *starts], dtype=np.int32),
        p.mask.nonzero()[:, 1].numpy().astype(np.uint16),
        np.array([r for _, r in by_columns], dtype=np.uint16),
        np.array(places, dtype=np.uint8),
        np.array(counts, dtype=np.uint8),
    ]
    used = b"".join(part.tobytes() + bytes(-part.nbytes % 4) for part in parts)
    words = [2 * -(-2 * n // 4) + -(-n // 4) for n in (nnz, nnz + p.slack)]
    return torch.tensor(list(used) + [0] * (4 * (words[1] - words[0])), dtype=torch.uint8)


def collect(p: Pattern, dense: Tensor, row_ptr: Tensor, columns: Tensor, start: int, stop: int, out: Tensor) -> Tensor:
    full = torch.zeros(p.mask.shape, dtype=torch.float64)
    full[start:stop] = dense
    return torch.cat([full[p.mask], torch.zeros(p.slack)])


def sampled_gradient(p: Pattern, grad_output: Tensor, input: Tensor, coordinates: Tensor) -> Tensor:
    delta, x = _wide(grad_output, input)
    return (delta.reshape(-1, p.rows).t() @ x.reshape(-1, p.cols)).flatten()[coordinates]


def sampled_conv2d_gradient(p: Pattern, grad_output: Tensor, input: Tensor, coordinates: Tensor, *window) -> Tensor:
    weight = torch.zeros(p.mask.shape, dtype=torch.float64, requires_grad=True)
    output = convolve(input.double(), weight, None, *window)
    return torch.autograd.grad(output, weight, grad_output.double())[0].flatten()[coordinates]


def compress(p: Pattern, coordinates: Tensor, rows: int, cols: int, capacity: int) -> list[Tensor]:
    return [p.row_ptr, p.col]


def compress_mask(p: Pattern, mask: Tensor, capacity: int) -> list[Tensor]:
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


def segment_index(p: Pattern, row_ptr: Tensor, col: Tensor, cols: int) -> Tensor:
    edges = [min(64 * t, p.cols) for t in range((p.cols + 63) // 64 + 1)]
    return torch.stack([p.row_ptr[:-1] + p.mask[:, :edge].sum(1) for edge in edges], dim=1).int()


def tile_pattern(p: Pattern, row_ptr: Tensor, col: Tensor, cols: int, side: int) -> Tensor:
    """The bytes, tile by tile."""
    down, across = -(-p.rows // side), -(-p.cols // side)
    padded = np.zeros((down * side, across * side), dtype=bool)
    padded[: p.rows, : p.cols] = p.mask.numpy()

    def by_count(counts: np.ndarray) -> list[int]:
        return sorted(range(side), key=lambda i: (-counts[i], i))

    starts, entries, rows, columns = [0], [], ([], []), ([], [])
    for i in range(down):
        for j in range(across):
            counts = padded[i * side :, j * side :][:side, :side].sum(1)
            order = by_count(counts)
            rows[0].extend(order)
            rows[1].extend(counts[order])
    for j in range(across):
        for i in range(down):
            tile = padded[i * side :, j * side :][:side, :side]
            order = by_count(tile.sum(0))
            columns[0].extend(order)
            columns[1].extend(tile.sum(0)[order])
            entries += [r + 256 * int(tile[r, :c].sum()) for c in order for r in tile[:, c].nonzero()[0].tolist()]
            starts.append(len(entries))
    parts = [
        np.array([p.rows, p.cols, side, len(entries), *starts], dtype=np.int32),
        np.array(entries, dtype=np.uint16),
        np.zeros(-2 * len(entries) % 4, dtype=np.uint8),
        (p.mask.nonzero()[:, 1] % side).to(torch.uint8).numpy(),
        np.zeros(-len(entries) % 4, dtype=np.uint8),
        *(np.array(table, dtype=np.uint8) for table in (*rows, *columns)),
    ]
    words = [[-(-size * nnz // 4) for size in (2, 1)] for nnz in (len(entries), len(entries) + p.slack)]
    slack = np.zeros(4 * (sum(words[1]) - sum(words[0])), dtype=np.uint8)
    return torch.from_numpy(np.concatenate([*(part.view(np.uint8) for part in parts), slack]))


def columns(p: Pattern, row_ptr: Tensor, encoded: Tensor, cols: int, capacity: int) -> Tensor:
    return torch.cat([p.mask.nonzero()[:, 1], torch.zeros(p.slack)]).int()


def bit_index(p: Pattern, row_ptr: Tensor, col: Tensor, cols: int) -> Tensor:
    words = np.zeros((p.rows, -(-cols // 64)), dtype=np.uint64)
    for r, c in p.mask.nonzero().tolist():
        words[r, c // 64] |= np.uint64(1 << c % 64)
    return torch.from_numpy(words.view(np.int64))


def mask_bits(p: Pattern, *args: object) -> Tensor:
    return bit_index(p, p.row_ptr, p.col, p.cols)


def bit_pointers(p: Pattern, bits: Tensor) -> Tensor:
    return p.row_ptr


def common_bits(p: Pattern, left: Tensor, right: Tensor) -> Tensor:
    return p.mask.sum()


def drop_bits(p: Pattern, *args: object) -> list[Tensor]:
    return [p.row_ptr, mask_bits(p)]


def positions(p: Pattern, row_ptr: Tensor, columns: Tensor, asked: Tensor, cols: int) -> Tensor:
    places = {c: k for k, c in enumerate(p.coordinates.tolist())}
    return torch.tensor([places.get(c, -1) for c in asked.tolist()], dtype=torch.int32)


def move_entries(
    p: Pattern, source: Tensor, target: Tensor, keep: Tensor, size: int, old: Tensor, used: int, fill: Tensor
) -> Tensor:
    words = keep.view(-1).tolist()
    left = [x for i, x in enumerate(source[:size].tolist()) if words[i // 64] >> i % 64 & 1]
    target.fill_(fill)
    target[p.coordinates] = torch.tensor(left, dtype=target.dtype)
    return target


def coordinates(p: Pattern, row_ptr: Tensor, col: Tensor, cols: int, nnz: int) -> Tensor:
    return p.coordinates


def flat_scores(scores: list[Tensor], absolute: bool) -> np.ndarray:
    flat = np.concatenate([score.double().numpy().ravel() for score in scores])
    return np.abs(flat) if absolute else flat


def topk_mask(p: Pattern, scores: list[Tensor], k: int, absolute: bool) -> list[Tensor]:
    flat = flat_scores(scores, absolute)
    mask = torch.zeros(flat.size, dtype=torch.bool)
    mask[np.argsort(-flat, kind="stable")[:k]] = True
    return [part.reshape(s.shape) for part, s in zip(mask.split([s.numel() for s in scores]), scores, strict=True)]


def topk_bits(p: Pattern, scores: list[Tensor], k: int, absolute: bool) -> list[Tensor]:
    masks = topk_mask(p, scores, k, absolute)
    flat = [mask.flatten(1) if mask.dim() > 1 else mask.reshape(1, -1) for mask in masks]
    return [*(mask_bits(Pattern(mask)) for mask in flat), torch.stack([mask.sum() for mask in masks])]


def kth_largest(p: Pattern, scores: list[Tensor], k: int, absolute: bool) -> Tensor:
    return torch.tensor(-np.sort(-flat_scores(scores, absolute))[k - 1], dtype=torch.float64)


def guided_sample(p: Pattern, *args: object) -> list[Tensor]:
    return list(guided_sample_reference(*args))  # type: ignore[arg-type]


def random_subset(p: Pattern, out: Tensor, size: int, seed: int) -> Tensor:
    random_subset_reference(out, size, seed)
    return out


EXPECTED: dict[str, Callable] = {
    "sparse_linear": linear,
    "sparse_linear_backward": linear_backward,
    "expanded_linear": linear,
    "expanded_linear_backward": linear_backward,
    "sparse_conv2d": conv2d,
    "sparse_conv2d_backward": conv2d_backward,
    "expanded_conv2d": conv2d,
    "expanded_conv2d_backward": conv2d_backward,
    **{
        f.__name__: f
        for f in (expand, expand_bits, collect, sampled_gradient, guided_sample, random_subset, compress, rewire)
    },
    "collect_bits": collect,
    **dict.fromkeys(("bit_columns", "compact_columns"), columns),
    "compress_mask": compress_mask,
    "masked_linear": expected_masked_linear,
    "masked_linear_backward": expected_masked_linear_backward,
    "masked_conv2d": expected_masked_conv2d,
    "masked_conv2d_backward": expected_masked_conv2d_backward,
    "sampled_conv2d_gradient": sampled_conv2d_gradient,
    "gradient_moment": expected_gradient_moment,
    "conv2d_gradient_moment": expected_conv2d_gradient_moment,
    "snr_update": expected_snr_update,
    "score_step": expected_score_step,
    **{
        f.__name__: f
        for f in (transpose_index, segment_index, tile_pattern, narrow_pattern, bit_index, mask_bits, bit_pointers)
    },
    **{
        f.__name__: f
        for f in (common_bits, drop_bits, positions, coordinates, move_entries, topk_mask, topk_bits, kth_largest)
    },
}
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}
MUTATED = {  # the results
    **dict.fromkeys(("collect", "collect_bits"), (5,)),
    **dict.fromkeys(("random_subset", "snr_update"), (0,)),
    "move_entries": (1,),
    "score_step": (0, 1, 2),
}


def _args(name: str, sample: Sample) -> list:
    return [a.clone() if i in MUTATED.get(name, ()) else a for i, a in enumerate(sample.args)]


def run(function: Callable, sample: Sample, name: str) -> list[Tensor]:
    args = _args(name, sample)
    result = function(*args)
    result = [args[i] for i in MUTATED[name]] if name in MUTATED else result
    return [result] if isinstance(result, Tensor) else list(result)


def expected(name: str, sample: Sample) -> list[Tensor]:
    result = EXPECTED[name](sample.pattern, *_args(name, sample))
    return [result] if isinstance(result, Tensor) else list(result)


def compare(results: list[Tensor], name: str, sample: Sample, dtype: torch.dtype) -> None:
    """Compares the results of an operator with what it should give: integers exactly, other numbers up to the tolerance
    of the dtype, relative to the largest."""
    for actual, want in zip(results, expected(name, sample), strict=True):
        exact = not want.is_floating_point()
        assert not exact or actual.dtype == want.dtype, sample.name
        scale = float(want.abs().max()) if not exact and want.numel() and want.isfinite().all() else 1
        tolerance = 0 if exact else TOLERANCE[dtype]
        torch.testing.assert_close(
            actual.cpu().to(want.dtype),
            want,
            rtol=tolerance,
            atol=tolerance * scale,
            msg=lambda message: f"{sample.name}: {message}",
        )
