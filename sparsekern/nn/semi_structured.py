"""2:4 patterns for the tensor cores of NVIDIA, by PyTorch's semi-structured tensors."""

from typing import Any

import torch
from torch import nn

from .conversion.exchange import exchange
from .layer import PatternLayer

DTYPES = (torch.float16, torch.bfloat16)
CAPABILITY = (8, 0)  # Ampere


@torch.no_grad()
def semi_structured(model: nn.Module) -> nn.Module:
    """Exchanges, in place, the sparse linear layers for dense ones whose weight is a semi-structured tensor of PyTorch
    (`torch.sparse.to_sparse_semi_structured`), which tensor cores multiply in its 2:4 form; returns the model. For
    inference: these weights do not learn.

    The pattern has at most 2 nonzeros in every 4 consecutive inputs of an output, as the option `structure="2:4"` of
    methods makes it. Sparse layers of other kinds stay. No card has been measured.

    Raises:
        ValueError: a sparse linear layer is not on a CUDA device of capability 8.0 or higher, not in fp16 or bf16, has
            another pattern or a shape that PyTorch does not take; or there is none. Nothing was changed then.

    Examples:
        >>> model = sk.sparsify(model, sk.methods.oneshot_ft(0.5, total_steps, structure="2:4"))
        >>> # train it, then:
        >>> model = sk.semi_structured(model.cuda().half().eval())  # doctest: +SKIP
    """
    layers: dict[str, Any] = {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, PatternLayer) and layer.DENSE is nn.Linear
    }
    if not layers:
        raise ValueError("the model has no sparse linear layer")
    for name, layer in layers.items():
        problem = _problem(layer)
        if problem is not None:
            raise ValueError(f"{name or 'the layer'} cannot be multiplied as 2:4: {problem}")
    dense = {name: layer.to_dense() for name, layer in layers.items()}
    weights = {}
    for name, layer in dense.items():
        try:
            weights[name] = torch.sparse.to_sparse_semi_structured(layer.weight.detach().contiguous())
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"{name or 'the layer'} cannot be multiplied as 2:4: {error}") from error
    model = exchange(model, dense)
    for name, weight in weights.items():
        dense[name].weight = nn.Parameter(weight, requires_grad=False)
    return model


def _problem(layer: Any) -> str | None:
    weight = layer.stored
    if weight.device.type != "cuda":
        return f"it is on {weight.device}; expected a CUDA device"
    if torch.cuda.get_device_capability(weight.device) < CAPABILITY:
        return f"expected a device of capability {CAPABILITY[0]}.{CAPABILITY[1]} or higher"
    if weight.dtype not in DTYPES:
        return f"it is in {weight.dtype}; expected float16 or bfloat16"
    return pattern_problem(layer.topology.mask())


def pattern_problem(mask: torch.Tensor) -> str | None:
    """Returns why the pattern of a linear layer is not 2:4; None if it is."""
    rows, cols = mask.shape
    if cols % 4:
        return f"its {cols} inputs are no multiple of 4"
    most = int(mask.reshape(rows, cols // 4, 4).sum(2).max()) if mask.numel() else 0
    return None if most <= 2 else f"its pattern has {most} of 4 consecutive inputs"
