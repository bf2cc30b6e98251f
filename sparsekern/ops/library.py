"""The library of operators, and how one is defined: its schema, its reference in plain PyTorch and its fake.

Schemas are declared in Python, so that the package imports and runs without a compiler. An operator `NAME` has one name
everywhere:

    ops/NAME.py             the public function, the reference, the fake and the schema
    csrc/cpu/NAME.cpp       the kernel for the CPU
    csrc/cuda/NAME.cu       the kernel for CUDA, in C++
    ops/triton/NAME.py      the kernel for CUDA, in Triton

A kernel registers itself; an operator without one for a device runs as its reference there. A close relative (the
backward pass, a variant) stands in the same file.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

library = torch.library.Library("sparsekern", "DEF")


class Operator(NamedTuple):
    """An operator as it was defined.

    Attributes:
        schema: arguments and results, without the name.
        reference: the operator in plain PyTorch: the fallback, the oracle and the documentation of the kernels.
        fake: makes results without data, for `torch.compile` and fake tensors.
        module: the name of the file in `ops` that defines it.
    """

    schema: str
    reference: Callable[..., Any]
    fake: Callable[..., Any]
    module: str


OPERATORS: dict[str, Operator] = {}


def nothing(*arguments: Any) -> None:
    """Returns nothing: the fake of an operator that writes to its arguments."""


def define(schema: str, *, reference: Callable[..., Any], fake: Callable[..., Any] = nothing) -> None:
    """Defines an operator.

    Args:
        schema: name, arguments and results, as `torch.library.define` takes them.
        reference: registered for every device; a kernel of a device goes before it.
        fake: takes the arguments of the operator, too.
    """
    name, _, rest = schema.partition("(")
    library.define(schema)
    library.impl(name, reference, "CompositeExplicitAutograd")
    torch.library.register_fake(f"sparsekern::{name}", fake, lib=library)
    OPERATORS[name] = Operator(f"({rest}", reference, fake, reference.__module__.rpartition(".")[2])
