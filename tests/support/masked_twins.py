"""Dense layers whose masked twins the tests make."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import sparsekern as sk

Make = Callable[..., Any]

DENSE: dict[str, tuple[Make, tuple[int, ...]]] = {
    "linear": (lambda **o: nn.Linear(30, 20, **o), (5, 30)),
    "linear, no bias": (lambda **o: nn.Linear(30, 20, bias=False, **o), (2, 3, 30)),
    "vector": (lambda **o: nn.Linear(9, 4, **o), (9,)),
    "no batch": (lambda **o: nn.Linear(9, 4, **o), (0, 9)),
    "3x3": (lambda **o: nn.Conv2d(6, 8, 3, padding=1, **o), (3, 6, 7, 8)),
    "1x1, stride 2": (lambda **o: nn.Conv2d(6, 8, 1, 2, bias=False, **o), (17, 6, 7, 8)),
    "same": (lambda **o: nn.Conv2d(4, 5, (2, 3), padding="same", dilation=(1, 2), **o), (2, 4, 7, 8)),
    "groups": (lambda **o: nn.Conv2d(6, 9, 3, (2, 1), (0, 2), groups=3, **o), (3, 6, 7, 8)),
    "depthwise": (lambda **o: nn.Conv2d(6, 6, 3, padding=1, groups=6, **o), (3, 6, 7, 8)),
    "reflect": (lambda **o: nn.Conv2d(4, 5, 3, padding=2, padding_mode="reflect", **o), (3, 4, 7, 8)),
    "one image": (lambda **o: nn.Conv2d(4, 5, 3, padding=1, **o), (4, 7, 8)),
}
KINDS = ["linear", "3x3"]


def layer_of(dense: nn.Module, mask: Tensor, **options: Any) -> Any:
    kind = sk.MaskedLinear if isinstance(dense, nn.Linear) else sk.MaskedConv2d
    return kind.from_dense(dense, mask, **options)


def example(name: str, dtype: torch.dtype = torch.double) -> tuple[Any, Tensor, Tensor]:
    """A dense layer, a mask and an input."""
    make, shape = DENSE[name]
    dense = make(dtype=dtype)
    return dense, torch.rand(dense.weight.shape) < 0.4, torch.randn(shape, dtype=dtype)


def shares(dense: nn.Module, mask: Tensor, x: Tensor, deltas: Tensor) -> list[Tensor]:
    """What every sample alone gives the masked weight, by its own backward pass."""
    twin: Any = copy.deepcopy(dense)
    twin.weight.data *= mask
    return [
        torch.autograd.grad(twin(sample[None]), twin.weight, delta[None])[0]
        for sample, delta in zip(x, deltas, strict=True)
    ]
