"""`layer.weight` of layers with a pattern: the dense weight that they compute with, made only if somebody computes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only


class Owner(Protocol):
    """A layer, as its effective weight sees it."""

    weight_shape: tuple[int, ...]

    @property
    def stored(self) -> nn.Parameter: ...

    def dense_weight(self) -> Tensor: ...
    def dense_gradient(self) -> Tensor | None: ...
    def write_weight(self, dense: Tensor) -> None: ...


_tensor: Any = Tensor  # its attributes are descriptors, which its annotations do not say


def _getters(*names: str) -> set[Any]:
    return {getattr(_tensor, name).__get__ for name in names}


# What is answered without making the weight.
_FACTS = _getters(
    "shape", "dtype", "device", "layout", "ndim", "requires_grad", "is_leaf", "is_cuda", "is_cpu", "is_meta"
)
_FACTS |= _getters("is_sparse", "is_quantized", "is_nested", "itemsize", "nbytes", "names")
_FACTS |= {
    Tensor.size,
    Tensor.dim,
    Tensor.ndimension,
    Tensor.numel,
    Tensor.nelement,
    Tensor.element_size,
    Tensor.stride,
}
_FACTS |= {Tensor.is_floating_point, torch.is_floating_point, Tensor.is_complex, torch.is_complex, torch.numel}
_FACTS |= {Tensor.get_device, Tensor.is_contiguous, Tensor.__len__, Tensor.__hash__}
# What would be lost, since the weight is made anew at every read.
_LOST = {Tensor.register_hook, Tensor.register_post_accumulate_grad_hook, Tensor.retain_grad, Tensor.data_ptr}
_LOST |= {Tensor.set_, Tensor.resize_, Tensor.untyped_storage, Tensor.storage, Tensor.share_memory_}


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

    _layer: Owner
    _detached: bool

    @staticmethod
    def __new__(cls, layer: Owner, detached: bool = False) -> EffectiveWeight:
        stored = layer.stored
        self = Tensor._make_wrapper_subclass(
            cls,
            layer.weight_shape,
            dtype=stored.dtype,
            device=stored.device,
            requires_grad=stored.requires_grad and not detached,
        )
        self._layer, self._detached = layer, detached
        return self

    def __init__(self, layer: Owner, detached: bool = False) -> None:
        super().__init__()

    @classmethod
    def __torch_function__(cls, func: Callable, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _FACTS:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **(kwargs or {}))
        first = args[0] if args else None
        if isinstance(first, cls):
            if func in _SPECIAL:
                return _SPECIAL[func](*args, **(kwargs or {}))
            if func in _LOST:
                raise RuntimeError(
                    f"{func.__name__} would be lost: the weight of a {type(first._layer).__name__} is made anew at "
                    "every read; use .stored, the Parameter that holds it"
                )
        return cls._compute(func, args, kwargs or {})

    @classmethod
    def _compute(cls, func: Callable, args: Any, kwargs: Any) -> Any:
        """Calls `func` with dense tensors, and writes back those that it changed in place."""
        made: list[tuple[EffectiveWeight, Tensor, int]] = []

        def dense(view: EffectiveWeight) -> Tensor:
            for other, tensor, _ in made:
                if other is view:
                    return tensor
            tensor = view._layer.dense_weight()
            tensor = tensor.detach() if view._detached else tensor
            made.append((view, tensor, tensor._version))
            return tensor

        args, kwargs = tree_map_only(cls, dense, (args, kwargs))
        result = func(*args, **kwargs)
        for view, tensor, version in made:
            if tensor._version == version:
                continue
            if torch.is_grad_enabled() and view.requires_grad:
                raise RuntimeError(
                    "a weight that requires a gradient was changed in place while gradients are recorded: do so within "
                    "torch.no_grad()"
                )
            view._layer.write_weight(tensor)
            result = view if result is tensor else result
        return result

    @classmethod
    def __torch_dispatch__(cls, func: Callable, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{func} cannot take the weight of a sparse layer as it is: give it layer.to_dense().weight")

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self._layer.dense_weight().detach().__reduce_ex__(protocol)

    def __deepcopy__(self, memo: dict) -> Tensor:
        return self._layer.dense_weight().detach().clone()


def _assign(view: EffectiveWeight, value: Tensor) -> None:
    if not (isinstance(value, EffectiveWeight) and value._layer is view._layer):  # else it is written already
        view._layer.write_weight(value)


def _set_gradient(view: EffectiveWeight, value: Tensor | None) -> None:
    if value is not None:
        raise RuntimeError("the gradient of a sparse layer belongs to layer.stored, the Parameter: set it there")
    view._layer.stored.grad = None


def _requires_grad(view: EffectiveWeight, wanted: bool = True) -> EffectiveWeight:
    view._layer.stored.requires_grad_(wanted)
    return EffectiveWeight(view._layer)


_SPECIAL: dict[Any, Callable] = {
    _tensor.data.__get__: lambda view, *_: EffectiveWeight(view._layer, detached=True),
    _tensor.data.__set__: _assign,
    Tensor.detach: lambda view: EffectiveWeight(view._layer, detached=True),
    _tensor.grad.__get__: lambda view, *_: view._layer.dense_gradient(),
    _tensor.grad.__set__: _set_gradient,
    _tensor.requires_grad.__set__: lambda view, wanted: view._layer.stored.requires_grad_(wanted),
    Tensor.requires_grad_: _requires_grad,
}
