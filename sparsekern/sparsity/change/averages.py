"""Averages of a model that are kept as tensors, not as a copy: they follow the weights as optimizer state does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn


class Averages:
    """The tensors that an object keeps for the Parameters of a model: in lists in their order, in dicts by their names.

    The object is such a list or dict, or has them among its attributes, as `torch_ema` and diffusers' `EMAModel` have
    `shadow_params`. A list may leave out the Parameters that require no gradient.

    Raises:
        ValueError: the object keeps nothing of the kind, or a state dict, whose indices would have to follow, too.
    """

    def __init__(self, holder: Any, model: nn.Module) -> None:
        self.holder, self.model = holder, model
        if not list(self.entries()):
            raise ValueError(
                "expected a follower that is a copy of the model, or keeps a tensor for each Parameter, in lists in "
                f"the order of model.parameters() or in dicts by their names; got {type(holder).__name__}"
            )

    def containers(self) -> dict[str, Any]:
        """Returns what may hold tensors, by the name of the attribute."""
        return {"": self.holder} if isinstance(self.holder, dict | list) else vars(self.holder)

    def entries(self) -> Iterator[tuple[nn.Parameter, Any, Any, str]]:
        """Yields each Parameter with the list or dict that holds a tensor for it, the key, and where that is."""
        named = dict(self.model.named_parameters())
        for name, container in self.containers().items():
            if isinstance(container, dict):
                if any(isinstance(key, str) and key.rpartition(".")[2] == "row_ptr" for key in container):
                    raise ValueError("a state dict cannot follow the pattern of the model: average a copy of the model")
                own: list[tuple[nn.Parameter, Any]] = [(named[key], key) for key in container if key in named]
            else:
                own = [(parameter, i) for i, parameter in enumerate(_aligned(container, list(named.values())))]
            for parameter, key in own:
                if isinstance(container[key], Tensor) and container[key].shape == parameter.shape:
                    yield parameter, container, key, f".{name}"

    def check(self, parameters: Mapping[str, Tensor]) -> None:
        """Raises a `ValueError` if nothing is kept for one of these Parameters, by name, that is trained."""
        known = {id(parameter) for parameter, *_ in self.entries()}
        lost = [name for name, p in parameters.items() if p.requires_grad and id(p) not in known]
        if lost:
            raise ValueError(
                f"{type(self.holder).__name__} is to follow the weights, but keeps no tensor of the shape of {lost[0]}"
            )


def _aligned(container: Any, parameters: Sequence[nn.Parameter]) -> Sequence[nn.Parameter]:
    """Returns the Parameters whose shapes the tensors of a list have; none if it is no such list."""
    if not isinstance(container, list) or not all(type(tensor) is Tensor for tensor in container):
        return ()
    for order in (parameters, [parameter for parameter in parameters if parameter.requires_grad]):
        if [tensor.shape for tensor in container] == [parameter.shape for parameter in order]:
            return order
    return ()
