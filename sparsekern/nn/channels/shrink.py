"""Removes the channels of a network that are pruned as a whole."""

import copy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..conversion.convert import densify
from .constants import by_channel, zero_bordered
from .graph import evaluating, trace
from .trace import ChannelTrace, trace_channels


def shrink(model: nn.Module, example: Tensor | tuple[Any, ...]) -> nn.Module:
    """Returns a smaller dense network that computes what `model` computes, without the channels that are pruned as a
    whole.

    A channel goes from all layers that write and read it, batch norms included, if no layer that reads it has a nonzero
    weight for it, or if it is the same number in every sample and pixel: zero, or what biases, batch norms and
    activations make of zero. The number is folded into the biases of the layers that read it; where that is not exact,
    as beside the zeros around an image, or where there is no bias, one such channel stays and takes over the weights of
    the others. Channels that residual additions or depthwise convolutions tie go together or not at all; those that
    `channel_groups` calls pinned stay, as does one channel of each layer.

    The model is copied; sparse and masked layers become ordinary ones. The copy keeps its class, the names of its
    parameters, their dtype, device and `requires_grad`, and every module's training mode. It is equal to the model in
    evaluation mode, up to rounding, and in training mode as far as batch norms that are fed a constant have learned its
    mean; dropout of constants is lost.

    Args:
        example: an input, or a tuple of the inputs, with a batch dimension; one or two samples will do.

    Raises:
        ValueError: `torch.fx` cannot trace the model, or `example` is no input of it; the model calls some layers in
            training only, as auxiliary classifiers; or the network without the channels computes something else, which
            happens where code states a number of channels.

    Examples:
        >>> model[0].weight.data[8:] = 0  # 24 of 32 hidden units without a weight
        >>> sk.shrink(model, x)[0].out_features
        8
    """
    code = "the model's forward seems to depend on the number of channels of a layer"
    small = densify(copy.deepcopy(model))
    found = trace_channels(small, example, constant=True)
    if layers := trained_only(small, found):
        raise ValueError(
            f"{', '.join(layers)} would keep reading what is removed: called in training only; take them off"
        )
    expected = found.output
    while remove(found):
        try:
            found = trace_channels(small, example, constant=True)
        except ValueError as error:
            raise ValueError(f"{code}: without the channels that are pruned, {error}") from error
    if not same(found.output, expected):
        raise ValueError(f"{code}: without the channels that are pruned, the model's output is another")
    return small


def trained_only(model: nn.Module, found: ChannelTrace) -> list[str]:
    """The names of the layers that the model calls in training, but not in evaluation mode."""
    idle = found.rows.keys() - found.columns.keys()
    if not idle:
        return []
    with evaluating(model):
        traced = trace(model.train(), found.settings)
    called = {traced.get_submodule(str(n.target)) for n in traced.graph.nodes if n.op == "call_module"}
    return [name for name, module in model.named_modules() if module in idle & called]


@torch.no_grad()
def remove(found: ChannelTrace) -> bool:
    """Removes channels from the layers of a model; returns whether there were any."""
    channel, pinned = found.channels.channels()
    readers = [
        layer for layer in found.columns if getattr(layer, "groups", 1) == 1
    ]  # the others' inputs stay, or are tied
    constants: dict[int, Constant] = {}
    gone = ~pinned
    for layer in readers:
        own, reads, used = channel[found.columns[layer]], found.reads[layer], in_use(layer)
        gone[own[used & ~reads.isfinite()]] = False
        if not has_bias(layer):
            for i in (reads.isfinite() & (reads != 0)).nonzero().flatten().tolist():
                constant = constants.setdefault(int(own[i]), Constant({}, set()))
                constant.offers.setdefault(layer, (i, float(reads[i])))
                if used[i]:
                    constant.needs.add(layer)
    heirs = appoint(constants, [channel[rows] for rows in found.rows.values()], gone)
    for layer in readers:
        hand_over(layer, found.reads[layer], channel[found.columns[layer]], gone, heirs, constants)
    kept = ~gone[channel]
    for layer, columns in found.columns.items():
        cut(layer, kept[found.rows[layer]], kept[columns])
    for norm, ids in found.norms.items():
        take(norm, ("weight", "bias", "running_mean", "running_var"), kept[ids])
        norm.num_features = int(kept[ids].sum())  # type: ignore[assignment]
    for zeros, ids in found.zeros.items():
        zeros.more = int(kept[ids].sum())  # type: ignore[assignment]
    return not bool(kept.all())


class Constant(NamedTuple):
    """A channel that is a constant for each of its readers, some of which have no bias to take it.

    Attributes:
        offers: by layer without such a bias, a column where it reads the channel, and the constant, which is not zero.
        needs: those of the layers that multiply it by a weight other than zero.
    """

    offers: dict[nn.Module, tuple[int, float]]
    needs: set[nn.Module]

    def rank(self) -> tuple[int, float]:
        return len(self.offers), min(abs(value) for _, value in self.offers.values())

    def serves(self, other: "Constant") -> bool:
        """Whether a multiple of this channel, and not a huge one, is the other wherever that is needed."""
        return all(
            layer in self.offers and abs(self.offers[layer][1]) > 1e-3 * abs(other.offers[layer][1])
            for layer in other.needs
        )


def appoint(constants: dict[int, Constant], outputs: list[Tensor], gone: Tensor) -> dict[int, int]:
    """The heirs of the channels that go although their readers need them, and the channels that stay.

    Args:
        outputs: the channels that each layer writes, of which one has to stay.
        gone: by channel; those that stay are taken out.
    """
    order = sorted((own for own in constants if gone[own]), key=lambda own: constants[own].rank(), reverse=True)
    kept = []
    for channels in outputs:
        if gone[channels].all():
            kept.append(next((own for own in order if (channels == own).any()), int(channels[0])))
            gone[kept[-1]] = False
    heirs: dict[int, int] = {}
    for own in order:
        if gone[own] and constants[own].needs:
            able = (heir for heir in kept if heir in constants and constants[heir].serves(constants[own]))
            heirs[own] = next(able, own)
            if heirs[own] == own:
                kept.append(own)
                gone[own] = False
    return heirs


def in_use(layer: Any) -> Tensor:
    """The columns with a weight other than zero, bool."""
    return (layer.weight != 0).transpose(0, 1).flatten(1).any(1).cpu()


def has_bias(layer: Any) -> bool:
    """Whether constants that the layer reads can become part of its bias."""
    return layer.bias is not None and not zero_bordered(layer)


def hand_over(
    layer: Any, reads: Tensor, own: Tensor, gone: Tensor, heirs: dict[int, int], constants: dict[int, Constant]
) -> None:
    """Adds what the layer makes of constant channels that go to its bias, or to the weights of their heirs."""
    moving = gone[own] & reads.isfinite() & (reads != 0) & in_use(layer)
    if not moving.any():
        return
    parts: Any = layer.weight[:, moving].double()
    parts = parts * reads[moving].to(parts.device).view(-1, *[1] * (parts.dim() - 2))
    if has_bias(layer):
        layer.bias += parts.flatten(1).sum(1)
        return
    heir = torch.tensor([heirs[i] for i in own[moving].tolist()], device=parts.device)
    for i in heir.unique().tolist():
        column, value = constants[i].offers[layer]
        layer.weight[:, column] += parts[:, heir == i].sum(1) / value


def cut(layer: Any, rows: Tensor, columns: Tensor) -> None:
    """Keeps some outputs and some inputs of a layer."""
    take(layer, ("weight", "bias"), rows)
    if by_channel(layer):
        layer.groups = int(columns.sum())
    else:
        take(layer, ("weight",), columns, dim=1)
    kind = "features" if isinstance(layer, nn.Linear) else "channels"
    setattr(layer, f"out_{kind}", int(rows.sum()))
    setattr(layer, f"in_{kind}", int(columns.sum()))


def take(module: nn.Module, names: tuple[str, ...], kept: Tensor, dim: int = 0) -> None:
    """Keeps some entries along a dimension of Parameters and buffers of a module."""
    for name in names:
        tensor: Any = getattr(module, name)
        if tensor is None or kept.all():
            continue
        part = tensor.detach().index_select(dim, kept.nonzero().flatten().to(tensor.device))
        setattr(module, name, nn.Parameter(part, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else part)


def same(left: Any, right: Any) -> bool:
    """Whether two outputs of a model are equal up to rounding."""
    if isinstance(left, Tensor):
        if left.shape != right.shape or not left.is_floating_point():
            return torch.equal(left, right)
        finite = right[right.isfinite()].abs()
        scale = float(finite.max()) if finite.numel() else 0.0
        return torch.allclose(left, right, rtol=0, atol=torch.finfo(left.dtype).eps ** 0.5 * scale, equal_nan=True)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(same(a, b) for a, b in zip(left, right, strict=True))
    return left == right
