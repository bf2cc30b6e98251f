"""Records one step's backward passes of an armed layer, and computes the statistics that methods ask for."""

from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch import Tensor

from .. import ops
from ..ops.conv2d_gradient_moment import moment_of
from ..ops.passes import Passes, Use, running, use_of
from ..ops.shapes import accumulate_dtype
from ..ops.straight_through import gradient_and_moment, weight_gradient
from ..ops.transforms import refuse_transforms
from ..ops.window import Window


class Probe:
    """Holds inputs h and output gradients delta of every use of a layer within one step.

    A use counts if its backward pass made the gradient of the weight that the step uses. Statistics are sums over all
    uses, in fp32 or wider. They run over the weight viewed `[rows, cols]`.

    Attributes:
        records: h and delta of each use.
        frozen: whether uses of a frozen weight are recorded, too.
    """

    def __init__(self) -> None:
        self.frozen = False
        self.records: list[tuple[Tensor, Tensor]] = []
        self.passes = Passes()
        self.repeated = False  # whether a pass used the layer twice

    def watch(self, output: Tensor, input: Tensor, weight: Tensor) -> Tensor:
        """Returns `output`; its backward pass records (h, delta); see `frozen`."""
        refuse_transforms()
        if not weight.requires_grad and not self.frozen:
            return output
        return _Recorder.apply(output, input.detach(), self, weight)  # type: ignore[return-value]

    def record(self, use: Use, h: Tensor, delta: Tensor, weight: Tensor) -> None:
        place = self.passes.add(use, weight)
        if place == "other":
            return
        if place == "first":
            self.records, self.repeated = [], False
        self.records.append((h, delta))
        self.repeated |= place == "again"

    def forget(self) -> None:
        """Drops what was recorded."""
        self.records, self.repeated = [], False
        self.passes.clear()

    def row_weight(self) -> Tensor:
        """g_b = sum |delta_b|, `[rows]` (GraBo, section 3)."""
        return self._total(lambda h, delta: self._features(delta))

    def col_weight(self) -> Tensor:
        """f_a = sum |h_a|, `[cols]`, or `[groups, cols]` where groups of rows see different inputs (GraBo, section
        3)."""
        return self._total(lambda h, delta: self._columns(h))

    def gradient_at(self, coordinates: Tensor) -> Tensor:
        """dL/dW at flat coordinates, `[n]`; nothing of the size of W is made."""
        return self._total(lambda h, delta: self._sampled(h, delta, coordinates))

    def signed_sums(self, signs: Callable[[int], Tensor]) -> tuple[Tensor, Tensor]:
        """sum xi_i delta_i `[rows]` and sum xi_i h_i `[cols]` (or `[groups, cols]`) with a sign xi_i for each row i of
        the batch, `signs(n)` giving n of them: the expectation of their outer product is dL/dW (Heddes et al., GraEst).

        A row of a convolution is an output position of a sample, its h_i what the kernel sees there: sums are exact per
        channel and position of the kernel, beyond the uniform positions of GraBo, appendix C.
        """
        parts = [self._signed(h, delta, signs) for h, delta in self._recorded()]
        rows, cols = zip(*parts, strict=True)
        return torch.stack(rows).sum(0), torch.stack(cols).sum(0)

    def dense_gradient(self) -> Tensor:
        """dL/dW, dense, of the weight's shape."""
        return self._total(self._dense)

    def gradient_and_moment(self) -> tuple[Tensor, Tensor, int]:
        """dL/dW, dense, of the weight's shape, the second moment of the samples' shares of it, and the number of
        samples, the first dimension of h.

        Raises:
            RuntimeError: the layer took part twice in one backward pass: its uses of a sample would have to be summed
                before squaring.
            ValueError: a use without a batch dimension.
        """
        if self.repeated:
            raise RuntimeError("the second moment of a layer that is used twice in one backward pass is not recorded")
        (gradient, moment), *others = [self._moment(h, delta) for h, delta in self._recorded()]
        for more_gradient, more_moment in others:
            gradient += more_gradient
            moment += more_moment
        return gradient, moment, sum(h.shape[0] for h, _ in self.records)

    def _features(self, tensor: Tensor) -> Tensor:
        raise NotImplementedError

    def _columns(self, h: Tensor) -> Tensor:
        raise NotImplementedError

    def _sampled(self, h: Tensor, delta: Tensor, coordinates: Tensor) -> Tensor:
        return self._dense(h, delta).reshape(-1)[coordinates]

    def _signed(self, h: Tensor, delta: Tensor, signs: Callable[[int], Tensor]) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def _dense(self, h: Tensor, delta: Tensor) -> Tensor:
        raise NotImplementedError

    def _moment(self, h: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def _total(self, statistic: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        first, *others = self._recorded()
        total = statistic(*first)
        for h, delta in others:
            total = total + statistic(h, delta)
        return total

    def _recorded(self) -> list[tuple[Tensor, Tensor]]:
        if not self.records:
            raise RuntimeError("a layer was armed for this step, but no backward pass reached it")
        return self.records


class LinearProbe(Probe):
    """h `[..., cols]`, delta `[..., rows]`."""

    def _features(self, tensor: Tensor) -> Tensor:
        return tensor.reshape(-1, tensor.shape[-1]).abs().sum(0, dtype=accumulate_dtype(tensor.dtype))

    def _columns(self, h: Tensor) -> Tensor:
        return self._features(h)

    def _sampled(self, h: Tensor, delta: Tensor, coordinates: Tensor) -> Tensor:
        return ops.sampled_gradient(delta, h, coordinates)

    def _signed(self, h: Tensor, delta: Tensor, signs: Callable[[int], Tensor]) -> tuple[Tensor, Tensor]:
        h, delta = (tensor.reshape(-1, tensor.shape[-1]).to(accumulate_dtype(tensor.dtype)) for tensor in (h, delta))
        xi = signs(len(h)).to(h)
        return xi @ delta, xi @ h

    def _dense(self, h: Tensor, delta: Tensor) -> Tensor:
        return weight_gradient(delta, h).to(accumulate_dtype(h.dtype))

    def _moment(self, h: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
        return moment_of(delta, h, None)


class ConvProbe(Probe):
    """h `[batch, channels, height, width]` as the operator sees it, delta alike; both perhaps without the batch.

    Channels take the part of features: sums run over batch and space, and the positions of the kernel are alike
    (GraBo, appendix C).
    """

    window: Window

    def __init__(self, weight_shape: tuple[int, ...], window: Any) -> None:
        super().__init__()
        self.weight_shape, self.window = weight_shape, window

    def _features(self, tensor: Tensor) -> Tensor:
        return _batched(tensor).abs().sum((0, 2, 3), dtype=accumulate_dtype(tensor.dtype))

    def _columns(self, h: Tensor) -> Tensor:
        groups, positions = self.window.groups, prod(self.weight_shape[2:])
        weight = self._features(h).repeat_interleave(positions)
        return weight if groups == 1 else weight.reshape(groups, -1)

    def _sampled(self, h: Tensor, delta: Tensor, coordinates: Tensor) -> Tensor:
        kernel, stride, padding, dilation, groups = self.window
        return ops.sampled_conv2d_gradient(
            _batched(delta),
            _batched(h),
            coordinates,
            kernel_size=kernel,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=groups,
        )

    def _signed(self, h: Tensor, delta: Tensor, signs: Callable[[int], Tensor]) -> tuple[Tensor, Tensor]:
        h, delta = (_batched(tensor).to(accumulate_dtype(tensor.dtype)) for tensor in (h, delta))
        batch, _, *size = delta.shape
        groups = self.window.groups
        xi = signs(batch * prod(size)).to(h).reshape(batch, 1, *size)
        # What a convolution with one output channel in each group would learn from the signs.
        shape = (groups, *self.weight_shape[1:])
        cols = weight_gradient(xi.expand(batch, groups, *size), h, shape, self.window).reshape(groups, -1)
        return (delta * xi).sum((0, 2, 3)), cols if groups > 1 else cols[0]

    def _dense(self, h: Tensor, delta: Tensor) -> Tensor:
        wide = accumulate_dtype(h.dtype)
        return weight_gradient(delta.to(wide), h.to(wide), self.weight_shape, self.window)

    def _moment(self, h: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
        return gradient_and_moment(delta, h, self.weight_shape, self.window)


def _batched(tensor: Tensor) -> Tensor:
    return tensor if tensor.dim() == 4 else tensor.unsqueeze(0)


class _Recorder(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, output: Tensor, input: Tensor, probe: Probe, weight: Tensor) -> Tensor:
        ctx.save_for_backward(input)
        ctx.probe, ctx.weight, ctx.began_in = probe, weight, running()
        return output.detach()  # of the same memory, and no view to autograd: it may be changed in place

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple:
        (grad_output,) = grad_outputs
        use = use_of(ctx, ctx.began_in)
        if use is not None:
            (input,) = ctx.saved_tensors
            # Under autocast the output, and so its gradient, is narrower than the input.
            input = input.to(grad_output.dtype) if input.is_floating_point() else input
            ctx.probe.record(use, input, grad_output.detach(), ctx.weight)
        return grad_output, None, None, None
