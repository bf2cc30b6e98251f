"""Slices of weights and gradients that are made anew at every read: what changes them in place reaches the layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..private_torch import transforming, tree_leaves, version, without_subclasses
from ..shards import is_sharded
from .facts import initializes


class DenseRead:
    """The dense weight that slices are views of.

    Args:
        layer: a layer with a pattern, or its `Gradient`.
        whole: its weight, as it was at the moment of reading.
        recorded: whether gradients are recorded of it.
    """

    def __init__(self, layer: Any, whole: Tensor, recorded: bool) -> None:
        self.layer, self.whole, self.recorded, self.lent = layer, whole, recorded, False
        self._seen, self._weight_version = version(whole), layer.weight_version()

    def write_changes(self, recorded: bool) -> bool:
        """Gives the layer the weight if it was changed in place. Returns whether it was.

        Args:
            recorded: whether gradients are recorded at the moment of what it was changed through.

        Raises:
            RuntimeError: gradients are recorded, or the weight of the layer has changed since it was read.
        """
        if version(self.whole) == self._seen:
            return False
        if recorded:
            raise RuntimeError(
                "a weight that requires a gradient was changed in place while gradients are recorded: do so within "
                "torch.no_grad()"
            )
        if self.layer.weight_version() != self._weight_version:
            raise RuntimeError(
                "a part of the weight of a sparse layer was changed in place, but the weight has changed since the "
                "part was read: read it anew from layer.weight"
            )
        self.layer.write_weight(self.whole)
        if self.lent:
            with torch.no_grad():
                self.whole.copy_(self.layer.dense_weight())  # what is absent stays 0
        self._seen, self._weight_version = version(self.whole), self.layer.weight_version()
        return True

    def slices(self, result: Any, detached: bool = False) -> Any:
        """Returns what a function returned, its views of the weight made slices."""
        if hasattr(result, "setflags"):  # an array of NumPy, whose changes would be lost
            result.setflags(write=False)
        if type(result) in (list, tuple):
            return type(result)(self.slices(each, detached) for each in result)
        if type(result) is not Tensor or not self.holds(result):
            return result
        self.lent, view = True, result.as_subclass(WeightSlice)
        view.read, view.recorded = self, self.recorded and not detached
        return view

    def holds(self, tensor: Tensor) -> bool:
        """Returns whether a tensor lies in the memory of the weight."""
        return not transforming() and same_memory(tensor, self.whole)


def same_memory(one: Tensor, other: Tensor) -> bool:
    if one.is_meta or one.layout != torch.strided or one.device != other.device:
        return False
    return one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()


class WeightSlice(Tensor):
    """A view of the weight of a layer: a row, a transpose, what `view` and `chunk` return.

    It computes as any tensor does. What changes it in place (`layer.weight.data[0].zero_()`) changes the active weights
    of the layer; absent ones stay absent.
    """

    read: DenseRead
    recorded: bool

    @classmethod
    def __torch_function__(cls, func: Callable, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(kind not in (cls, Tensor, nn.Parameter) for kind in types):
            return NotImplemented
        found = [each for each in tree_leaves((args, kwargs)) if isinstance(each, cls)]
        detached = func in _DETACHED
        grad = torch.is_grad_enabled() and not initializes(func)
        with torch.set_grad_enabled(grad), without_subclasses():
            result = Tensor.detach(args[0]) if detached else func(*args, **(kwargs or {}))
        for view in found:
            view.read.write_changes(view.recorded and grad)
            result = view.read.slices(result, detached or not view.recorded)
        return result

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _copied(self).__reduce_ex__(protocol)

    def __deepcopy__(self, memo: dict) -> Tensor:
        return _copied(self)


def _copied(view: WeightSlice) -> Tensor:
    with without_subclasses():
        return view.as_subclass(Tensor).detach().clone()


_tensor: Any = Tensor
_DETACHED = {_tensor.data.__get__, Tensor.detach}


class Gradient:
    """The gradient of the weight of a layer, as a `DenseRead` takes layers."""

    def __init__(self, layer: Any) -> None:
        self.layer = layer

    def dense_weight(self) -> Tensor:
        return self.layer.dense_gradient()

    def write_weight(self, dense: Tensor) -> None:
        self.layer.write_gradient(dense)

    def weight_version(self) -> tuple[Any, ...]:
        held = self.layer.stored.grad
        return id(held), held is not None and version(held), self.layer.topology


def gradient_of(layer: Any) -> Tensor | None:
    """Returns the gradient of the weight of a layer, dense. What changes it in place reaches that of the Parameter."""
    dense, held = layer.dense_gradient(), layer.stored.grad
    if dense is None or is_sharded(held) or same_memory(dense, held):
        return dense
    return DenseRead(Gradient(layer), dense, False).slices(dense)
