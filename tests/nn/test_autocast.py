"""Under autocast every kind of layer computes in its dtype, as the dense twin does, whatever comes in."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import sparsekern as sk

LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "Linear": (lambda: nn.Linear(12, 9), (5, 12)),
    "Conv1d": (lambda: nn.Conv1d(6, 8, 3, padding=1), (2, 6, 10)),
    "Conv2d": (lambda: nn.Conv2d(6, 8, 3, padding=1), (2, 6, 7, 7)),
    "Conv2d, padded otherwise": (lambda: nn.Conv2d(6, 8, 3, padding=1, padding_mode="reflect"), (2, 6, 7, 7)),
    "Conv3d": (lambda: nn.Conv3d(4, 6, 3, padding=1), (2, 4, 5, 5, 5)),
    "Conv3d, no bias": (lambda: nn.Conv3d(4, 6, 3, bias=False), (4, 5, 5, 5)),
    "ConvTranspose1d": (lambda: nn.ConvTranspose1d(6, 8, 3), (2, 6, 10)),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(6, 8, 2, stride=2), (2, 6, 7, 7)),
    "ConvTranspose3d": (lambda: nn.ConvTranspose3d(4, 6, 2), (2, 4, 5, 5, 5)),
}


OWN = {"dpf", "snr"}  # methods that count in epochs


def run(layer: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    y.float().square().sum().backward()
    assert x.grad is not None
    return y, x.grad


@pytest.mark.parametrize("method", ["random", "dpf"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_equals_the_dense_twin(name: str, dtype: torch.dtype, method: str) -> None:
    torch.manual_seed(0)
    make, shape = LAYERS[name]
    masks = {"0": torch.rand(make().weight.shape) < 0.5}  # type: ignore[union-attr, operator]
    options = {"masks": masks} if method == "random" else {}
    how = None if method == "random" else sk.methods.dpf(sparsity=0.5, total_steps=100, steps_per_epoch=10)
    model = sk.sparsify(nn.Sequential(make()), how, **options)
    twin = sk.densify(model)
    x = torch.randn(shape).to(dtype)
    (y, grad), (expected, expected_grad) = run(model, x), run(twin, x)
    assert y.dtype == expected.dtype == torch.bfloat16
    assert torch.allclose(y.float(), expected.float(), rtol=2e-2, atol=2e-2)
    assert grad.dtype == expected_grad.dtype == dtype
    assert torch.allclose(grad.float(), expected_grad.float(), rtol=3e-2, atol=3e-2 * float(expected_grad.abs().max()))


@pytest.mark.parametrize("method", ["rigl", "gse_grabo", "gse_synflow", "granet", "dpf", "snr"])
def test_methods_train_expanded_layers(method: str) -> None:
    torch.manual_seed(0)
    layers = [nn.Conv3d(3, 8, 3, padding=1), nn.ReLU(), nn.ConvTranspose3d(8, 8, 2), nn.ReLU(), nn.Conv3d(8, 4, 1)]
    how = sk.methods.get(method)(
        sparsity=0.7, total_steps=24, steps_per_epoch=6, **({} if method in OWN else {"every": 3})
    )
    model = sk.sparsify(nn.Sequential(*layers), how)
    optimizer = sk.Sparsifier(model, torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9), how)
    changed = False
    for step in range(24):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = (model(torch.randn(2, 3, 4, 4, 4)).float() - 1).square().mean()
        loss.backward()
        optimizer.step()
        changed |= optimizer.rewired
        if step % 6 == 5:
            optimizer.epoch_end(float(loss))
    assert changed
    assert all(bool(p.isfinite().all()) for p in model.parameters())
