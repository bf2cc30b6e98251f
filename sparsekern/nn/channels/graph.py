"""Lists the operations of a model in order, and those that keep channels apart."""

import operator
from collections.abc import Iterator
from contextlib import contextmanager
from inspect import signature
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from ..conversion.registry import behaves_like, registered_class
from ..layer import PatternLayer
from .zeros import ZeroChannels

# Of one tensor, which evaluation leaves as it is.
SAME: set[Any] = {
    *(nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout),
    *("contiguous", "clone", "detach", "float", "double", "half", "to"),
}
# Of the numbers at the same place of their operands.
ELEMENTWISE: set[Any] = {
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish, nn.Sigmoid),
    *(nn.Tanh, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.Softplus, nn.Softsign, nn.LogSigmoid, nn.Threshold),
    *(F.relu, F.relu6, F.leaky_relu, F.elu, F.celu, F.selu, F.gelu, F.silu, F.mish, F.sigmoid, F.tanh, F.hardtanh),
    *(F.hardswish, F.hardsigmoid, F.softplus, F.softsign, F.logsigmoid),
    *(torch.relu, torch.relu_, torch.sigmoid, torch.tanh, torch.exp, torch.abs, torch.sqrt, torch.square, torch.clamp),
    *(torch.neg, torch.add, torch.sub, torch.mul, torch.div, torch.pow, torch.maximum, torch.minimum, operator.neg),
    *(operator.add, operator.sub, operator.mul, operator.truediv, operator.pow, operator.iadd, operator.isub),
    *(operator.imul, operator.itruediv),
    *(
        "relu",
        "relu_",
        "sigmoid",
        "tanh",
        "exp",
        "abs",
        "sqrt",
        "square",
        "clamp",
        "neg",
        "add",
        "add_",
        "sub",
        "sub_",
        "mul",
    ),
    *("mul_", "div", "div_", "pow"),
}
PRODUCTS = {torch.mul, operator.mul, operator.imul, "mul", "mul_"}
IN_PLACE = {torch.relu_, operator.iadd, operator.isub, operator.imul, operator.itruediv}
# Of one channel's plane of pixels each.
PLANES: set[Any] = {
    *(nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.Upsample, nn.ZeroPad2d),
    *(nn.ConstantPad2d, nn.ReflectionPad2d, nn.ReplicationPad2d),
    *(F.max_pool2d, F.avg_pool2d, F.adaptive_avg_pool2d, F.adaptive_max_pool2d, F.interpolate, torch.max_pool2d),
}
# Of one tensor, whose channels may come to lie elsewhere.
RESHAPES: set[Any] = {torch.reshape, "view", "reshape"}
MOVES: set[Any] = RESHAPES | {
    *(nn.Flatten, torch.flatten, torch.squeeze, torch.unsqueeze, torch.permute, torch.transpose, torch.mean, F.pad),
    *(operator.getitem, "flatten", "squeeze", "unsqueeze", "permute", "transpose", "mean"),
}
JOINS: set[Any] = {torch.cat, torch.concat, torch.concatenate}


def is_layer(module: nn.Module) -> bool:
    """Whether it is a linear layer or 2-D convolution, dense, sparse or masked. Channels of others are not followed."""
    kind = registered_class(module)
    return kind in (nn.Linear, nn.Conv2d) and (isinstance(module, PatternLayer) or behaves_like(type(module), kind))


class Tracer(fx.Tracer):
    """Layers and `ZeroChannels` are single operations, as torch's own modules are."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, ZeroChannels) or is_layer(m) or super().is_leaf_module(m, module_qualified_name)


def trace(model: nn.Module, settings: dict[str, Any] | None = None) -> fx.GraphModule:
    """The operations of the forward pass; the modules are those of `model`.

    Args:
        settings: arguments of the model that are what they are, by name.

    Raises:
        ValueError: torch.fx cannot trace the model.
    """
    tracer = Tracer()
    root = nn.Sequential(model) if tracer.is_leaf_module(model, "") else model
    try:
        return fx.GraphModule(root, tracer.trace(root, settings))
    except Exception as error:  # whatever the model's own code raises when it meets a proxy
        raise ValueError(
            f"torch.fx cannot trace {type(model).__name__} ({type(error).__name__}: {str(error).splitlines()[0]}): its "
            "forward must not depend on the values of tensors, nor call len, int or the like of them; rewrite that "
            "part, or pass the submodule that can be traced"
        ) from error


def settings_of(model: nn.Module, inputs: tuple[Any, ...]) -> dict[str, Any]:
    """Returns, by name, the inputs that are None, numbers or strings, on which a forward may depend."""
    names = [name for name, p in signature(model.forward).parameters.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
    return {
        name: x for name, x in zip(names, inputs, strict=False) if x is None or isinstance(x, bool | int | float | str)
    }


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Every module in evaluation mode, without gradients."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


def arguments(example: Tensor | tuple[Any, ...]) -> tuple[Any, ...]:
    """Returns the positional arguments of a call of the model."""
    if isinstance(example, Tensor):
        return (example,)
    if not isinstance(example, tuple):
        raise ValueError(f"example must be a tensor or the tuple of the model's inputs, got {type(example).__name__}")
    return example


def in_place(node: fx.Node, operation: Any) -> bool:
    """Whether an elementwise operation overwrites its first operand."""
    if isinstance(operation, nn.Module):
        return getattr(operation, "inplace", False)
    named = isinstance(operation, str) and operation.endswith("_")
    return named or operation in IN_PLACE or bool(node.kwargs.get("inplace"))


def sizes_only(node: fx.Node) -> bool:
    """Whether a node reads of tensors nothing but their shape and kind."""
    if node.target is getattr:
        return node.args[1] in ("shape", "ndim", "dtype", "device")
    return node.op == "call_method" and node.target in ("size", "dim")


def fixed(node: fx.Node, dim: int) -> bool:
    """Whether the code of a move, whose result has its channels along `dim`, says how many or which they are."""
    if node.target in RESHAPES:
        sizes: Any = node.args[1] if len(node.args) == 2 else node.args[1:]
        sizes = sizes if isinstance(sizes, list | tuple) else [sizes]
        return dim >= len(sizes) or (isinstance(sizes[dim], int) and sizes[dim] != -1)
    if node.target is operator.getitem:
        index: Any = node.args[1] if isinstance(node.args[1], tuple) else (node.args[1],)
        return not all(isinstance(part, int | slice) or part in (None, Ellipsis) for part in index)
    return node.target is F.pad and bool(node.kwargs.get("value") or node.args[3:4] not in ((), (0,), (None,)))


def image(numbers: Tensor, dim: int, shape: torch.Size) -> Tensor:
    """A tensor of `shape` which holds `numbers[i]` wherever its index along `dim` is i."""
    return numbers.reshape(-1, *[1] * (len(shape) - dim - 1)).expand(shape).clone()


def constants(tensor: Tensor, dim: int) -> Tensor:
    """The number that all entries at an index along `dim` are; NaN where they differ by more than rounding."""
    entries = tensor.movedim(dim, 0).reshape(tensor.shape[dim], -1)
    low, high = entries.amin(1), entries.amax(1)
    return torch.where(high - low <= 1e-12 * high.abs(), high, torch.nan)


def landed(moved: Tensor, dim: int) -> tuple[int, Tensor] | None:
    """Returns where the channels of an image of the values 1, 2, ... have come to lie; None if they are mixed.

    Returns:
        The dimension, `dim` if that will do, and the numbers along it, int64; 0 where there are only zeros.
    """
    for new in sorted(range(moved.dim()), key=lambda i: i != dim):
        entries = moved.movedim(new, 0).reshape(moved.shape[new], -1)
        high = entries.amax(1)
        if ((entries == high[:, None]) | (entries == 0)).all() and (high == high.round()).all():
            return new, high.long()
    return None
