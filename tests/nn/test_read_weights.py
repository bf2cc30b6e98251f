"""Layers whose weight other code multiplies, as timm's BEiT, EVA and Swin do, change as those that are called."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sparsekern as sk


class Model(nn.Module):
    def __init__(self, reads: bool) -> None:
        super().__init__()
        self.first, self.middle, self.last, self.reads = nn.Linear(12, 16), nn.Linear(16, 24), nn.Linear(24, 5), reads

    def forward(self, x: Tensor) -> Tensor:
        x, middle = torch.tanh(self.first(x)), self.middle
        x = F.linear(x, middle.weight, middle.bias) if self.reads else middle(x)
        return self.last(torch.tanh(x))


def trained(model: nn.Module, name: str, penalty: bool = False) -> tuple[Any, sk.Sparsifier]:
    method = sk.methods.get(name)(sparsity=0.7, total_steps=30, every=3)
    model = sk.sparsify(model, method).double()
    optimizer = sk.Sparsifier(model, torch.optim.SGD(model.parameters(), 0.1, momentum=0.9), method)
    data = torch.Generator().manual_seed(2)
    for _ in range(30):
        x = torch.randn(8, 12, dtype=torch.double, generator=data)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), torch.arange(8) % 5)
        if penalty:
            loss = loss + 0.1 * model.middle.weight.square().sum(0).sub(0.5).square().sum()
        loss.backward()
        optimizer.step()
    return model, optimizer


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["rigl", "gse_grabo", "gse_graest", "gse_synflow", "snr_frozen", "set", "dpf"])
def test_penalties_on_weights_are_taken(name: str) -> None:
    torch.manual_seed(0)
    own = {} if name == "snr_frozen" else {"sparsity": 0.6}
    method = sk.methods.get(name)(**own, total_steps=12, steps_per_epoch=3)
    model: Any = sk.sparsify(Model(False), method)
    optimizer = sk.Sparsifier(model, torch.optim.SGD(model.parameters(), 0.1), method)
    for i in range(12):
        optimizer.zero_grad()
        penalty = torch.stack([(layer.weight**2).sum() for layer in (model.first, model.middle, model.last)]).sum()
        (F.cross_entropy(model(torch.randn(8, 12)), torch.arange(8) % 5) + 1e-3 * penalty).backward()
        optimizer.step()
        if i % 3 == 2:
            optimizer.epoch_end(1.0)
    assert optimizer.steps == 12


@pytest.mark.parametrize("name", ["rigl", "granet", "gse_random", "gse_grabo", "gse_graest"])
def test_patterns_are_those_of_a_layer_that_is_called(name: str) -> None:
    masks = []
    for reads in (False, True):
        torch.manual_seed(0)
        model, optimizer = trained(Model(reads), name)
        masks.append([layer.topology.mask() for layer in (model.first, model.middle, model.last)])
        assert optimizer.report().sparsity == pytest.approx(0.7, abs=0.002)
    assert all(map(torch.equal, *masks))


@pytest.mark.parametrize("kind", ["conv", "turned", "slice", "penalty", "twice", "keyword"])
def test_gradients_of_weights_that_are_read(kind: str) -> None:
    """Against the dense twin, for every way to compute with the weight."""
    torch.manual_seed(0)
    dense: Any = nn.Conv2d(3, 4, 3) if kind == "conv" else nn.Linear(6, 6)
    mask = torch.rand(dense.weight.shape) < 0.5
    dense.weight.data.mul_(mask)
    layer = (sk.SparseConv2d if kind == "conv" else sk.SparseLinear).from_dense(dense, mask)
    probe = layer.probe = layer.new_probe()
    x = torch.randn(2, 3, 5, 5) if kind == "conv" else torch.randn(7, 6)

    def loss(of: Any) -> Tensor:
        weight = of.weight
        if kind == "conv":
            return F.conv2d(x, weight).square().sum()
        if kind == "turned":
            return (x @ weight).square().sum()
        if kind == "slice":
            return (x @ weight[:3].t()).square().sum() + (x @ weight[3:].t()).sum()
        if kind == "keyword":
            return F.linear(x, weight=weight, bias=of.bias).square().sum()
        if kind == "penalty":
            return of(x).square().sum() + weight.square().sum() + weight.t().mm(weight).sum()
        return of(x).square().sum() + F.linear(x, weight).sum()

    loss(layer).backward()
    loss(dense).backward()
    torch.testing.assert_close(probe.dense_gradient(), dense.weight.grad)
    some = torch.randperm(dense.weight.numel())[:9]
    torch.testing.assert_close(probe.gradient_at(some), dense.weight.grad.flatten()[some])
    torch.testing.assert_close(layer.weight.grad, dense.weight.grad * mask)
    if kind in ("twice", "keyword", "penalty"):  # what is known of the layer's products guides growth
        torch.testing.assert_close(probe.col_weight(), (1 + (kind == "twice")) * x.abs().sum(0))
    else:
        with pytest.raises(NotImplementedError, match="only other code than its layer computes with it"):
            probe.row_weight()


def test_reading_without_a_backward_pass_records_nothing() -> None:
    layer = sk.SparseLinear(6, 4, sparsity=0.5)
    probe = layer.probe = layer.new_probe()
    assert layer.weight.abs().sum().item() > 0
    with torch.no_grad():
        F.linear(torch.randn(2, 6), layer.weight)
    layer.weight.detach().norm()
    assert not probe.reached
    layer.probe = None
    F.linear(torch.randn(2, 6), layer.weight).sum().backward()
    assert layer.values.grad is not None


def test_a_penalty_takes_part_in_growth() -> None:
    torch.manual_seed(0)
    alone, _ = trained(Model(False), "rigl")
    torch.manual_seed(0)
    penalised, _ = trained(Model(False), "rigl", penalty=True)
    assert not torch.equal(alone.middle.topology.mask(), penalised.middle.topology.mask())
