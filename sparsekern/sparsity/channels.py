"""Taking whole channels out of a network."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..nn import ChannelGroup, channel_groups
from .starts import Network


def removable_groups(network: Network) -> list[ChannelGroup]:
    """The channels that can be taken out: those that only layers to be pruned write and read, and that nothing pins.

    Raises:
        ValueError: there are none, or `torch.fx` cannot trace the model.
    """
    inputs = network.batches[0][0][:2]
    groups = [
        group
        for group in channel_groups(network.model, inputs)
        if not group.pinned and {*group.layers, *group.consumers} <= network.layers.keys()
    ]
    if not groups:
        raise ValueError("the model has no channels that can be taken out")
    return groups


def without_channels(network: Network, gone: Sequence[tuple[ChannelGroup, Tensor]]) -> list[Tensor]:
    """The masks of the layers without some channels: neither the weights that write them nor those that read them.

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
