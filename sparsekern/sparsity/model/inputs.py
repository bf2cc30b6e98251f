"""How a model is called with the x of a batch (x, y), and what it returns."""

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Arguments(NamedTuple):
    """Of a call."""

    positional: tuple[Any, ...]
    keywords: dict[str, Any]

    def each(self, change: Callable[[Tensor], Tensor]) -> "Arguments":
        """The same with other tensors."""
        return Arguments(mapped(self.positional, change), mapped(self.keywords, change))

    def tensors(self) -> list[Tensor]:
        return [*tensors(self.positional), *tensors(self.keywords)]

    def first(self, count: int) -> "Arguments":
        """The first samples of the batch: of every tensor that is as long as the first one."""
        found = self.tensors()
        size = len(found[0]) if found and found[0].dim() else None
        return self.each(lambda x: x[:count] if x.dim() and len(x) == size else x)

    def in_order(self, model: nn.Module) -> tuple[Any, ...]:
        """All of them by position."""
        if not self.keywords:
            return self.positional
        bound = inspect.signature(model.forward).bind(*self.positional, **self.keywords)
        bound.apply_defaults()
        return bound.args


def arguments(x: Any) -> Arguments:
    """A mapping holds keywords, as tokenizers make them, a tuple several positional arguments; anything else is one."""
    if isinstance(x, Mapping):
        return Arguments((), {str(key): value for key, value in x.items()})
    return Arguments(x if isinstance(x, tuple) else (x,), {})


def call(model: nn.Module, x: Any) -> Any:
    """What `model` returns for the x of a batch."""
    positional, keywords = arguments(x)
    return model(*positional, **keywords)


def mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same structure of mappings, lists and tuples, with every tensor changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        result: Any = copy.copy(value)  # keeps its class, such as the outputs of transformers
        for key, part in value.items():
            result[key] = mapped(part, change)
        return result
    if isinstance(value, list | tuple):
        parts = [mapped(part, change) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    return value


def tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in mappings, lists and tuples; what else a model returns, such as caches, is passed over."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from tensors(part)


def divided(output: Any, divisor: float) -> Any:
    """An output whose floating-point tensors are divided."""
    return mapped(output, lambda x: x / divisor if x.is_floating_point() else x)


def total(output: Any) -> Tensor:
    """The sum of an output's floating-point tensors; scalars beside others are losses, and do not count."""
    found = [x for x in tensors(output) if torch.is_floating_point(x)]
    found = [x for x in found if x.dim()] or found
    if not found:
        raise ValueError(f"the model returns no floating-point tensor, but {type(output).__name__}")
    return torch.stack([x.sum() for x in found]).sum()
