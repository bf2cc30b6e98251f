"""Traces the channels of a model: which are the same, which layers read them, which are constant."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from ... import private_torch
from ...private_torch import BatchNorm
from ..conversion.coverage import shared_parameters
from ..conversion.registry import registered_class
from ..layer import PatternLayer
from .constants import by_channel, layer_constants, norm_constants
from .disjoint_sets import ChannelSets
from .graph import (
    ELEMENTWISE,
    JOINS,
    MOVES,
    PLANES,
    PRODUCTS,
    SAME,
    arguments,
    constants,
    evaluating,
    fixed,
    image,
    in_place,
    is_layer,
    landed,
    settings_of,
    sizes_only,
    trace,
)
from .zeros import ZeroChannels


class Axis(NamedTuple):
    """The dimension of a tensor along which channels lie.

    Attributes:
        dim: counted from the first.
        ids: int64 `[n]`, the channels.
        value: float64 `[n]`, what a channel is in every sample and pixel, NaN where that is not known to be constant.
    """

    dim: int
    ids: Tensor
    value: Tensor


class ChannelTrace(fx.Interpreter):
    """Runs a model once and follows its channels.

    Every channel of the input or the output of a layer has an id. Ids are joined where an operation puts them in the
    same place, and pinned where they meet one that is not in the tables of operations: what is not understood stays.

    Attributes:
        rows, columns: the ids of the outputs and of the inputs of each linear layer and convolution.
        reads: the constants that a layer reads in its columns, float64, NaN where not constant.
        norms: the ids of each batch norm.
        zeros: the ids that each `ZeroChannels` appends.
        settings, output: arguments of the model that are no tensors, and what it returns.
    """

    def __init__(self, model: nn.Module, settings: dict[str, Any], constant: bool = False) -> None:
        super().__init__(trace(model, settings))
        self.settings = settings
        self.constant = constant
        self.channels = ChannelSets()
        self.axes: dict[fx.Node, Axis] = {}
        self.shapes: dict[fx.Node, torch.Size] = {}
        self.rows: dict[nn.Module, Tensor] = {}
        self.columns: dict[nn.Module, Tensor] = {}
        self.reads: dict[nn.Module, Tensor] = {}
        self.norms: dict[nn.Module, Tensor] = {}
        self.zeros: dict[nn.Module, Tensor] = {}
        for module in model.modules():
            if is_layer(module):
                self.rows[module] = self.channels.new(row_count(module))

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, Tensor):
            self.shapes[n] = result.shape
        axis = self.follow(n) if isinstance(result, Tensor) else None
        if axis is not None:
            self.axes[n] = axis
        elif not sizes_only(n):
            for node in n.all_input_nodes:
                self.release(node)
        return result

    def follow(self, n: fx.Node) -> Axis | None:
        """Returns where the channels of the result of a node lie, None if that is not understood."""
        operation: Any = n.target
        if not n.args:
            return None
        if n.op == "call_module":
            module = self.fetch_attr(str(n.target))
            if is_layer(module):
                return self.layer(n, module)
            if isinstance(module, BatchNorm):
                return self.norm(n, module)
            if type(module) is ZeroChannels:
                return self.append(n, module)
            operation = module
        elif n.op not in ("call_function", "call_method"):
            return None
        kind = type(operation) if isinstance(operation, nn.Module) else operation
        if kind in SAME:
            return self.axes.get(n.args[0])  # type: ignore[arg-type]
        if kind in JOINS:
            return self.concatenation(n)
        if not any(node in self.axes for node in n.all_input_nodes):
            return None
        if kind in ELEMENTWISE:
            return self.elementwise(n, operation)
        if kind in PLANES:
            return self.plane(n, operation)
        return self.move(n, operation) if kind in MOVES else None

    def along(self, node: Any, dim: int) -> Axis:
        """The channels of a tensor along `dim`: pinned if that is not where they are known to lie."""
        shape = self.shapes[node]
        dim %= len(shape)
        axis = self.axes.get(node)
        if axis is not None and axis.dim == dim:
            return axis
        self.release(node)
        ids = self.channels.new(shape[dim], pinned=True)
        return Axis(dim, ids, unknown(ids))

    def release(self, node: fx.Node) -> None:
        if node in self.axes:
            self.channels.pin(self.axes[node].ids)

    def layer(self, n: fx.Node, module: Any) -> Axis:
        dim = -1 if registered_class(module) is nn.Linear else -3
        source, rows = self.along(n.args[0], dim), self.rows[module]
        if module in self.columns:
            self.channels.join(self.columns[module], source.ids)
            same = self.reads[module] == source.value
            self.reads[module] = torch.where(same, source.value, torch.nan)
        else:
            self.columns[module], self.reads[module] = source.ids, source.value
        if by_channel(module):
            self.channels.join(source.ids.repeat_interleave(len(rows) // len(source.ids)), rows)
        elif getattr(module, "groups", 1) > 1:  # groups must stay of one size
            self.channels.pin(rows)
            self.channels.pin(source.ids)
        value = layer_constants(module, source.value) if self.constant else unknown(rows)
        return Axis(dim % len(self.shapes[n]), rows, value)

    def norm(self, n: fx.Node, module: BatchNorm) -> Axis:
        source = self.along(n.args[0], 1)
        if module in self.norms:
            self.channels.join(self.norms[module], source.ids)
        self.norms[module] = source.ids
        return source._replace(value=norm_constants(module, source.value) if self.constant else source.value)

    def append(self, n: fx.Node, module: ZeroChannels) -> Axis:
        source = self.along(n.args[0], -3)
        if module not in self.zeros:
            self.zeros[module] = self.channels.new(module.more)
        ids = self.zeros[module]
        value = torch.zeros(module.more, dtype=torch.float64)
        return Axis(source.dim, torch.cat([source.ids, ids]), torch.cat([source.value, value]))

    def concatenation(self, n: fx.Node) -> Axis | None:
        tensors, (dim, *_) = n.args[0], (*n.args[1:], n.kwargs.get("dim", 0))
        if not isinstance(tensors, list | tuple) or not isinstance(dim, int):
            return None
        dim %= len(self.shapes[n])
        if not any(node in self.axes and self.axes[node].dim == dim for node in n.all_input_nodes):
            return None
        parts = [self.along(node, dim) for node in tensors]
        return Axis(dim, torch.cat([part.ids for part in parts]), torch.cat([part.value for part in parts]))

    def elementwise(self, n: fx.Node, operation: Any) -> Axis | None:
        operands = [node for node in n.all_input_nodes if node in self.shapes]
        if len(operands) < len(n.all_input_nodes):
            return None  # a number that may be one of channels
        dims = len(self.shapes[n])
        back = max(self.axes[node].dim - len(self.shapes[node]) for node in operands if node in self.axes)
        axes: dict[fx.Node, Axis] = {}
        for node in operands:
            if len(self.shapes[node]) < -back or self.shapes[node][back] != self.shapes[n][back]:
                self.release(node)  # one for all channels
            else:
                axes[node] = self.along(node, back)
        if not axes:
            return None
        first, *others = axes.values()
        for axis in others:
            self.channels.join(first.ids, axis.ids)
        value = unknown(first.ids)
        if len(axes) == len(operands):
            values = torch.stack([axis.value for axis in axes.values()])
            value = self.apply(n, operation, {node: axis.value for node, axis in axes.items()})
            value = torch.where(values.isnan().any(0), torch.nan, value)
            if operation in PRODUCTS:
                value = torch.where((values == 0).any(0), 0, value)
        if in_place(n, operation) and len(operands[0].users) > 1:  # of which some may read what is overwritten
            value = unknown(value)
            if operands[0] in axes:
                self.axes[operands[0]] = axes[operands[0]]._replace(value=value)
        return Axis(back + dims, first.ids, value)

    def plane(self, n: fx.Node, operation: Any) -> Axis | None:
        source = self.axes.get(n.args[0])  # type: ignore[arg-type]
        if source is None or source.dim != len(self.shapes[n]) - 3:
            return None
        return source._replace(value=self.image_constants(n, operation, source, source.dim))

    def move(self, n: fx.Node, operation: Any) -> Axis | None:
        node: Any = n.args[0]
        source = self.axes.get(node)
        if source is None:
            return None
        ramp = torch.arange(1, len(source.ids) + 1, dtype=torch.float64)
        found = landed(self.apply(n, operation, {node: image(ramp, source.dim, self.shapes[node])}), source.dim)
        if found is None or fixed(n, found[0]):
            return None
        dim, index = found
        if len(index.unique()) - bool((index == 0).any()) < len(ramp):
            return None  # what picks some channels would pick others if there were fewer
        padding = self.channels.new(len(index), pinned=True)
        ids = torch.where(index > 0, source.ids[index - 1], padding)
        return Axis(dim, ids, self.image_constants(n, operation, source, dim))

    def image_constants(self, n: fx.Node, operation: Any, source: Axis, dim: int) -> Tensor:
        node: Any = n.args[0]
        if not self.constant or source.value.isnan().all():
            return torch.full(self.shapes[n][dim : dim + 1], torch.nan, dtype=torch.float64)
        return constants(self.apply(n, operation, {node: image(source.value, source.dim, self.shapes[node])}), dim)

    def apply(self, n: fx.Node, operation: Any, tensors: dict[fx.Node, Tensor]) -> Tensor:
        """The operation of a node, of other tensors."""

        def read(node: fx.Node) -> Any:
            return tensors[node].clone() if node in tensors else self.env[node]

        args, kwargs = fx.map_arg(n.args, read), fx.map_arg(n.kwargs, read)
        if isinstance(operation, nn.Module):
            return operation.forward(*args, **kwargs)
        if n.op == "call_method":
            return getattr(args[0], operation)(*args[1:], **kwargs)
        return operation(*args, **kwargs)

    # ---- ends

    def finish(self, model: nn.Module, output: Any) -> None:
        """Pins the channels of the layers that the forward pass does not call as layers, or not only."""
        self.output = output
        shared = shared_parameters(model)
        owners = {str(n.target).rpartition(".")[0] for n in self.shapes if n.op == "get_attr"}
        read = {model.get_submodule(owner) for owner in owners}
        for found in (self.rows, self.columns, self.norms):
            for module, ids in found.items():
                called = module in self.columns or module in self.norms
                weight = module.WEIGHT if isinstance(module, PatternLayer) else "weight"
                own = {weight, "bias"} <= private_torch.parameters(module).keys()
                tied = any(id(p) in shared for p in module.parameters(recurse=False))
                if not called or not own or tied or module in read:
                    self.channels.pin(ids)


def row_count(layer: Any) -> int:
    return layer.weight_shape[0] if isinstance(layer, PatternLayer) else len(layer.weight)


def unknown(ids: Tensor) -> Tensor:
    return torch.full(ids.shape, torch.nan, dtype=torch.float64)


def trace_channels(model: nn.Module, example: Tensor | tuple[Any, ...], constant: bool = False) -> ChannelTrace:
    """Traces the channels of `model`, which is run in evaluation mode.

    Args:
        constant: look for constants, too, which takes longer.

    Raises a `ValueError` if the model cannot be traced, or not be called with `example`.
    """
    inputs = arguments(example)

    def fresh() -> list[Any]:  # for models that overwrite their input
        return [x.clone() if isinstance(x, Tensor) else x for x in inputs]

    with evaluating(model):
        try:
            output = model(*fresh())
        except Exception as error:  # the model's own
            raise ValueError(f"the model cannot be called with this example: {error}") from error
        result = ChannelTrace(model, settings_of(model, inputs), constant)
        result.run(*fresh())
    result.finish(model, output)
    return result
