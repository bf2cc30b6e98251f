"""Gives a model of plain PyTorch the layers that a saved state is of."""

from collections.abc import Callable, Iterator, Mapping
from typing import TypeAlias

import torch
from torch import Tensor, nn

from ...topology import Topology
from ..layer import PatternLayer
from ..saved import is_csr
from .convert import masked_twin, sparse_twin
from .exchange import exchange
from .registry import SPARSE, registered_class
from .splitting import join, split

Make: TypeAlias = Callable[[nn.Module, Topology], PatternLayer]


def patterned(
    model: nn.Module, state: Mapping[str, Tensor], masked: Make = masked_twin, sparse: Make = sparse_twin
) -> nn.Module:
    """Exchanges the dense layers for which a state dict has a pattern, for layers with this pattern. `load_state_dict`
    then brings their weights, and to other layers with a pattern that of the state.

    Args:
        masked: makes the layer where the state has a dense weight and a mask.
        sparse: makes it where the state has the nonzeros only.

    Returns:
        The model, which is the new layer itself if it is such a layer.

    Raises:
        ValueError: a layer of the state is another one in the model, or there is none.
    """
    found = list(patterns(state))
    model, originals = split(model, [name for name, *_ in found])
    layers, replacements = dict(model.named_modules()), {}
    for name, row_ptr, col, bare in found:
        layer = layers.get(name)
        if isinstance(layer, PatternLayer):
            continue
        dense = None if layer is None else registered_class(layer)
        kind = None if dense is None else SPARSE.get(dense)
        if layer is None or kind is None:
            here = f"is a {type(layer).__name__}" if layer is not None else "does not exist"
            raise ValueError(
                f"{name or 'the model'} has a sparsity pattern in the saved state, but {here} in the model"
            )
        weight: Tensor = layer.weight  # type: ignore[assignment]
        try:
            topology = Topology(tuple(kind.rows_of(weight).shape), row_ptr.to(torch.int32), col.to(torch.int32))
        except ValueError as error:
            raise ValueError(f"{name or 'the model'}: {error}") from error
        replacements[name] = (sparse if bare else masked)(layer, topology)
    return join(exchange(model, replacements), originals)


def patterns(state: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor, Tensor, bool]]:
    """Yields name, row_ptr and col of every layer of a state dict that has a pattern, and whether it holds its nonzeros
    only: not the dense weight under a mask."""
    for key, tensor in state.items():
        name, _, last = key.rpartition(".")
        prefix = key.removesuffix(last)
        if last == "weight" and is_csr(tensor):
            yield name, tensor.crow_indices(), tensor.col_indices(), True
        elif last in ("values", "master", "weight") and prefix + "row_ptr" in state and prefix + "col" in state:
            yield name, state[prefix + "row_ptr"], state[prefix + "col"], last == "values"
