"""The mask of the largest weights of a network."""

from collections.abc import Callable

import torch
from torch import Tensor

from ... import ops
from .case import Case


def threshold_cases(size: int, dtype: torch.dtype, device: torch.device) -> list[Case]:
    """The mask of the largest tenth of the magnitudes of some tensors, or of a few more: no equal ones are told apart,
    which the peers cannot."""
    scores = [torch.randn(n, device=device).to(dtype) for n in (size // 2, size // 3, size - size // 2 - size // 3)]
    k = size // 10
    ordered = torch.cat(scores).abs_().sort(descending=True).values
    k = int((ordered >= ordered[k - 1]).sum())

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
        mask = torch.zeros(size, dtype=torch.float64, device=device)
        return [mask.index_fill_(0, torch.cat(scores).abs_().sort(descending=True).indices[:k], 1.0)]

    return [Case(f"topk_mask {size:,}", dtype, 0.9, 1, calls, expected)]
