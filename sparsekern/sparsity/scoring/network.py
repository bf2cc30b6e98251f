"""First patterns chosen by scoring the dense network: what a scorer sees, returns, and leaves as it was."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from ... import private_torch
from ...private_torch import Dropout
from ...topology import kept
from .. import parallel
from ..change.transaction import at_once
from ..model.inputs import call
from ..parts import scopes
from ..parts.distributions import Distribution, by_name, uniform
from ..parts.scopes import Scope
from ..parts.scores import Score, Scored
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
        left = [kept(1 - (n / max(1, size)) ** progress, size) for n, size in zip(counts, totals, strict=True)]
        return replace(self, counts=[*left, *[0] * (len(sizes) - len(left))])

    def largest(self, scores: Sequence[Tensor]) -> list[Tensor]:
        """Returns bool masks of exactly `counts` of the highest scores, equal on all data-parallel ranks.

        Raises:
            ValueError: a score is NaN.
        """
        scores = [parallel.total(score.detach()) for score in scores]
        return self.view.masks(scores, self.counts, [tuple(score.shape) for score in scores])


Initialize = Literal["keep", "fan_in", "evci", "rescale"]


@dataclass(frozen=True)
class Start:
    """Says what `sparsify` makes of a dense network.

    Attributes:
        choose: `choose(network)` returns a bool mask for every layer, True where a weight stays. None: the pattern is
            random, G(n, M) in every layer; where pruned weights are kept it is all weights, unless the sparsity of step
            0 is above 0 and no change comes before it.
        batches: how many batches it wants; 0: it scores without data.
        batch_size: the paper's samples in each; None: those of the training.
        per_class: so many samples of each class, spread over the batches, in the place of random ones.
        needs_loss: whether it asks for the loss beside the inputs.
        unit: what the method's sparsity counts.
        scope: which layers are pruned.
        share: how the layers share the weights of a random pattern.
        initialize: which values the weights begin with. "keep" those of the model; "rescale" them by
            sqrt(dense fan-in / fan-in) of each row, so that the variance of its output is that of the dense row; or
            draw new ones with variance 1 / fan-in ("fan_in") or 2 / fan-in ("evci", Evci et al. 2022, arXiv
            2010.03533).
        given: whether the pattern is that of the masks that `sparsify` gets, of whatever sparsity.
    """

    choose: Callable[[Network], list[Tensor]] | None = None
    batches: int = 0
    batch_size: int | None = None
    per_class: int | None = None
    needs_loss: bool = True
    unit: Literal["weight", "channel"] = "weight"
    scope: Scope = scopes.everything
    share: Distribution = uniform
    initialize: Initialize = "keep"
    given: bool = False

    def __post_init__(self) -> None:
        if self.initialize not in get_args(Initialize):
            raise ValueError(f"initialize must be 'keep', 'fan_in', 'evci' or 'rescale', got {self.initialize!r}")

    def rechosen(self, **changes: Any) -> "Start":
        """Returns the same start with other fields of `choose`, a dataclass."""
        return replace(self, choose=replace(cast(Any, self.choose), **changes))


RANDOM = Start(initialize="rescale")


def drawn(share: str | Distribution, initialize: str = "rescale", scope: Scope = scopes.everything) -> Start:
    """Returns the start of a random pattern. Names as in `distributions.by_name` and `Start.initialize`."""
    return Start(share=by_name(share), initialize=cast(Initialize, initialize), scope=scope)


def elementwise(score: Score, batches: int = 0, scope: Scope = scopes.everything) -> Start:
    """Returns the start that keeps the weights of the highest scores, with their mean gradients over the batches if
    there are any."""
    return Start(partial(_highest, score, batches > 0), batches, needs_loss=batches > 0, scope=scope)


def _highest(score: Score, needs_gradient: bool, network: Network) -> list[Tensor]:
    weights = network.weights
    gradients: Sequence[Tensor | None] = [None] * len(weights)
    if needs_gradient:
        gradients = mean_gradient(network.model, weights, network.batches, network.loss)
    return network.largest([score(Scored(w.detach(), g)) for w, g in zip(weights, gradients, strict=True)])


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
