"""State that an optimizer keeps in lists: it follows the weights, or begins anew where it is that of a matrix."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer

import sparsekern as sk


def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(20, 9, dtype=torch.double, generator=generator), torch.arange(20) % 4


class Elementary(Optimizer):
    """Steps each Parameter by itself."""

    def __init__(self, params: Any, lr: float = 0.05) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.sub_(self.update(p, p.grad, self.state[p]), alpha=group["lr"])

    def update(self, p: Tensor, gradient: Tensor, state: dict[str, Any]) -> Tensor:
        raise NotImplementedError


class Factors(Elementary):
    """A scale for each row, each column and so on, in a list (Kron, SOAP): of a vector for each weight."""

    def update(self, p: Tensor, gradient: Tensor, state: dict[str, Any]) -> Tensor:
        if not state:
            state["momentum"] = torch.zeros_like(p)
            state["factors"] = [torch.eye(n).to(p) if p.dim() > 1 else torch.ones_like(p) for n in p.shape]
        update = state["momentum"].lerp_(gradient, 0.1)
        for i, factor in enumerate(state["factors"]):
            if p.dim() == 1:
                factor.lerp_(gradient.square(), 0.01)
                update = update / factor.sqrt()
            else:
                update = torch.tensordot(factor, update.movedim(i, 0), 1).movedim(0, i)
        return update


class Histories(Elementary):
    """Gradients of the last steps in a list, a count in a dict: no more of them for a matrix than for a vector."""

    def update(self, p: Tensor, gradient: Tensor, state: dict[str, Any]) -> Tensor:
        if not state:
            state.update(momentum=torch.zeros_like(p), history=[], info={"n": torch.zeros(())})
        state["history"] = [*state["history"][-2:], gradient.clone()]
        state["info"]["n"] += 1
        return state["momentum"].lerp_(gradient, 0.1) + sum(state["history"]) / 3


def settled(name: str, kind: type[Elementary]) -> sk.Sparsifier:
    """A run in which dense weights make way for their nonzeros; the first weight is square."""
    torch.manual_seed(0)
    options = {"finetune": 2, "steps_per_epoch": 4} if name == "dpf" else {}
    method = sk.methods.get(name)(sparsity=0.6, total_steps=24, **options)
    model = sk.sparsify(nn.Sequential(nn.Linear(9, 9), nn.Tanh(), nn.Linear(9, 4)).double(), method)
    optimizer = sk.Sparsifier(model, kind(model.parameters()), method)
    x, y = data()
    for _ in range(24):
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        optimizer.step()
    assert all(isinstance(site.module, sk.SparseLinear) for site in optimizer.sites)
    return optimizer


@pytest.mark.parametrize("name", ["rigl", "gmp", "gse_random"])
def test_tensors_in_lists_follow_and_begin_as_those_of_a_new_weight(name: str) -> None:
    """Against a run in which the numbers of every weight are kept by its place in the dense weight."""
    torch.manual_seed(0)
    method = sk.methods.get(name)(sparsity=0.6, total_steps=24, every=4)
    model = sk.sparsify(nn.Sequential(nn.Linear(9, 12), nn.Tanh(), nn.Linear(12, 4)).double(), method)
    optimizer = sk.Sparsifier(model, Factors(model.parameters()), method)
    x, y = data()
    layer, moved = model[0], 0
    factor = torch.ones(12 * 9, dtype=torch.double)
    for _ in range(24):
        before, due = layer.topology.coordinates(), optimizer.engine.due(optimizer.engine.now)
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        gradient = layer.topology.to_csr(layer.values.grad).clone()
        optimizer.step()
        if not (due and method.order.replaces_step):
            factor[before] = factor[before].lerp(gradient.square(), 0.01)
        after = layer.topology.coordinates()
        grown = ~torch.isin(after, before)
        factor[after[grown]] = 0.99  # the first step of a weight whose gradient is 0
        moved += int(grown.sum())
        (own,) = optimizer.state[layer.values]["factors"]
        torch.testing.assert_close(layer.topology.to_csr(own), factor[after])
    assert moved or name == "gmp"


@pytest.mark.parametrize("name", ["dpf", "oneshot_ft", "lottery"])
def test_matrices_in_lists_begin_anew_where_only_nonzeros_stay(name: str) -> None:
    """Of a square weight they have the shape of the weight itself."""
    optimizer = settled(name, Factors)
    for site in optimizer.sites:
        (own,) = optimizer.state[site.parameter]["factors"]
        assert own.shape == site.parameter.shape
        assert float(own.min()) > 0
        assert float(own.max()) <= 1


@pytest.mark.parametrize("name", ["dpf", "oneshot_ft"])
def test_histories_in_lists_stay_where_only_nonzeros_stay(name: str) -> None:
    optimizer = settled(name, Histories)
    for site in optimizer.sites:
        state = optimizer.state[site.parameter]
        assert int(state["info"]["n"]) == 24
        assert [tensor.shape for tensor in (state["momentum"], *state["history"])] == [site.parameter.shape] * 4
