"""The mask of the largest weights of a network."""

from collections.abc import Callable

import torch
from torch import Tensor

from ... import ops
from .case import Case


def threshold_cases(size: int, dtype: torch.dtype, device: torch.device) -> list[Case]:
    """The mask of the largest tenth of the magnitudes of some tensors."""
    scores = [torch.randn(n, device=device).to(dtype) for n in (size // 2, size // 3, size - size // 2 - size // 3)]
    k = size // 10

    def by(threshold: Callable[[Tensor], Tensor]) -> Tensor:
        magnitudes = torch.cat(scores).abs_()
        return magnitudes >= threshold(magnitudes)

    calls = {
        "torch.topk": lambda: by(lambda m: m.topk(k, sorted=False).values.min()),
        "torch.kthvalue": lambda: by(lambda m: m.kthvalue(size - k + 1).values),
        "torch.sort": lambda: by(lambda m: m.sort(descending=True).values[k - 1]),
        "sparsekern": lambda: torch.cat(ops.topk_mask(scores, k, absolute=True)),
    }

    def expected() -> list[Tensor]:
        return [by(lambda m: m.sort(descending=True).values[k - 1]).double()]

    return [Case(f"topk_mask {size:,}", dtype, 0.9, 1, calls, expected)]
