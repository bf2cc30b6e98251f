"""Takes whole channels out of a network."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ...nn import ChannelGroup, channel_groups
from ...topology import nnz_at
from ..model.inputs import arguments
from ..model.wrappers import bare
from .network import Network, scoring


def removable_groups(network: Network) -> list[ChannelGroup]:
    """Returns the channels that can be taken out: those that only layers to be pruned write and read, and that nothing
    pins.

    Raises:
        ValueError: there are none, or `torch.fx` cannot trace the model.
    """
    model = bare(network.model)
    inputs = arguments(network.batches[0][0]).first(2).in_order(model)
    groups = [
        group
        for group in channel_groups(network.model, inputs)
        if not group.pinned and {*group.layers, *group.consumers} <= network.layers.keys()
    ]
    if not groups:
        raise ValueError("the model has no channels that can be taken out")
    return groups


def gate_sums(network: Network, groups: Sequence[ChannelGroup], products: Sequence[Tensor]) -> list[Tensor]:
    """Returns for each group the sums, `[size]`, of `products` over all weights that write a channel: what one gate
    multiplies.

    Args:
        products: one tensor of the weight's shape for each layer of the network.
    """
    per_row = {name: product.flatten(1).sum(1) for name, product in zip(network.layers, products, strict=True)}
    return [torch.stack([per_row[name][rows].sum(1) for name, rows in g.layers.items()]).sum(0) for g in groups]


def read_sums(network: Network, groups: Sequence[ChannelGroup], products: Sequence[Tensor]) -> list[Tensor]:
    """Returns sums as `gate_sums`, over all weights that read a channel: with the products of weights and their
    gradients it is the derivative of the loss by a gate on the channel where it is read, behind batch norm and
    activation."""
    per_column = {
        name: product.transpose(0, 1).flatten(1).sum(1) for name, product in zip(network.layers, products, strict=True)
    }
    return [torch.stack([per_column[name][cols].sum(1) for name, cols in g.consumers.items()]).sum(0) for g in groups]


def costs(network: Network, groups: Sequence[ChannelGroup]) -> list[int]:
    """Returns the multiplications per sample that go with one channel of each group: those that write it and those that
    read it, in the network as it is."""
    applied = _applications(network)
    found = []
    for group in groups:
        cost = 0
        for name, rows in group.layers.items():
            cost += rows.shape[1] * applied[name] * network.layers[name].weight[0].numel()  # type: ignore[index]
        for name, columns in group.consumers.items():
            cost += columns.shape[1] * applied[name] * network.layers[name].weight[:, 0].numel()  # type: ignore[index]
        found.append(cost)
    return found


def _applications(network: Network) -> dict[str, int]:
    """Returns how many times a sample meets the weight of each layer: at each position of the output, in each of its
    uses."""
    applied = dict.fromkeys(network.layers, 0)
    model, inputs = bare(network.model), arguments(network.batches[0][0]).first(2)

    def count(name: str, module: nn.Module, inputs: Any, output: Tensor) -> None:
        applied[name] += output[0].numel() // max(1, len(network.layers[name].weight))  # type: ignore[arg-type]

    handles = [layer.register_forward_hook(partial(count, name)) for name, layer in network.layers.items()]
    try:
        with scoring(network.model), torch.no_grad():
            model(*inputs.positional, **inputs.keywords)
    finally:
        for handle in handles:
            handle.remove()
    return applied


def left_of(network: Network, groups: Sequence[ChannelGroup], sparsity: float) -> int:
    """Returns how many of the groups' n channels stay, n - floor(sparsity n).

    Raises:
        ValueError: they are fewer than the least number in every group, taken together.
    """
    sizes = [group.size for group in groups]
    left, minimum = nnz_at(sparsity, sum(sizes)), network.view.min_per_layer
    least = sum(min(minimum, size) for size in sizes)
    if least > left:
        raise ValueError(
            f"min_per_layer={minimum} keeps {least} of {sum(sizes)} channels in {len(sizes)} groups of tied layers, "
            f"but a sparsity of {sparsity} is to leave {left}"
        )
    return left


def highest_channels(
    network: Network, groups: Sequence[ChannelGroup], scores: Sequence[Tensor], sparsity: float
) -> list[Tensor]:
    """Returns the masks of the layers with the globally highest scores, `[size]` for each group: the fraction
    `sparsity` of the channels is gone."""
    marks = replace(network, counts=[left_of(network, groups, sparsity)]).largest(scores)
    return without_channels(network, [(group, ~mark) for group, mark in zip(groups, marks, strict=True)])


def without_channels(network: Network, gone: Sequence[tuple[ChannelGroup, Tensor]]) -> list[Tensor]:
    """Returns the masks of the layers without some channels: neither the weights that write them nor those that read
    them.

    Biases and shifts of the channels are noted in `network.removed`.

    Args:
        gone: bool `[size]` for each group.
    """
    masks = {
        name: torch.ones_like(w, dtype=torch.bool) for name, w in zip(network.layers, network.weights, strict=True)
    }
    for group, mark in gone:
        mark = mark.cpu()
        for name, rows in group.layers.items():
            masks[name][rows[mark].flatten()] = False
        for name, columns in group.consumers.items():
            masks[name][:, columns[mark].flatten()] = False
        for name, entries in (*group.layers.items(), *group.norms.items()):
            bias = network.model.get_submodule(name).bias
            if isinstance(bias, nn.Parameter):
                removed = network.removed.setdefault(f"{name}.bias", torch.zeros_like(bias, dtype=torch.bool))
                removed[entries[mark].flatten()] = True
    return list(masks.values())
