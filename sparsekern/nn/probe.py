"""What an armed layer keeps of one step's backward passes, and the statistics of it that methods ask for."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .. import ops


class Probe:
    """Inputs h `[..., cols]` and output gradients delta `[..., rows]` of every use of a layer within one step."""

    def __init__(self) -> None:
        self.records: list[tuple[Tensor, Tensor]] = []

    def tap(self, output: Tensor, input: Tensor) -> Tensor:
        """`output` itself; its backward pass records (h, delta)."""
        return _Tap.apply(output, input.detach(), self)  # type: ignore[return-value]

    def row_weight(self) -> Tensor:
        """g_b = sum_i |delta_ib|, `[rows]` (GraBo, section 3)."""
        return self._total(lambda h, delta: _absolute_sum(delta))

    def col_weight(self) -> Tensor:
        """f_a = sum_i |h_ia|, `[cols]` (GraBo, section 3)."""
        return self._total(lambda h, delta: _absolute_sum(h))

    def gradient_at(self, coordinates: Tensor) -> Tensor:
        """dL/dW at flat coordinates, `[n]`; nothing of the size of W is made."""
        return self._total(lambda h, delta: ops.sampled_gradient(delta, h, coordinates))

    def dense_gradient(self) -> Tensor:
        """dL/dW, dense `[rows, cols]`."""
        return self._total(lambda h, delta: delta.reshape(-1, delta.shape[-1]).t() @ h.reshape(-1, h.shape[-1]))

    def _total(self, statistic: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        if not self.records:
            raise RuntimeError("a layer was armed for this step, but no backward pass reached it")
        total = statistic(*self.records[0])
        for h, delta in self.records[1:]:
            total = total + statistic(h, delta)
        return total


def _absolute_sum(tensor: Tensor) -> Tensor:
    wide = torch.float64 if tensor.dtype == torch.float64 else torch.float32
    return tensor.reshape(-1, tensor.shape[-1]).abs().sum(0, dtype=wide)


class _Tap(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, output: Tensor, input: Tensor, probe: Probe) -> Tensor:
        ctx.input, ctx.probe = input, probe
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple:
        (grad_output,) = grad_outputs
        # Under autocast the output, and so its gradient, is narrower than the input.
        ctx.probe.records.append((ctx.input.to(grad_output.dtype), grad_output.detach()))
        return grad_output, None, None
