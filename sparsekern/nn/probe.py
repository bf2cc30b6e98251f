"""Records one step's backward passes of an armed layer, and computes the statistics that methods ask for."""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, Literal

import torch
from torch import Tensor

from .. import ops
from ..ops.conv2d_gradient_moment import moment_of
from ..ops.conv_geometry import ConvGeometry
from ..ops.passes import Passes, WeightUse, running, weight_use
from ..ops.shapes import accumulate_dtype
from ..ops.straight_through import gradient_and_moment, weight_gradient
from ..ops.torch_products import absolute_sums
from ..ops.transforms import refuse_transforms

# What the statistics of a step are made of. "gradient": the dense gradient.
# "bound": the dense gradient, and the sums that bound it.
# "moment": the dense gradient, and its second moment.
# "pairs": h and delta themselves, of which any statistic can be made.
Needs = Literal["gradient", "bound", "moment", "pairs"]


class Probe:
    """Holds what statistics of one step need: inputs h and output gradients delta of every use of a layer or, as soon
    as they take less memory, sums over the uses.

    A use counts if its backward pass made the gradient of the weight that the step uses. Statistics are sums over all
    uses, in fp32 or wider. They run over the weight viewed `[rows, cols]`.

    Attributes:
        weight_shape: that of the gradient.
        needs: which statistics will be asked for.
        records: h and delta of each use that is in no sum.
        read: the gradient of the weight by uses that are not the layer's own product, summed; None without any. It is
            part of the dense gradient alone.
        sums: empty, or the sums: the dense gradient, then g and f of the "bound", or the "moment".
        samples: the first dimensions of h, summed over the uses.
        frozen: whether uses of a frozen weight are recorded, too.
    """

    def __init__(self, weight_shape: tuple[int, ...]) -> None:
        self.weight_shape = weight_shape
        self.needs: Needs = "pairs"
        self.frozen = False
        self.passes = Passes()
        self._drop()

    def _drop(self) -> None:
        self.records: list[tuple[Tensor, Tensor]] = []
        self.sums: Sequence[Tensor] = ()
        self.read: Tensor | None = None
        self.samples = 0
        self.products: list[frozenset[int]] = []  # the passes of the layer's own products
        self.repeated = False  # whether a pass had two of them

    @property
    def reached(self) -> bool:
        """Whether a use was recorded."""
        return bool(self.records or self.sums) or self.read is not None

    def watch(self, output: Tensor, input: Tensor | None, weight: Tensor) -> Tensor:
        """Returns `output`; its backward pass records (h, delta); see `frozen`. Without an input, `output` is the dense
        weight, as the pattern has it."""
        refuse_transforms()
        if not weight.requires_grad and not self.frozen:
            return output
        return _Recorder.apply(output, None if input is None else input.detach(), self, weight)  # type: ignore[return-value]

    def record(self, use: WeightUse, h: Tensor | None, delta: Tensor, weight: Tensor) -> None:
        place = self.passes.add(use, weight)
        if place == "other":
            return
        if place == "first":
            self._drop()
        if h is None:
            wide = delta.to(accumulate_dtype(delta.dtype), copy=self.read is None)
            self.read = wide if self.read is None else self.read.add_(wide)
            return
        self.records.append((h, delta))
        self.samples += h.shape[0] if h.dim() else 1
        self.repeated |= any(use.tasks & tasks for tasks in self.products)
        self.products.append(use.tasks)
        if self.needs != "pairs" and (self.sums or self._outweigh(delta)):
            self.sums, self.records = self._added(self.needs), []

    def _outweigh(self, delta: Tensor) -> bool:
        """Returns whether the records take more memory than their sums would."""
        sums = prod(self.weight_shape) * accumulate_dtype(delta.dtype).itemsize * (1 + (self.needs == "moment"))
        return sum(x.nbytes for pair in self.records for x in pair) > sums

    def _added(self, needs: Needs) -> Sequence[Tensor]:
        """Returns the sums with the records added."""
        sums = self.sums
        for h, delta in self._recorded():
            more = self._moment(h, delta) if needs == "moment" else [self._dense(h, delta)]
            if needs == "bound":
                more = [*more, self._rows(h, delta), self._cols(h, delta)]
            sums = [total.add_(part) for total, part in zip(sums, more, strict=True)] if sums else more
        return sums

    def forget(self) -> None:
        """Drops what was recorded."""
        self._drop()
        self.passes.clear()

    def row_weight(self) -> Tensor:
        """g_b = sum |delta_b|, `[rows]` (GraBo, section 3)."""
        return self.sums[1] if self.sums else self._total(self._rows)

    def col_weight(self) -> Tensor:
        """f_a = sum |h_a|, `[cols]`, or `[groups, cols]` where groups of rows see different inputs (GraBo, section
        3)."""
        return self.sums[2] if self.sums else self._total(self._cols)

    def gradient_at(self, coordinates: Tensor) -> Tensor:
        """dL/dW at flat coordinates, `[n]`; nothing of the size of W is made where that is more than h and delta."""
        found = [] if self.read is None else [self.read.reshape(-1)[coordinates]]
        if self.sums:
            found.append(self.sums[0].reshape(-1)[coordinates])
        elif self.records or not found:
            found.append(self._total(lambda h, delta: self._sampled(h, delta, coordinates)))
        return found[0] if len(found) == 1 else found[0] + found[1]

    def signed_sums(self, signs: Callable[[int], Tensor]) -> tuple[Tensor, Tensor]:
        """sum xi_i delta_i `[rows]` and sum xi_i h_i `[cols]` (or `[groups, cols]`) with a sign xi_i for each row i of
        the batch, `signs(n)` giving n of them: the expectation of their outer product is dL/dW (Heddes et al., GraEst).

        A row of a convolution is an output position of a sample, its h_i what the kernel sees there: sums are exact per
        channel and position of the kernel, beyond the uniform positions of GraBo, appendix C.
        """
        signed = [self._signed(h, delta, signs) for h, delta in self._recorded()]
        rows, cols = zip(*signed, strict=True)
        return torch.stack(rows).sum(0), torch.stack(cols).sum(0)

    def dense_gradient(self) -> Tensor:
        """dL/dW, dense, of the weight's shape; to be read only."""
        if self.read is not None and not (self.sums or self.records):
            return self.read
        products = self.sums[0] if self.sums else self._total(self._dense)
        return products if self.read is None else products + self.read

    def gradient_and_moment(self) -> tuple[Tensor, Tensor, int]:
        """dL/dW by the layer's products, dense, of the weight's shape, the second moment of the samples' shares of it,
        and the number of samples; the tensors are to be read only.

        Raises:
            RuntimeError: the layer took part twice in one backward pass: its uses of a sample would have to be summed
                before squaring.
            ValueError: a use without a batch dimension.
        """
        if self.repeated:
            raise RuntimeError("the second moment of a layer that is used twice in one backward pass is not recorded")
        gradient, moment = self.sums or self._added("moment")
        return gradient, moment, self.samples

    def _rows(self, h: Tensor, delta: Tensor) -> Tensor:
        return self._features(delta)

    def _cols(self, h: Tensor, delta: Tensor) -> Tensor:
        return self._features(h)

    def _features(self, tensor: Tensor) -> Tensor:
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
        if not self.records and self.read is not None:
            raise unknown_product()
        if not self.records:
            raise RuntimeError("a layer was armed for this step, but no backward pass reached it")
        return self.records


def unknown_product() -> NotImplementedError:
    return NotImplementedError(
        "what enters and leaves the products of a weight is not known where only other code than its layer computes "
        "with it, as recurrences of PyTorch do: take a method that looks at gradients of weights only (set, rigl, gmp, "
        "dpf, gse_random), or leave such layers dense by exclude="
    )


class LinearProbe(Probe):
    """h `[..., cols]`, delta `[..., rows]`."""

    def _features(self, tensor: Tensor) -> Tensor:
        return absolute_sums(tensor.reshape(prod(tensor.shape[:-1]), tensor.shape[-1]))

    def _sampled(self, h: Tensor, delta: Tensor, coordinates: Tensor) -> Tensor:
        return ops.sampled_gradient(delta, h, coordinates)

    def _signed(self, h: Tensor, delta: Tensor, signs: Callable[[int], Tensor]) -> tuple[Tensor, Tensor]:
        h, delta = (tensor.reshape(-1, tensor.shape[-1]).to(accumulate_dtype(tensor.dtype)) for tensor in (h, delta))
        xi = signs(len(h)).to(h)
        return xi @ delta, xi @ h

    def _dense(self, h: Tensor, delta: Tensor) -> Tensor:
        wide = accumulate_dtype(h.dtype)
        return weight_gradient(delta.to(wide), h.to(wide))

    def _moment(self, h: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
        return moment_of(delta, h, None)


class ConvProbe(Probe):
    """h `[batch, channels, height, width]` as the operator sees it, delta alike; both perhaps without the batch.

    Channels take the part of features: sums run over batch and space, and the positions of the kernel are alike
    (GraBo, appendix C).
    """

    operation: ConvGeometry

    def __init__(self, weight_shape: tuple[int, ...], operation: Any) -> None:
        super().__init__(weight_shape)
        self.operation = operation

    def _features(self, tensor: Tensor) -> Tensor:
        return absolute_sums(_batched(tensor))

    def _cols(self, h: Tensor, delta: Tensor) -> Tensor:
        groups, positions = self.operation.groups, prod(self.weight_shape[2:])
        weight = self._features(h).repeat_interleave(positions)
        return weight if groups == 1 else weight.reshape(groups, -1)

    def _sampled(self, h: Tensor, delta: Tensor, coordinates: Tensor) -> Tensor:
        kernel, stride, padding, dilation, groups = self.operation
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
        groups = self.operation.groups
        xi = signs(batch * prod(size)).to(h).reshape(batch, 1, *size)
        # What a convolution with one output channel in each group would learn from the signs.
        shape = (groups, *self.weight_shape[1:])
        cols = weight_gradient(xi.expand(batch, groups, *size), h, shape, self.operation).reshape(groups, -1)
        return (delta * xi).sum((0, 2, 3)), cols if groups > 1 else cols[0]

    def _dense(self, h: Tensor, delta: Tensor) -> Tensor:
        wide = accumulate_dtype(h.dtype)
        return weight_gradient(delta.to(wide), h.to(wide), self.weight_shape, self.operation)

    def _moment(self, h: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
        return gradient_and_moment(delta, h, self.weight_shape, self.operation)


def _batched(tensor: Tensor) -> Tensor:
    return tensor if tensor.dim() == 4 else tensor.unsqueeze(0)


class _Recorder(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, output: Tensor, input: Tensor | None, probe: Probe, weight: Tensor) -> Tensor:
        ctx.save_for_backward(input)
        ctx.probe, ctx.weight, ctx.began_in = probe, weight, running()
        return output.detach()  # of the same memory, and no view to autograd: it may be changed in place

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple:
        (grad_output,) = grad_outputs
        use = weight_use(ctx, ctx.began_in)
        if use is not None:
            (input,) = ctx.saved_tensors
            # Under autocast the output, and so its gradient, is narrower than the input.
            if input is not None and input.is_floating_point():
                input = input.to(grad_output.dtype)
            ctx.probe.record(use, input, grad_output.detach(), ctx.weight)
        return grad_output, None, None, None
