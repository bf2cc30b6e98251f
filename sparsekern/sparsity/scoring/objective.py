"""Derivatives of a network's loss at any values of its Parameters, up to the second."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from ...nn import PatternLayer
from ..model.inputs import arguments
from ..model.wrappers import bare
from .network import Loss

Batch = tuple[Tensor, Tensor]


class Objective:
    """The loss of a batch `(x, y)` as a function of the values of some Parameters; the model keeps its own.

    Buffers are the model's: call it within `scoring`, where batch norm takes the batch's statistics, through which the
    derivatives pass. Every call makes one graph and frees it.

    Args:
        parameters: those of `model` that vary; all of them if None.

    Raises:
        ValueError: the model holds sparse layers, which have no second derivatives.
    """

    def __init__(self, model: nn.Module, loss: Loss, parameters: Sequence[Tensor] | None = None) -> None:
        sparse = [name for name, module in model.named_modules() if isinstance(module, PatternLayer)]
        if sparse:
            raise ValueError(f"second derivatives need a dense model; {', '.join(sparse)} are sparse already")
        self.model, self.loss = bare(model), loss  # what is compiled has no second derivatives
        names = {id(parameter): name for name, parameter in self.model.named_parameters()}
        self.names = list(names.values()) if parameters is None else [names[id(p)] for p in parameters]

    def __call__(self, values: Sequence[Tensor], batch: Batch) -> Tensor:
        """Returns the loss, 0-d, differentiable in `values`."""
        x, y = batch
        own = dict(zip(self.names, values, strict=True))
        return self.loss(functional_call(self.model, own, *arguments(x)), y)

    def gradient(self, values: Sequence[Tensor], batch: Batch) -> list[Tensor]:
        """Returns the gradient by each of `values`, zero for one that the loss does not use."""
        values = _leaves(values)
        return list(torch.autograd.grad(self(values, batch), values, materialize_grads=True))

    def product(self, values: Sequence[Tensor], batch: Batch, vector: Sequence[Tensor]) -> list[Tensor]:
        """Returns the Hessian at `values` times `vector`, by differentiating the gradient (Pearlmutter 1994)."""
        values = _leaves(values)
        with sdpa_kernel(SDPBackend.MATH):  # the others have no second derivatives
            loss = self(values, batch)
        gradients = torch.autograd.grad(loss, values, create_graph=True, materialize_grads=True)
        bent = [(g, v) for g, v in zip(gradients, vector, strict=True) if g.requires_grad]
        if not bent:  # the loss is linear
            return [torch.zeros_like(value) for value in values]
        outputs, weights = zip(*bent, strict=True)
        return list(torch.autograd.grad(outputs, values, weights, materialize_grads=True))


def meta_gradient(
    objective: Objective,
    values: Sequence[Tensor],
    batches: Sequence[Batch],
    rates: Sequence[float],
    momentum: float,
    *,
    first_order: bool = False,
) -> list[Tensor]:
    """Returns the gradient of the loss after M = `len(batches) - 1` steps of SGD by the values before them.

    The steps are u_i = momentum u_{i-1} + g_i, w_{i+1} = w_i - rate u_i on `batches[i]`, the loss is that of w_M on the
    last batch. With v = dL/dw_M and z = 0 at the start, for i from M - 1 down to 0: z <- momentum z - rate v,
    v <- v + H_i z. Holds M + 4 vectors of the size of the model and the graph of one step, whatever M.

    Args:
        values: w_0, one tensor for each Parameter of `objective`.
        rates: the learning rate of each.
        first_order: return dL/dw_M.
    """
    path = [[value.detach() for value in values]]
    steps = [torch.zeros_like(value) for value in values]
    for batch in batches[:-1]:
        gradients = objective.gradient(path[-1], batch)
        steps = [momentum * u + g for u, g in zip(steps, gradients, strict=True)]
        path.append([w - rate * u for w, rate, u in zip(path[-1], rates, steps, strict=True)])
    v = objective.gradient(path.pop(), batches[-1])
    if first_order:
        return v
    z = [torch.zeros_like(value) for value in values]
    for batch in reversed(batches[:-1]):
        z = [momentum * past - rate * now for past, rate, now in zip(z, rates, v, strict=True)]
        v = [now + bend for now, bend in zip(v, objective.product(path.pop(), batch, z), strict=True)]
    return v


def curvature(objective: Objective, values: Sequence[Tensor], batches: Sequence[Batch]) -> list[Tensor]:
    """Returns H g at `values`, the gradient g and the Hessian H summed over `batches`; the graph of one batch at a
    time."""
    gradient = [torch.zeros_like(value) for value in values]
    for batch in batches:
        gradient = [g + part for g, part in zip(gradient, objective.gradient(values, batch), strict=True)]
    product = [torch.zeros_like(value) for value in values]
    for batch in batches:
        product = [h + part for h, part in zip(product, objective.product(values, batch, gradient), strict=True)]
    return product


def _leaves(values: Sequence[Tensor]) -> list[Tensor]:
    return [value.detach().requires_grad_() for value in values]
