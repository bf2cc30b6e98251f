"""Calls a model with the x of a batch (x, y), and takes apart what it returns."""

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Arguments(NamedTuple):
    """The arguments of a call."""

    positional: tuple[Any, ...]
    keywords: dict[str, Any]

    def each(self, change: Callable[[Tensor], Tensor]) -> "Arguments":
        """Returns the arguments with every tensor changed."""
        return Arguments(mapped(self.positional, change), mapped(self.keywords, change))

    def tensors(self) -> list[Tensor]:
        return [*tensors(self.positional), *tensors(self.keywords)]

    def first(self, count: int) -> "Arguments":
        """Returns the first samples of the batch, of every tensor that is as long as the first one."""
        found = self.tensors()
        size = len(found[0]) if found and found[0].dim() else None
        return self.each(lambda x: x[:count] if x.dim() and len(x) == size else x)

    def in_order(self, model: nn.Module) -> tuple[Any, ...]:
        """Returns all arguments by position."""
        if not self.keywords:
            return self.positional
        bound = inspect.signature(model.forward).bind(*self.positional, **self.keywords)
        bound.apply_defaults()
        return bound.args


def arguments(x: Any) -> Arguments:
    """Returns x as arguments: a mapping holds keywords, as tokenizers make them, a tuple positional arguments, and
    anything else is one argument."""
    if isinstance(x, Mapping):
        return Arguments((), {str(key): value for key, value in x.items()})
    return Arguments(x if isinstance(x, tuple) else (x,), {})


def call(model: nn.Module, x: Any) -> Any:
    """Returns the output of `model` for the x of a batch."""
    positional, keywords = arguments(x)
    return model(*positional, **keywords)


def mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Returns the same structure of mappings, lists and tuples with every tensor changed."""
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
    """Yields the tensors in mappings, lists and tuples. Other outputs of a model, such as caches, are passed over."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from tensors(part)


def divided(output: Any, divisor: float) -> Any:
    """Returns an output with its floating-point tensors divided."""
    return mapped(output, lambda x: x / divisor if x.is_floating_point() else x)


def total(output: Any) -> Tensor:
    """Returns the sum of an output's floating-point tensors, 0-d. Scalars beside other tensors are losses, and do not
    count.

    Raises:
        ValueError: there is none.
    """
    found = [x for x in tensors(output) if torch.is_floating_point(x)]
    found = [x for x in found if x.dim()] or found
    if not found:
        raise ValueError(f"the model returns no floating-point tensor, but {type(output).__name__}")
    return torch.stack([x.sum() for x in found]).sum()
