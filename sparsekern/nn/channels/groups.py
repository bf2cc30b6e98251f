"""Groups the output channels of layers that are one and the same channel of the network."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn, tensor

from .constants import by_channel
from .trace import trace_channels


@dataclass(frozen=True, eq=False)
class ChannelGroup:
    """Channels that the same layers write and read: each can be pruned, but only in all of those layers at once.

    Attributes:
        size: number of channels.
        layers: by name, the rows of a layer's weight (and bias) that write each channel, int64 `[size, k]`; k is 1
            except where several rows are tied to one channel. Residual additions tie layers; a depthwise convolution
            belongs to the group of its input.
        consumers: by name, the columns (input channels) of a layer that read each channel, int64 `[size, k]`; k is
            more than 1 behind a flattening.
        norms: by name, the entries of a batch norm that scale each channel, int64 `[size, k]`.
        pinned: whether the channels have to stay, because they reach the model's output or an operation of which it is
            not known that it keeps channels apart. Their weights may still be zero.
    """

    size: int
    layers: dict[str, Tensor]
    consumers: dict[str, Tensor]
    norms: dict[str, Tensor]
    pinned: bool


def channel_groups(model: nn.Module, example: Tensor | tuple[Any, ...]) -> list[ChannelGroup]:
    """Groups the output channels of all linear layers and 2-D convolutions of `model`, dense, sparse or masked.

    Each row of each layer is in exactly one group. What is tied is found by tracing the model with `torch.fx` and
    running it on `example` once (in evaluation mode, with nothing changed), and is exact: additions, products,
    concatenation, flattening, padding, views, depthwise convolutions and layers that are used several times are
    followed. Channels that reach anything else, such as layer norms, attention or grouped convolutions, are pinned.

    One gate for each channel that can be pruned, and a sum over everything that it multiplies::

        for group in channel_groups(model, x):
            if not group.pinned:
                gate = torch.ones(group.size)
                for name, rows in group.layers.items():
                    weight = model.get_submodule(name).weight.clone()
                    weight[rows] *= gate.view(-1, *[1] * weight.dim())
                    per_row = products[name].flatten(1).sum(1)  # products: of each weight and its gradient, say
                    score += per_row[rows].sum(1)

    Args:
        example: an input, or a tuple of the inputs, with a batch dimension; one or two samples will do.

    Returns:
        The groups in the order in which the model lists their first layers.

    Raises:
        ValueError: `torch.fx` cannot trace the model, or `example` is no input of it.
    """
    found = trace_channels(model, example)
    channel, pinned = found.channels.channels()
    readers = {layer: ids for layer, ids in found.columns.items() if not by_channel(layer)}
    kinds = {"layers": found.rows, "consumers": readers, "norms": found.norms}
    names = {module: name for name, module in model.named_modules()}
    places: dict[int, dict[tuple[str, str], list[int]]] = {}
    for kind, modules in kinds.items():
        for module, ids in modules.items():
            for i, own in enumerate(channel[ids].tolist()):
                places.setdefault(own, {}).setdefault((kind, names[module]), []).append(i)
    # Channels of a group are at the same places.
    alike: dict[tuple, list[dict]] = {}
    for own, place in places.items():
        if any(kind == "layers" for kind, _ in place):
            key = (bool(pinned[own]), *((*where, len(indices)) for where, indices in place.items()))
            alike.setdefault(key, []).append(place)
    groups = []
    for key, members in alike.items():
        index: dict[str, dict[str, Tensor]] = {kind: {} for kind in kinds}
        for kind, name in members[0]:
            index[kind][name] = tensor([place[kind, name] for place in members])
        groups.append(ChannelGroup(len(members), index["layers"], index["consumers"], index["norms"], key[0]))
    return groups
