"""A device that is not there: tensors that say they lie on it, hold their numbers on the CPU, and insist, as those of a
GPU do, that whatever they meet lies there, too."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map

KIND = "maia"  # a device type that PyTorch knows by name only
DEVICE = torch.device(KIND, 0)
aten = torch.ops.aten
MOVES = {aten._to_copy.default, aten.copy_.default, aten.to.device}
INDEXED = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default}
# Operators whose result the host has to wait for.
WAITS = {
    aten._local_scalar_dense.default,
    aten.equal.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten._unique2.default,
    aten.bincount.default,
}


class Elsewhere(torch.Tensor):
    """A tensor on that device. Python sees the device; the C++ below, which would look for its driver, does not."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> "Elsewhere":
        layout = {"strides": held.stride(), "storage_offset": held.storage_offset()}
        wrapper = torch.Tensor._make_wrapper_subclass(cls, held.shape, dtype=held.dtype, **layout)
        wrapper.held = held
        return wrapper

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Elsewhere({self.held})"

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return DEVICE

    def to(self, *args: Any, **kwargs: Any) -> Tensor:
        device, dtype, *_ = torch._C._nn._parse_to(*args, **kwargs)
        if device is None or device == DEVICE:
            return super().to(**{"dtype": dtype or self.dtype})
        _waited.append("to")
        return self.held.to(device, dtype or self.dtype, copy=True)

    def tolist(self) -> Any:
        _waited.append("tolist")
        return self.held.tolist()

    def cpu(self) -> Tensor:
        return self.to("cpu")

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        return _call(function, args, kwargs or {})


class _Mode(TorchDispatchMode):
    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        return _call(function, args, kwargs or {})


class _Factories(TorchFunctionMode):
    """Functions that would look for the device before anybody is asked, or ask in C++."""

    def __torch_function__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = dict(kwargs or {})
        if function is torch.tensor and kwargs.get("device") == DEVICE:
            del kwargs["device"]
            return torch.tensor(*args, **kwargs).to(DEVICE)
        if function is torch.Tensor.to and isinstance(args[-1], Elsewhere) and len(args) > 1:
            return args[0].to(DEVICE, args[1].dtype)
        return function(*args, **kwargs)


_waited: list[str] = []


@contextmanager
def elsewhere() -> Iterator[list[str]]:
    """Lets `device=DEVICE` make such tensors. Yields the names of the operators so far that a host would wait for."""
    _waited.clear()
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)  # as between devices of different kinds
    try:
        with _Mode(), _Factories():
            yield _waited
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(before)


def _call(function: Any, args: tuple, kwargs: dict) -> Any:
    tensors = [t for t in tree_iter((args, kwargs)) if isinstance(t, Tensor)]
    there = any(isinstance(t, Elsewhere) for t in tensors)
    if there:
        _check(function, args, tensors)
    target = kwargs.get("device")
    if target is not None:
        to_there = torch.device(target).type == KIND
        if there and not to_there:
            _waited.append(str(function))
        there = to_there
        kwargs = {**kwargs, "device": torch.device("cpu")} if there else kwargs
    if there and kwargs.get("generator") is not None:
        raise RuntimeError(f"{function}: expected a generator on {KIND}, got one on the CPU")
    if any(isinstance(t, Elsewhere) for t in tensors) and _waits(function, args, kwargs):
        _waited.append(str(function))
    back: dict[int, Tensor] = {}

    def unwrap(value: Any) -> Any:
        if isinstance(value, Elsewhere):
            back[id(value.held)] = value
            return value.held
        return value

    result = function(*tree_map(unwrap, args), **tree_map(unwrap, kwargs))

    def wrap(value: Any) -> Any:
        if not isinstance(value, Tensor) or isinstance(value, Elsewhere):
            return value
        return back[id(value)] if id(value) in back else Elsewhere(value) if there else value

    return tree_map(wrap, result)


def _check(function: Callable, args: tuple, tensors: list[Tensor]) -> None:
    if function in MOVES:
        return
    if function in INDEXED and isinstance(args[0], Elsewhere):  # indices may lie on the CPU
        tensors = [args[0], *(t for t in args[2:] if isinstance(t, Tensor))]
    strangers = [t for t in tensors if not isinstance(t, Elsewhere) and t.dim() > 0]
    if strangers:
        raise RuntimeError(
            f"{function}: expected all tensors to be on one device, but found {KIND} and {strangers[0].device}"
        )


def _waits(function: Any, args: tuple, kwargs: dict) -> bool:
    if function in INDEXED:
        return any(isinstance(t, Tensor) and t.dtype == torch.bool for t in args[1])
    if function is aten.repeat_interleave.Tensor:
        return kwargs.get("output_size") is None
    if function in MOVES:
        return function is aten.copy_.default and not isinstance(args[0], Elsewhere)
    return function in WAITS
