"""`layer.weight` of layers with a pattern: the dense weight that they compute with, made only if somebody computes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..private_torch import parameters, tree_map_only, without_subclasses
from .facts import FACTS, LOST, initializes
from .probe import LinearProbe
from .weight_slice import DenseRead, WeightSlice, gradient_of, same_memory

if TYPE_CHECKING:
    from .layer import PatternLayer


class Parameters(dict):
    """The Parameters of a layer. What would take a Parameter `weight` out of it, as `torch.nn.utils.weight_norm` does,
    gets an error that says why there is none."""

    def __missing__(self, name: str) -> Any:
        if name == "weight":
            raise _no_parameter(self)
        raise KeyError(name)

    def __delitem__(self, name: str) -> None:
        super().__delitem__(name if name in self else self[name])


def _no_parameter(parameters: dict) -> TypeError:
    return TypeError(
        "a layer with a sparsity pattern has no Parameter 'weight' to be made of others, it has "
        f"{', '.join(parameters)}: apply weight norm, spectral norm, torch.nn.utils.prune and the like to a dense "
        "layer, before sparsify"
    )


_Parameters = Parameters  # the name in older pickles


@torch.no_grad()
def assigned(layer: PatternLayer, name: str, value: nn.Parameter | None) -> bool:
    """Returns whether registering a Parameter changes values of the layer instead: `layer.weight = nn.Parameter(...)`
    those of the weight; the index of a state dict, which loaders assign, must be the one in use.

    Raises:
        ValueError: the weight has another shape, or nonzeros where the layer has none; an index of another pattern.
    """
    if isinstance(value, EffectiveWeight):  # under the name of an original weight
        raise _no_parameter(parameters(layer))
    if value is None or name not in ("row_ptr", "col", "weight"):
        return False
    topology = layer.topology
    if name != "weight":
        own = topology.row_ptr if name == "row_ptr" else topology.col[: topology.nnz]
        if not torch.equal(value.to(own), own):
            raise ValueError(f"{name} is of another pattern than this layer has: load_state_dict installs patterns")
        return True
    if tuple(value.shape) != layer.dense_shape:
        raise ValueError(f"weight must have shape {layer.dense_shape}, got {tuple(value.shape)}")
    extra = int(((layer.rows_of(value) != 0) & ~topology.mask()).count_nonzero())
    if extra:
        raise ValueError(
            f"the weight assigned to this {type(layer).__name__} has {extra} nonzeros where the layer has none: "
            "make a new layer with from_dense, or change layer.weight.data in place"
        )
    layer.write_weight(value)
    return True


_tensor: Any = Tensor  # its attributes are descriptors, which its annotations do not say


class EffectiveWeight(Tensor):
    """The dense weight of a layer, zeros in place, without memory of its own.

    Its shape, dtype, device and the like cost nothing. Any function that computes with it gets the weight as the layer
    has it at that moment, differentiable in the layer's Parameters. A function that changes it in place
    (`nn.init.xavier_uniform_(layer.weight)`, `layer.weight.data += update`) changes the active weights; absent ones
    stay absent. `grad` is the gradient of the layer's Parameter, dense.

    Raises:
        RuntimeError: a change in place while gradients are recorded, as for every Parameter; an operation whose effect
            would be lost (hooks, `data_ptr`): use `layer.stored`, the Parameter.
    """

    _layer: PatternLayer
    _detached: bool

    @staticmethod
    def __new__(cls, layer: PatternLayer, detached: bool = False) -> EffectiveWeight:
        stored = layer.stored
        self = Tensor._make_wrapper_subclass(
            cls,
            layer.dense_shape,
            dtype=stored.dtype,
            device=stored.device,
            requires_grad=stored.requires_grad and not detached,
        )
        self._layer, self._detached = layer, detached
        return self

    def __getattr__(self, name: str) -> Any:
        """Returns an attribute that somebody has attached to the Parameter, such as the mark by which transformers
        tells what a checkpoint has filled from what is to be drawn anew."""
        marks = {} if name in EffectiveWeight.__annotations__ else vars(self._layer.stored)
        if name not in marks:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return marks[name]

    def __init__(self, layer: PatternLayer, detached: bool = False) -> None:
        super().__init__()

    @classmethod
    def __torch_function__(cls, func: Callable, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in FACTS:
            with without_subclasses():
                return func(*args, **(kwargs or {}))
        first = args[0] if args else None
        if isinstance(first, cls):
            if func in _SPECIAL:
                return _SPECIAL[func](*args, **(kwargs or {}))
            if func in LOST:
                raise RuntimeError(
                    f"{func.__name__} would be lost: the weight of a {type(first._layer).__name__} is made anew at "
                    "every read; use .stored, the Parameter that holds it"
                )
        with torch.no_grad() if initializes(func) else nullcontext():
            return cls._compute(func, args, kwargs or {})

    @classmethod
    def _compute(cls, func: Callable, args: Any, kwargs: Any) -> Any:
        """Calls `func` with dense tensors, and writes back those that it changed in place."""
        made: list[tuple[EffectiveWeight, DenseRead]] = []
        factors = {**dict(zip(("input", "weight"), args, strict=False)), **kwargs} if func is F.linear else {}
        weight = factors.get("weight")
        known = isinstance(weight, cls) and weight._multiplies() and not isinstance(factors["input"], cls)
        product: Any = weight._layer if known else None  # type: ignore[union-attr]

        def dense(view: EffectiveWeight) -> Tensor:
            for other, read in made:
                if other is view:
                    return read.whole
            made.append((view, view._read(recorded=product is None or view is not weight)))
            return made[-1][1].whole

        args, kwargs = tree_map_only(cls, dense, (args, kwargs))
        result = func(*args, **kwargs)
        if product is not None and product.stored.requires_grad and torch.is_grad_enabled():
            result = product.probe.watch(result, factors["input"], product.stored)
        for view, read in made:
            if read.write_changes(read.recorded and torch.is_grad_enabled()) and result is read.whole:
                result = view
            result = read.slices(result)
        return result

    def _multiplies(self) -> bool:
        """Returns whether a linear product with this weight is the one that an armed layer would record."""
        layer: Any = self._layer
        if not isinstance(getattr(layer, "probe", None), LinearProbe) or self._detached:
            return False
        return not layer.TRANSPOSED

    def _read(self, recorded: bool = True) -> DenseRead:
        """Returns the weight as the layer has it now. An armed layer records its gradient, if that is to be
        `recorded`."""
        layer = self._layer
        if torch.is_inference_mode_enabled():  # whose tensors do not tell whether they were changed
            with torch.inference_mode(False), torch.no_grad():
                weight = layer.dense_weight()
        else:
            weight = layer.dense_weight()
        weight = weight.detach() if self._detached else weight
        probe: Any = getattr(layer, "probe", None)
        if recorded and probe is not None and weight.requires_grad:
            weight = layer.weight_of(probe.watch(layer.rows_of(weight), None, layer.stored))
        return DenseRead(layer, weight, self.requires_grad)

    @classmethod
    def __torch_dispatch__(cls, func: Callable, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{func} cannot take the weight of a sparse layer as it is: give it layer.to_dense().weight")

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self._layer.dense_weight().detach().__reduce_ex__(protocol)

    def __deepcopy__(self, memo: dict) -> Tensor:
        return self._layer.dense_weight().detach().clone()


def is_weight_of(layer: Any, value: Any) -> bool:
    """Returns whether a value is `layer.weight`, which what computes in place assigns once it has written it."""
    return isinstance(value, EffectiveWeight) and value._layer is layer


def _assign(view: EffectiveWeight, value: Tensor) -> None:
    if not is_weight_of(view._layer, value):
        view._layer.write_weight(value)


def _set_gradient(view: EffectiveWeight, value: Tensor | None) -> None:
    held = view._layer.stored.grad
    if isinstance(value, WeightSlice) or (value is not None and held is not None and same_memory(value, held)):
        return  # `weight.grad *= 2` has written it already
    if value is not None:
        raise RuntimeError("the gradient of a sparse layer belongs to layer.stored, the Parameter: set it there")
    for parameter in view._layer.weight_parameters:
        parameter.grad = None


def _requires_grad(view: EffectiveWeight, wanted: bool = True) -> EffectiveWeight:
    for parameter in view._layer.weight_parameters:
        parameter.requires_grad_(wanted)
    return EffectiveWeight(view._layer)


_SPECIAL: dict[Any, Callable] = {
    _tensor.data.__get__: lambda view, *_: EffectiveWeight(view._layer, detached=True),
    _tensor.data.__set__: _assign,
    Tensor.detach: lambda view: EffectiveWeight(view._layer, detached=True),
    _tensor.grad.__get__: lambda view, *_: gradient_of(view._layer),
    _tensor.grad.__set__: _set_gradient,
    _tensor.requires_grad.__set__: _requires_grad,
    Tensor.requires_grad_: _requires_grad,
}
