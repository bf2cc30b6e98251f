"""A case of a benchmark: an operation on a layer."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

OPS = ("forward", "input_gradient", "weight_gradient", "step")


class Layer(Protocol):
    """A layer at one batch size, or whatever else has these facts; frozen and compared by value."""

    @property
    def sparsity(self) -> float: ...
    @property
    def dtype(self) -> str:
        """Name of a torch dtype."""
        ...

    @property
    def batch(self) -> int | None: ...
    @property
    def shape(self) -> str: ...
    @property
    def macs(self) -> int:
        """Multiply-adds of one dense product."""
        ...


@dataclass(frozen=True)
class Case:
    """An operation on a layer."""

    layer: Any  # a Layer
    op: str

    @property
    def name(self) -> str:
        """The column `case` of a row: "step 1024x1024"."""
        return f"{self.op} {self.layer.shape}"

    @property
    def label(self) -> str:
        """The text that `matching` looks into: "step 1024x1024 B=128 90% float32"."""
        batch = "" if self.layer.batch is None else f" B={self.layer.batch}"
        return f"{self.name}{batch} {self.layer.sparsity:.0%} {self.layer.dtype}"

    @property
    def columns(self) -> dict[str, Any]:
        """The columns of a row that tell the case."""
        layer = self.layer
        return {"case": self.name, "dtype": layer.dtype, "sparsity": layer.sparsity, "batch": layer.batch}


def cases(layers: Iterable[Layer], ops: Sequence[str] = OPS) -> list[Case]:
    """Returns every operation of `ops` on every layer, layer by layer."""
    return [Case(layer, op) for layer in layers for op in ops]


def matching(cases: Iterable[Case], words: str) -> list[Case]:
    """Returns the cases whose label has every one of the words; B=1 is not in B=128."""
    patterns = [_whole_numbers(word) for word in words.split()]
    return [case for case in cases if all(re.search(pattern, case.label) for pattern in patterns)]


def _whole_numbers(word: str) -> str:
    before = r"(?<!\d)" if word[0].isdigit() else ""
    return before + re.escape(word) + (r"(?!\d)" if word[-1].isdigit() else "")


@dataclass(frozen=True)
class Suite:
    """The cases and implementations of a benchmark on a kind of device.

    Attributes:
        peers: the implementations; the first is what the others are divided by.
        cases: the cases, or with True a few small ones of a few seconds.
        problem: makes the tensors of a layer on a device.
        budget: seconds of samples for a case on a CPU.
    """

    peers: tuple[Any, ...]
    cases: Callable[[bool], list[Case]]
    problem: Callable[..., Any]
    budget: float = 1.2
