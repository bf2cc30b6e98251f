"""First patterns chosen by scoring the dense network: what a scorer sees, returns, and leaves as it was."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from ... import private_torch
from ...private_torch import Dropout
from ...topology import nnz_at
from .. import parallel
from ..change.transaction import at_once
from ..model.inputs import call
from ..parts.views import View

Batches = Sequence[tuple[Any, Any]]
Loss = Callable[[Any, Any], Tensor]


@dataclass(frozen=True)
class Network:
    """A dense network that is to get its first pattern.

    Attributes:
        model: read only; score within `untouched` or `scoring`.
        layers: the layers to prune, by name.
        counts: how many weights each keeps; in a view of the whole network only their sum counts.
        batches: `(x, y)`, at least as many as the start asks for; for x see `inputs.call`.
        loss: `loss(output, target)`, mean over the batch; never None where the start needs it.
        generator: source of random choices.
        removed: of other Parameters by name, bool: what a start removes with the weights; it is set to 0.
    """

    model: nn.Module
    layers: dict[str, nn.Module]
    counts: Sequence[int]
    view: View
    batches: Batches
    loss: Loss
    generator: torch.Generator
    removed: dict[str, Tensor] = field(default_factory=dict)

    @property
    def weights(self) -> list[nn.Parameter]:
        """Returns the weight of every layer to prune."""
        return [cast(nn.Parameter, layer.weight) for layer in self.layers.values()]

    def after(self, progress: float) -> "Network":
        """Returns the same when a part of the pruning is done, the density falling exponentially from 1: N (n /
        N)^progress of N weights stay, rounded up."""
        sizes = [weight.numel() for weight in self.weights]
        counts, totals = self.counts, sizes
        if not self.view.per_layer:
            counts, totals = [sum(counts)], [sum(sizes)]
        left = [nnz_at(1 - (n / max(1, size)) ** progress, size) for n, size in zip(counts, totals, strict=True)]
        return replace(self, counts=[*left, *[0] * (len(sizes) - len(left))])

    def largest(self, scores: Sequence[Tensor]) -> list[Tensor]:
        """Returns bool masks of exactly `counts` of the highest scores, equal on all data-parallel ranks.

        Raises:
            ValueError: a score is NaN.
        """
        scores = [parallel.total(score.detach()) for score in scores]
        return self.view.masks(scores, self.counts, [tuple(score.shape) for score in scores])


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Whatever happens inside, even an exception, leaves `model` and PyTorch's random state as they were: Parameters,
    buffers, gradients, `requires_grad` and modes. Inside, no Parameter has a gradient."""
    copy_, calls = Tensor.copy_, []
    for module in model.modules():
        calls.append(partial(dict.update, vars(module), {"training": module.training}))
        # `functional_call` leaves others in modules that are used twice.
        calls.append(partial(dict.update, private_torch.parameters(module), dict(private_torch.parameters(module))))
        buffers = {name: buffer for name, buffer in private_torch.buffers(module).items() if buffer is not None}
        calls += [partial(copy_, buffer, buffer.clone()) for buffer in buffers.values()]
        calls.append(partial(dict.update, private_torch.buffers(module), buffers))
    for p in model.parameters():
        calls.append(partial(copy_, p, p.detach().clone()))
        calls += [partial(Tensor.requires_grad_, p, p.requires_grad), partial(setattr, p, "grad", p.grad)]
    devices = sorted({p.get_device() for p in model.parameters() if p.is_cuda})
    with torch.random.fork_rng(devices):
        try:
            for parameter in model.parameters():
                parameter.grad = None
            yield
        finally:
            try:
                at_once(calls)
            except BaseException:
                at_once(calls)
                raise


class _WithoutDropout(TorchFunctionMode):
    """Passes on what functions of dropout are called with."""

    def __torch_function__(self, func: Callable, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _DROPOUTS:
            return args[0] if args else kwargs["input"]
        return func(*args, **kwargs)


_DROPOUTS = {
    getattr(functional, name)
    for name in ("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout")
}


@contextmanager
def scoring(model: nn.Module) -> Iterator[None]:
    """`untouched`, gradients on, in training mode but without dropout: batch norm takes the batch's statistics."""
    with untouched(model), torch.enable_grad(), _WithoutDropout():
        model.train()
        for module in model.modules():
            if isinstance(module, (Dropout, nn.MultiheadAttention)):
                module.eval()
        yield


def mean_gradient(
    model: nn.Module,
    weights: Sequence[Tensor],
    batches: Batches,
    loss: Loss,
    masks: Sequence[Tensor] | None = None,
) -> list[Tensor]:
    """Returns the mean over `batches`, and over data-parallel ranks, of the gradient of the loss by each of `weights`,
    at every entry, zero where the loss does not use one. Runs within `scoring`.

    Args:
        masks: bool, of the weights' shapes: where they are False the network computes with 0.
    """
    sums = [torch.zeros_like(weight) for weight in weights]
    with scoring(model):
        for i, weight in enumerate(weights):
            if masks is not None:
                weight.detach().mul_(masks[i])
            weight.requires_grad_(True)
        for x, y in batches:
            gradients = torch.autograd.grad(loss(call(model, x), y), weights, materialize_grads=True)
            for total, gradient in zip(sums, gradients, strict=True):
                total += gradient / len(batches)
    return [parallel.mean(total) for total in sums]


def __getattr__(name: str) -> Any:
    if name in ("RANDOM", "Initialize", "Start", "_highest", "drawn", "elementwise"):  # were defined here before 0.2
        from . import start

        return getattr(start, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
