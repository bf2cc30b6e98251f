"""SNR pruning with frozen weights (section 5.3) against a dense twin that puts back what pruned weights had."""

import copy

import pytest
import torch
from support.trajectories import CONV, OPTIMIZERS, batches, prepare, step
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import sparsekern as sk


@pytest.mark.parametrize(("kind", "optimizer"), [*(("linear", name) for name in OPTIMIZERS), *CONV])
def test_frozen_weights_equal_a_dense_twin_that_restores_them(kind: str, optimizer: str) -> None:
    model, sparsifier = prepare(kind, "snr_frozen", OPTIMIZERS[optimizer])
    twin = sk.densify(copy.deepcopy(model))
    weights = dict(twin.named_parameters())
    dense = {name: nn.Parameter(weight.detach().clone()) for name, weight in weights.items()}
    inner = OPTIMIZERS[optimizer](dense.values())
    changes = 0
    for batch in batches(kind):
        masks = {f"{site.name}.weight": site.active.mask() for site in sparsifier.sites}
        with torch.no_grad():
            for name, weight in weights.items():
                weight.copy_(dense[name] * masks.get(name, torch.tensor(True)))
        gradients = torch.autograd.grad(cross_entropy(twin(batch[0]), batch[1]), list(weights.values()))
        for name, gradient in zip(weights, gradients, strict=True):
            dense[name].grad = gradient
        before = {name: (dense[name].detach().clone(), copy.deepcopy(inner.state[dense[name]])) for name in masks}
        inner.step()
        with torch.no_grad():
            for name, (weight, state) in before.items():
                dense[name].copy_(torch.where(masks[name], dense[name], weight))
                for key, value in inner.state[dense[name]].items():
                    if isinstance(value, Tensor) and value.shape == weight.shape and key in state:
                        value.copy_(torch.where(masks[name], value, state[key]))
        step(model, sparsifier, batch)
        changes += sparsifier.rewired
    assert changes >= 2
    for site in sparsifier.sites:
        expected = dense[f"{site.name}.weight"]
        assert 0 < site.nnz < site.size
        torch.testing.assert_close(site.weight, expected.detach())
        active = site.active.mask()
        for key, value in sparsifier.state[site.parameter].items():
            if isinstance(value, Tensor) and value.shape == site.parameter.shape:
                state = torch.where(active, site.active.dense(value), site.stashed[f"state {key}"])
                torch.testing.assert_close(state, inner.state[expected][key], msg=f"{site.name} {key}")
            elif isinstance(value, Tensor):
                assert torch.equal(value, inner.state[expected][key])
