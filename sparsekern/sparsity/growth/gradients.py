"""Growth gradients: the backward passes that growth takes its statistics from, of the armed step or of its own."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from ... import private_torch
from ...nn.probe import Needs
from .. import parallel
from ..model.inputs import Arguments, arguments, call
from ..model.wrappers import bare
from ..scoring.network import Loss, untouched
from ..sites.nonzeros import NonzerosSite

Batch = tuple[Any, Any]
GrowthSource = Iterable[Batch] | Callable[[int], Iterable[Batch]]
Batches = GrowthSource  # as it was called in version 0.1
Statistic = Callable[[int, NonzerosSite], tuple[Tensor, ...]]


class ArmedStep:
    """The backward passes of the armed step, of which the layers hold the records.

    Args:
        watches: notes what the model is called with in an armed step.
    """

    def __init__(self, model: nn.Module, watches: bool = False) -> None:
        self.model, self.watches = bare(model), watches  # DDP wraps anew what is given room or loses it
        self._watch = _Watch()
        self._handle: Any = None

    def arm(self, armed: bool) -> None:
        """Prepares for the coming step."""
        if self.watches and armed != (self._handle is not None):
            if self._handle is None:
                self._handle = self.model.register_forward_pre_hook(self._watch, with_kwargs=True)
            else:
                self._handle.remove()
                self._handle = None

    def begin(self, step: int) -> None:
        """Prepares for the change of pattern at `step`."""

    def reaches(self, site: NonzerosSite) -> bool:
        """Returns whether a layer got a gradient in this step."""
        return site.module.probe is not None or site.reached

    def total(
        self, sites: Sequence[NonzerosSite], statistic: Statistic, needs: Needs = "pairs"
    ) -> list[tuple[Tensor, ...]]:
        """Returns the tensors `statistic(i, site)`, made of what `sites[i]` recorded, summed over batches and
        data-parallel ranks. `needs` says what of it the statistic looks at."""
        return [tuple(map(parallel.total, statistic(i, site))) for i, site in enumerate(sites)]

    def inputs(self) -> Arguments:
        """Returns what the model is called with, of one sample; floating-point tensors have no particular values.

        Raises:
            RuntimeError: the model was not called in the armed step.
        """
        if self._watch.seen is None:
            raise RuntimeError("the armed step did not call the model with a tensor: call the model, not its parts")
        return self._watch.seen


class GrowthBatches(ArmedStep):
    """Forward and backward passes over `count` batches, whose activations never live at once: the passes are repeated
    for every statistic, on the same batches with the same random numbers. The model is left `untouched`.

    Args:
        batches: an iterable of (x, y), of which every change takes the first `count` anew; or a function of the step
            that returns one.
        loss: `loss(output, y)`, mean over the batch.

    Raises:
        ValueError: `batches` is neither, or holds fewer than `count`.
    """

    def __init__(self, model: nn.Module, batches: GrowthSource, loss: Loss, count: int) -> None:
        super().__init__(model)
        if not callable(batches) and (not isinstance(batches, Iterable) or iter(batches) is batches):
            raise ValueError(
                "growth batches must be something to iterate over again and again, such as a list or a DataLoader, or "
                f"a function of the step that returns batches; got {type(batches).__name__}"
            )
        if hasattr(batches, "__len__"):
            _check(len(batches), count)  # type: ignore[arg-type]
        self.batches, self.loss, self.count = batches, loss, count
        self._drawn: list[Batch] = []

    def arm(self, armed: bool) -> None:
        self._drawn = []

    def begin(self, step: int) -> None:
        source: Any = self.batches(step) if callable(self.batches) else self.batches
        with torch.random.fork_rng():
            self._drawn = [(x, y) for x, y in islice(source, self.count)]
        _check(len(self._drawn), self.count)

    def reaches(self, site: NonzerosSite) -> bool:
        return site.reached  # by the step's own backward pass

    def total(
        self, sites: Sequence[NonzerosSite], statistic: Statistic, needs: Needs = "pairs"
    ) -> list[tuple[Tensor, ...]]:
        sums: list[tuple[Tensor, ...]] = []
        eager = torch.compiler.set_stance("force_eager") if private_torch.something_compiled() else nullcontext()
        learning = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        try:
            with untouched(self.model), eager:
                for x, y in self._drawn:
                    for site in sites:
                        site.arm(needs)
                    with torch.enable_grad():
                        torch.autograd.grad(self.loss(call(self.model, x), y), learning, allow_unused=True)
                    parts = [statistic(i, site) for i, site in enumerate(sites)]
                    if sums:
                        parts = [tuple(map(torch.add, *pair)) for pair in zip(sums, parts, strict=True)]
                    sums = parts
        finally:
            for site in sites:
                site.disarm()
        return [tuple(map(parallel.total, tensors)) for tensors in sums]

    def inputs(self) -> Arguments:
        return arguments(self._drawn[0][0]).first(1)


def _check(found: int, count: int) -> None:
    if found < count:
        raise ValueError(f"the method grows by the gradients of {count} batches, but batches= gives {found}")


class _Watch:
    """Notes what a module is called with."""

    def __init__(self) -> None:
        self.seen: Arguments | None = None

    def __call__(self, module: nn.Module, positional: tuple, keywords: dict[str, Any]) -> None:
        sample = Arguments(positional, keywords).first(1)
        if sample.tensors():  # numbers mean something; of others the shape is enough, and the rest can be freed
            self.seen = sample.each(lambda x: torch.empty_like(x) if x.is_floating_point() else x.clone())
