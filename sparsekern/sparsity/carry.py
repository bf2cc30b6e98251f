"""Moving a weight and all that belongs to it through a change of pattern."""

from typing import Any

import torch
from torch import Tensor, nn


@torch.no_grad()
def carry(optimizer: torch.optim.Optimizer, module: Any, index_map: Tensor) -> None:
    """Rearranges `module.values`, its gradient and every optimizer state tensor shaped like it by `index_map`.

    A grown weight starts at 0, its state as the optimizer's own first step would create it. Knows no optimizer class.
    Where the map is longer than the Parameter, a new Parameter takes its place in the module and in the optimizer.

    Args:
        index_map: int32 `[new capacity]`, the old slot of each new slot or -1.
    """
    parameter = module.values
    state = optimizer.state.get(parameter, {})
    fresh = _fresh_state(optimizer, parameter) if state else {}
    moved = {
        key: gather(tensor, index_map, fresh.get(key, 0.0))
        for key, tensor in state.items()
        if isinstance(tensor, Tensor) and tensor.shape == parameter.shape
    }
    carry_values(module, index_map)
    if module.values is parameter:
        for key, tensor in moved.items():
            state[key].copy_(tensor)
        return
    replace_parameter(optimizer, parameter, module.values, moved)


def replace_parameter(
    optimizer: torch.optim.Optimizer, old: nn.Parameter, new: nn.Parameter, state: dict[str, Tensor]
) -> None:
    """Puts `new` in the place of `old` in the optimizer, with its state, of which `state` replaces a part."""
    for group in optimizer.param_groups:
        group["params"] = [new if p is old else p for p in group["params"]]
    if old in optimizer.state:
        optimizer.state[new] = {**optimizer.state.pop(old), **state}


@torch.no_grad()
def carry_values(module: Any, index_map: Tensor) -> None:
    """Rearranges `module.values` and its gradient."""
    parameter = module.values
    values = gather(parameter, index_map, 0.0)
    grad = None if parameter.grad is None else gather(parameter.grad, index_map, 0.0)
    if values.shape == parameter.shape:
        parameter.copy_(values)
        parameter.grad = grad
        return
    module.values = nn.Parameter(values, requires_grad=parameter.requires_grad)
    module.values.grad = grad


def gather(tensor: Tensor, index_map: Tensor, fill: float | Tensor) -> Tensor:
    """`tensor[index_map]` with `fill` where the map is negative."""
    moved = tensor.detach()[index_map.clamp(min=0)] if tensor.numel() else tensor.new_zeros(index_map.shape)
    return moved.masked_fill_(index_map < 0, fill)


def _fresh_state(optimizer: torch.optim.Optimizer, parameter: Tensor) -> dict[str, Tensor]:
    """The per-element state that the optimizer creates for a new weight of value and gradient 0, 0-d."""
    group = next(g for g in optimizer.param_groups if any(p is parameter for p in g["params"]))
    probe = nn.Parameter(torch.zeros(1, dtype=parameter.dtype, device=parameter.device))
    probe.grad = torch.zeros_like(probe)
    settings = {key: value for key, value in group.items() if key in optimizer.defaults}
    try:
        twin = type(optimizer)([probe], **settings)
    except TypeError:  # a constructor that does not take its own settings back
        return {}
    twin.step()
    return {k: v.squeeze(0) for k, v in twin.state[probe].items() if isinstance(v, Tensor) and v.shape == probe.shape}
