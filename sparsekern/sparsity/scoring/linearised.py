"""The linearised network: what of an all-ones input flows through absolute weights (SynFlow, Tanaka et al. 2020)."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from ...nn import PatternLayer
from ..model.inputs import Arguments, total
from ..model.wrappers import bare


class Linearised(nn.Module):
    """A network in which only its absolute weights act; see `linearised`.

    Attributes:
        module: the copy, whose submodules and Parameters have the names they have in the model.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *inputs: Any, **keywords: Any) -> Any:
        with _Linear():
            return self.module(*inputs, **keywords)


@torch.no_grad()
def linearised(model: nn.Module) -> Linearised:
    """Returns a float64 copy of `model` in evaluation mode that is linear in its input, with absolute weights.

    Dense, sparse and masked layers stay what they are, so that a sparse layer's copy holds nonzeros only. Biases are 0;
    activations and dropout pass their input on. Batch norm multiplies channels by |gamma| / sqrt(running variance +
    eps); what normalises by the sample itself (layer, group, instance, RMS norm, batch norm without running statistics)
    by |gamma|, since no statistics belong to a flow. A softmax over dimension 1, that of classes, passes its input on;
    over another one, and in scaled dot product attention, all positions share alike. `glu` adds its halves. An
    embedding, a linear layer of one-hot vectors, adds up its entries, whatever it is asked for. All of this holds for
    modules and for functions called in `forward`. Max pooling passes the largest flow on, as in SynFlow's code; any
    other operation (recurrent layers, `nn.MultiheadAttention`, the product of a flow and a gate) runs as it is, on
    absolute Parameters.

    The model, its mode and its random state are left alone; its gradients are not copied.
    """
    copied = copy.deepcopy(bare(model)).double().eval()
    for name, parameter in copied.named_parameters():
        parameter.zero_() if "bias" in name.rpartition(".")[2] else parameter.abs_()
    return Linearised(copied)


def flows(model: nn.Module, layers: Sequence[PatternLayer], inputs: Arguments) -> list[tuple[Tensor, Tensor]]:
    """Returns the efferent flow `[rows]` and afferent flow `[cols]` (`[groups, cols]` of a grouped convolution) of each
    of `layers` (GraBo, eq. 3), float64, each of sum 1; zero where nothing flows.

    What reaches a layer's inputs when every input of the network is 1, and what a unit of flow out of it adds to the
    sum of the network's outputs. Convolutions sum over positions; the positions of their kernel are alike.

    Args:
        layers: modules of `model`.
        inputs: what the model is called with; one sample counts, and of its floating-point tensors only the shape.

    Raises:
        ValueError: no input is a floating-point tensor or goes through an embedding, or the flow exceeds the range of
            float64.
    """
    net = linearised(model).requires_grad_(False)
    copies: list[Any] = copied_layers(model, net.module, layers)
    for layer in copies:
        layer.probe = layer.new_probe()
        layer.probe.frozen = True
    with torch.enable_grad():
        total_flow(net, inputs).backward()
    found = []
    for layer in copies:
        if not layer.probe.records:
            rows = layer.row_ptr.new_zeros(layer.weight_shape[0], dtype=torch.float64)
            found.append((rows, rows.new_zeros(layer.topology.cols)))
            continue
        found.append((_share(layer.probe.row_weight()), _share(layer.probe.col_weight())))
    return found


def _share(flow: Tensor) -> Tensor:
    total = flow.sum()
    if not total.isfinite():
        raise ValueError(
            "the flow through the absolute weights exceeds the range of float64: the network is too deep, or its "
            "weights are too large, for SynFlow"
        )
    return flow / total if total > 0 else flow


def copied_layers(model: nn.Module, copied: nn.Module, layers: Sequence[nn.Module]) -> list[nn.Module]:
    """Returns what some layers of a model are in its copy."""
    counterparts = dict(zip(bare(model).modules(), copied.modules(), strict=True))
    return [counterparts[layer] for layer in layers]


def total_flow(net: Linearised, inputs: Arguments) -> Tensor:
    """Returns the sum of what a linearised network returns when each of its floating-point inputs is 1, and every
    embedding meets all of its entries; differentiable in these and in the network's Parameters.

    Raises:
        ValueError: there are none.
    """
    inputs = inputs.first(1)
    if not any(x.is_floating_point() for x in inputs.tensors()) and not any(
        isinstance(module, nn.Embedding) for module in net.modules()
    ):
        kinds = ", ".join(sorted({str(x.dtype) for x in inputs.tensors()})) or "no tensors"
        raise ValueError(f"the flow starts from floating-point inputs or embeddings, but the model takes {kinds}")
    ones = inputs.each(lambda x: _ones(x) if x.is_floating_point() else x)
    return total(net(*ones.positional, **ones.keywords))


def _ones(x: Tensor) -> Tensor:
    return torch.ones_like(x, dtype=torch.float64).requires_grad_()


def _first(input: Tensor, *_: Any, **__: Any) -> Tensor:
    return input


def _scaled(input: Tensor, weight: Tensor | None) -> Tensor:
    """Scales by one weight per channel, which is dimension 1."""
    return input if weight is None else input * weight.reshape(-1, *[1] * (input.dim() - 2))


def _layer_norm(input: Tensor, normalized_shape: Any, weight: Tensor | None = None, *_: Any, **__: Any) -> Tensor:
    return input if weight is None else input * weight


def _group_norm(input: Tensor, num_groups: int, weight: Tensor | None = None, *_: Any, **__: Any) -> Tensor:
    return _scaled(input, weight)


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    of_batch: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    **options: Any,
) -> Tensor:
    # The statistics of the batch are asked for by `training` of batch norm and by `use_input_stats` of instance norm.
    if running_var is not None and not options.get("training", options.get("use_input_stats", of_batch)):
        input = _scaled(input, (running_var + eps).rsqrt())
    return _scaled(input, weight)


def _glu(input: Tensor, dim: int = -1) -> Tensor:
    first, second = input.chunk(2, dim)
    return first + second


def _softmax(input: Tensor, dim: int | None = None, *_: Any, **__: Any) -> Tensor:
    if dim is None or dim % input.dim() == min(1, input.dim() - 1):
        return input
    return torch.full_like(input, 1 / input.shape[dim])


def _embedding(input: Tensor, weight: Tensor, *_: Any, **__: Any) -> Tensor:
    flow = weight.sum(0).expand(*input.shape, -1)
    return flow if flow.requires_grad else flow.clone().requires_grad_()


def _attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Tensor:
    return value.mean(-2, keepdim=True).expand(*query.shape[:-1], -1)


_PASSED_ON = (
    "relu relu6 leaky_relu prelu rrelu elu selu celu gelu silu mish hardswish hardsigmoid hardtanh sigmoid tanh "
    "threshold logsigmoid softplus softsign tanhshrink softshrink hardshrink softmin log_softmax normalize "
    "local_response_norm dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout"
)
_LINEAR: dict[Any, Callable[..., Tensor]] = {
    getattr(space, name + end): _first
    for name in _PASSED_ON.split()
    for space in (F, torch, Tensor)
    for end in ("", "_")
    if hasattr(space, name + end)
}
_LINEAR |= {
    F.layer_norm: _layer_norm,
    torch.layer_norm: _layer_norm,
    F.rms_norm: _layer_norm,
    F.group_norm: _group_norm,
    F.batch_norm: _batch_norm,
    F.instance_norm: _batch_norm,
    F.glu: _glu,
    F.embedding: _embedding,
    torch.embedding: lambda weight, input, *_: _embedding(input, weight),
    **dict.fromkeys((F.softmax, torch.softmax, Tensor.softmax), _softmax),
    F.scaled_dot_product_attention: _attention,
}


class _Linear(TorchFunctionMode):
    """Puts what is linear in the place of functions of PyTorch."""

    def __torch_function__(self, func: Callable, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _LINEAR.get(func, func)(*args, **(kwargs or {}))
