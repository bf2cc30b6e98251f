"""Finds where an optimizer keeps its state per weight, and the optimizers inside it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ...shards import is_sharded
from .averages import Averages
from .transaction import Transaction


class Entry(NamedTuple):
    """A tensor `container[key]` that belongs to a Parameter, under a name that no other tensor of the Parameter has.
    `optimizer` is None for what no optimizer keeps; `path` leads to it from the optimizer's state of the Parameter, and
    is empty if it lies elsewhere."""

    container: Any
    key: Any
    tensor: Tensor
    optimizer: Optimizer | None
    name: str
    path: str = ""


def nested(optimizer: Optimizer) -> list[Optimizer]:
    """Returns the optimizer and the optimizers among its attributes (`base_optimizer` of SAM, `optimizer` of
    Lookahead), and theirs."""
    found = [optimizer]
    for outer in found:
        for value in vars(outer).values():
            parts = value.values() if isinstance(value, dict) else value
            parts = parts if isinstance(value, (dict, list, tuple)) else [value]
            found += [part for part in parts if isinstance(part, Optimizer) and all(part is not o for o in found)]
    return found


def state_of(optimizer: Optimizer, parameter: Tensor) -> dict[str, Any]:
    """Returns what the optimizer, and those inside it, keep for a Parameter, by name."""
    if type(optimizer).__module__.startswith("torch.optim"):
        return optimizer.state.get(parameter, {})
    merged: dict[str, Any] = {}
    for each in reversed(nested(optimizer)):
        merged |= each.state.get(parameter, {})
    return merged


def paths(state: dict[str, Any]) -> dict[str, Tensor]:
    """Returns the tensors in an optimizer's state of a Parameter, within lists and dicts too, by their paths."""
    return {name[1:]: tensor for _, _, tensor, name in _tensors({"": state}, "")}


class States:
    """The state that an optimizer keeps per weight, wherever it lies: in its `state` and that of optimizers inside it,
    in dicts whose keys are Parameters, and in lists that are aligned with the Parameters of all groups or of each. What
    `averages` keep belongs to it, too.

    Attributes:
        replaced: whether a Parameter was replaced by another.
    """

    def __init__(self, optimizer: Optimizer, averages: Sequence[Averages] = ()) -> None:
        self.replaced, self.averages = False, averages
        self._averaged = [
            (parameter, Entry(container, key, container[key], None, f"average {i}{name}"))
            for i, average in enumerate(averages)
            for parameter, container, key, name in average.entries()
        ]
        self.optimizers = nested(optimizer)
        groups = optimizer.param_groups
        self._rows = [group["params"] for group in groups]
        self._all = [p for row in self._rows for p in row]
        self._found = list(self._containers())

    def _containers(self) -> Iterator[tuple[str, Any, Optimizer]]:
        """Yields every dict and list among the attributes and settings, but for `state` and the Parameters of the
        groups."""
        seen: set[int] = set()
        for optimizer in self.optimizers:
            seen |= {id(each.state) for each in self.optimizers}
            stack: list[tuple[str, Any]] = [("", vars(optimizer))]
            while stack:
                path, container = stack.pop()
                if id(container) in seen or not isinstance(container, (dict, list, tuple)):
                    continue
                seen.add(id(container))
                yield f"{type(optimizer).__name__}{path}", container, optimizer
                if isinstance(container, dict):
                    parts = [(f"[{_name(k)}]" if path else f".{k}", v) for k, v in container.items()]
                else:
                    parts = [(f"[{i}]", v) for i, v in enumerate(container)]
                stack += [(path + part, value) for part, value in parts if isinstance(value, (dict, list, tuple))]

    def of(self, parameter: Tensor) -> Iterator[Entry]:
        """Yields the tensors that belong to a Parameter, each once."""
        seen: set[int] = set()
        for entry in self._of(parameter):
            if id(entry.tensor) not in seen:
                seen.add(id(entry.tensor))
                yield entry

    def _of(self, parameter: Tensor) -> Iterator[Entry]:
        for i, optimizer in enumerate(self.optimizers):
            if parameter in optimizer.state:
                for container, key, tensor, name in _tensors(optimizer.state, parameter):
                    yield Entry(container, key, tensor, optimizer, name[1:] if i == 0 else f"{i}{name}", name[1:])
        for path, container, optimizer in self._found:
            if isinstance(container, dict):
                for own in _keys(container, parameter):
                    for place, key, tensor, name in _tensors(container, own):
                        yield Entry(place, key, tensor, optimizer, path + name)
            elif (params := self._aligned(container)) is not None:
                for i, each in enumerate(params):
                    if each is parameter and isinstance(container[i], Tensor):
                        yield Entry(container, i, container[i], optimizer, path)
        yield from (entry for own, entry in self._averaged if own is parameter)

    def _aligned(self, container: Any) -> Sequence[Tensor] | None:
        """Returns the Parameters, of a group or of all groups, whose shapes the tensors of a list have. None: the list
        holds Parameters or something else."""
        if not isinstance(container, list) or not any(isinstance(t, Tensor) for t in container):
            return None
        if any(isinstance(t, nn.Parameter) for t in container):
            return None
        rows = [(position, row) for position, row in enumerate(self._rows) if _fits(container, row)]
        if len(rows) > 1:  # by its place in a list of such lists
            for _, outer, _ in self._found:
                if isinstance(outer, list) and len(outer) == len(self._rows):
                    rows = [(i, row) for i, row in rows if outer[i] is container] or rows
        if rows:
            return rows[0][1]
        return self._all if _fits(container, self._all) else None

    def lists(self) -> dict[str, list[Any]]:
        """Returns the lists that are aligned with Parameters, by name, entries in the order of all Parameters."""
        found: dict[str, list[Any]] = {}
        for path, container, _ in self._found:
            params = self._aligned(container)
            if params is not None:
                own = {id(p): tensor for p, tensor in zip(params, container, strict=True)}
                found[path] = [own.get(id(p)) for p in self._all]
        return found

    def set_lists(self, saved: dict[str, dict[int, Any]]) -> None:
        """Restores what `lists` returned, entries by the numbers of the Parameters."""
        for path, container, _ in self._found:
            params = self._aligned(container) if path in saved else None
            if params is not None:
                own = {id(p): saved[path][i] for i, p in enumerate(self._all)}
                container[:] = [None if own[id(p)] is None else own[id(p)].to(p.device, copy=True) for p in params]

    def rename(self, change: Transaction, old: str, new: str) -> None:
        """Puts the name `new` in the place of `old` wherever averages keep a tensor by the name of its Parameter, or
        groups list the names of theirs."""
        for names in {id(names): names for each in self.optimizers for names in _param_names(each)}.values():
            renamed = [_renamed(name, old, new) for name in change.current(names)]
            if renamed != change.current(names):
                change.contents(names)[:] = renamed
        kept = [container for average in self.averages for container in average.containers().values()]
        for container in kept:
            if isinstance(container, dict) and old in change.current(container):
                draft = change.contents(container)
                entries = [(new if key == old else key, value) for key, value in draft.items()]
                draft.clear()
                draft.update(entries)

    def replace(self, change: Transaction, old: nn.Parameter, new: nn.Parameter) -> None:
        """Puts `new` in the place of `old` wherever the optimizers hold it, with its state."""
        self.replaced = True
        states = [each.state for each in self.optimizers]
        for container in [*self._rows, *states, *(container for _, container, _ in self._found)]:
            now = change.current(container)
            if isinstance(container, dict):
                if _keys(now, old) or any(value is old for value in now.values()):
                    entries = [(_key(key, old, new), new if value is old else value) for key, value in now.items()]
                    draft = change.contents(container)
                    draft.clear()
                    draft.update(entries)
            elif isinstance(container, list) and any(each is old for each in now):
                draft = change.contents(container)
                draft[:] = [new if each is old else each for each in draft]

    def check(self, parameters: dict[str, Tensor]) -> None:
        """Raises a `ValueError` if something would be left behind that is kept for one of these Parameters, by name."""
        for average in self.averages:
            average.check(parameters)
        if all(type(each).__module__.startswith("torch.optim") for each in self.optimizers):
            return
        for name, parameter in parameters.items():
            for entry in self.of(parameter):
                _check_entry(name, parameter, entry)
        shapes = {tuple(p.shape): name for name, p in parameters.items() if p.numel() > 1}
        rows = [row for row in (*self._rows, self._all) if len(row) > 1]
        shapes |= {(sum(p.numel() for p in row),): "all Parameters together" for row in rows}
        known = {id(entry.tensor) for p in self._all for entry in self.of(p)} | {id(p) for p in self._all}
        for each in self.optimizers:
            strange = {k: v for k, v in each.state.items() if not isinstance(k, Tensor) and k not in map(id, self._all)}
            places = [*((f"{type(each).__name__}.state", strange) for _ in strange)]
            for path, container in [*places, *((p, c) for p, c, o in self._found if o is each)]:
                values = container.items() if isinstance(container, dict) else enumerate(container)
                for key, value in values:
                    if isinstance(value, Tensor) and tuple(value.shape) in shapes and id(value) not in known:
                        where = f"{path}.{key}" if container is vars(each) else f"{path}[{_name(key)}]"
                        raise ValueError(
                            f"{type(each).__name__} keeps a tensor of the shape of {shapes[tuple(value.shape)]} in "
                            f"{where} that would be left behind when the pattern changes: keep it in the optimizer's "
                            "state of the Parameter"
                        )


def _check_entry(name: str, parameter: Tensor, entry: Entry) -> None:
    """Raises a `ValueError` if single weights cannot be told apart in what is kept for a Parameter."""
    tensor = entry.tensor
    plain = type(tensor) in (Tensor, nn.Parameter) or is_sharded(tensor)
    coded = not plain or tensor.dtype in (torch.uint8, torch.int8)
    if coded or (parameter.dim() == 1 and tensor.numel() > 1 and tensor.shape != parameter.shape):
        kind = "Tensor" if type(tensor) is nn.Parameter else type(tensor).__name__
        raise ValueError(
            f"{type(entry.optimizer).__name__} keeps {entry.name} of {name} as {kind} {tuple(tensor.shape)} of "
            f"{tensor.dtype}, of which no part could follow a weight when the pattern changes (8-bit states, "
            "preconditioners): use an optimizer with a number for each weight, like AdamW, or a method whose pattern "
            "stays"
        )


def _tensors(container: Any, key: Any, name: str = "") -> Iterator[tuple[Any, Any, Tensor, str]]:
    """Yields the tensors in `container[key]`: the container of each, its key there, the tensor, and a name."""
    value = container[key]
    if isinstance(value, Tensor):
        yield container, key, value, name
    elif isinstance(value, (dict, list)):
        for inner in list(value) if isinstance(value, dict) else range(len(value)):
            yield from _tensors(value, inner, f"{name}.{inner}")


def _keys(container: dict, parameter: Tensor) -> list[Any]:
    """Returns the keys by which a dict means a Parameter: itself or its id."""
    number = id(parameter)  # also the hash of the Parameter: comparing an int with it would call the tensor's `==`
    return [key for key in container if key is parameter or (type(key) is int and key == number)]


def _key(key: Any, old: Tensor, new: Tensor) -> Any:
    return new if key is old else id(new) if type(key) is int and key == id(old) else key


def _param_names(optimizer: Optimizer) -> list[list[str]]:
    return [group["param_names"] for group in optimizer.param_groups if "param_names" in group]


def _renamed(name: str, old: str, new: str) -> str:
    """Returns the name of a Parameter, perhaps of a wrapped model, with `new` in the place of `old`."""
    return name[: -len(old)] + new if f".{name}".endswith(f".{old}") else name


def _fits(tensors: Sequence[Any], parameters: Sequence[Tensor]) -> bool:
    return len(tensors) == len(parameters) and all(
        t is None or (isinstance(t, Tensor) and t.shape == p.shape) for t, p in zip(tensors, parameters, strict=True)
    )


def _name(key: Any) -> str:
    return "parameter" if isinstance(key, Tensor) else repr(key)
