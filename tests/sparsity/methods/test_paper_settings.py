"""Settings in which papers run the methods of others, each one call; values are computed here once more."""

from fractions import Fraction
from math import cos, pi
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sparsekern as sk
from sparsekern.sparsity.parts import views
from sparsekern.sparsity.parts.distributions import apportion, er
from sparsekern.topology import nnz_at


def convnet() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 5)
    )


def step(model: nn.Module, optimizer: Any, x: Tensor) -> None:
    optimizer.zero_grad()
    model(x).square().mean().backward()
    optimizer.step()


def test_set_of_the_grabo_paper() -> None:
    """From a fifth to nothing along a cosine until the second drop, magnitudes of the whole network, every 1000."""
    steps = 78200
    method = sk.methods.set(
        0.9, steps, rate=0.2, decay="cosine", stop=0.6, scope="global", every=1000, share="uniform", initialize="fan_in"
    )
    assert [t for t in range(steps) if method.when.fires(t)] == list(range(1000, 46001, 1000))
    assert method.view is views.network
    model = nn.Sequential(nn.Linear(40, 60), nn.ReLU(), nn.Linear(60, 10))
    short = sk.methods.set(0.8, 50, rate=0.2, decay="cosine", stop=0.6, scope="global", every=10, share="uniform")
    optimizer = sk.Sparsifier(sk.sparsify(model, short), torch.optim.SGD(model.parameters(), lr=0.0), short)
    total = nnz_at(0.8, 3000)
    exchanged = {t: int(total * 0.1 * (1 + cos(pi * t / 30)) + 1e-9) for t in (10, 20, 30)}
    for t in range(50):
        masks = [site.active.mask() for site in optimizer.sites]
        step(model, optimizer, torch.randn(4, 40))
        grown = sum(int((s.active.mask() & ~m).sum()) for s, m in zip(optimizer.sites, masks, strict=True))
        assert grown == exchanged.get(t, 0)


def test_set_changes_to_the_end_at_a_constant_rate_unless_told() -> None:
    method = sk.methods.set(0.9, 100, 10)
    assert [t for t in range(100) if method.when.fires(t)] == list(range(10, 100, 10))
    with pytest.raises(ValueError, match="decay must be one of constant, cosine, got 'linear'"):
        sk.methods.set(0.9, 100, 10, decay="linear")


def test_rigl_with_uniform_layers_leaves_the_first_dense() -> None:
    model = sk.sparsify(convnet(), sk.methods.rigl(0.75, 300, share="uniform"))
    assert type(model[0]) is nn.Conv2d
    counts = [layer.topology.nnz for layer in model.children() if isinstance(layer, (sk.SparseConv2d, sk.SparseLinear))]
    assert counts == [8 * 8 * 9 // 4, 5 * 8 * 16 // 4]
    model = sk.sparsify(convnet(), sk.methods.rigl(0.75, 300))
    assert isinstance(model[0], sk.SparseConv2d)


@pytest.mark.parametrize("name", ["gmp", "oneshot_ft", "magnitude_after", "lottery", "rewind"])
def test_baselines_of_the_dpf_paper_leave_the_last_layer_dense(name: str) -> None:
    method = sk.methods.get(name)(sparsity=0.9, total_steps=30, steps_per_epoch=5, scope="convolutions")
    model = sk.sparsify(convnet(), method)
    optimizer = sk.Sparsifier(model, torch.optim.SGD(model.parameters(), lr=0.01), method)
    for _ in range(30):
        step(model, optimizer, torch.randn(4, 3, 8, 8))
    assert type(model[5]) is nn.Linear
    assert sum(site.nnz for site in optimizer.sites) == nnz_at(0.9, 8 * 3 * 9 + 8 * 8 * 9)


def test_scope_by_name() -> None:
    data = [(torch.randn(4, 3, 8, 8), torch.randint(5, (4,)))]
    method = sk.methods.snip(0.5, scope="without_classifier")
    model = sk.sparsify(convnet(), method, batches=data, loss=nn.functional.cross_entropy)
    assert [type(layer) for layer in model.children() if hasattr(layer, "weight")] == [sk.SparseConv2d] * 2 + [
        nn.Linear
    ]
    with pytest.raises(ValueError, match="scope must be one of everything, without_classifier, convolutions, got 'fc'"):
        sk.methods.gmp(0.5, 30, 5, scope="fc")


def test_optg_begins_dense_however_flat_its_ramp() -> None:
    """While all scores are 0 nothing is pruned; from epoch 1 on P_k N of the smallest scores are."""
    steepness, epochs, period = 0.1, 10, 3
    method = sk.methods.optg(0.8, epochs * period, period, steepness=steepness)
    model = sk.sparsify(nn.Sequential(nn.Linear(20, 30), nn.Tanh(), nn.Linear(30, 4)), method)
    optimizer = sk.Sparsifier(model, torch.optim.SGD(model.parameters(), lr=0.1), method)
    size = 20 * 30 + 30 * 4
    for t in range(epochs * period):
        epoch = t // period
        share = 0.8 / (1 + torch.tensor(steepness * (epochs / 2 - epoch), dtype=torch.double).exp())
        pruned = 0 if epoch == 0 else int(0.8 * size + 1e-9) if epoch == epochs - 1 else int(share * size)
        assert sum(site.nnz for site in optimizer.sites) == size - pruned
        step(model, optimizer, torch.randn(8, 20))


def largest_remainder(shares: list[int], total: int) -> list[int]:
    """Without caps, in whole numbers only."""
    parts = [divmod(share * total, sum(shares)) for share in shares]
    counts = [quotient for quotient, _ in parts]
    for i in sorted(range(len(shares)), key=lambda i: -parts[i][1])[: total - sum(counts)]:
        counts[i] += 1
    return counts


def test_equal_remainders_go_to_the_earlier_layer() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(2000):
        shares = torch.randint(1, 8, (6,), generator=generator).tolist()
        total = int(torch.randint(1, 200, (), generator=generator))
        assert apportion(shares, [1000] * 6, total) == largest_remainder(shares, total)
    thirds = [Fraction(1, 3)] * 3
    assert apportion(thirds, [9] * 3, 4) == [2, 1, 1]
    shapes = [(7, 3), (5, 5), (9, 1), (2, 8)]  # of ER a layer's share is out + in, 10 in each
    assert er(shapes, 22, None) == [6, 6, 5, 5]


def test_a_depthwise_convolution_shares_the_gates_of_its_input() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 5, 1), nn.AvgPool2d(4), nn.Flatten()
    )
    x, y = torch.randn(6, 3, 8, 8), torch.randint(5, (6,))
    nn.functional.cross_entropy(model(x), y).backward()
    weights = list(model.parameters())[0:4:2]
    products = [(w * w.grad).flatten(1).sum(1) for w in weights if w.grad is not None]
    gates = (products[0] + products[1]).abs()
    stay = gates.topk(5).indices
    method = sk.methods.prospr_channel(0.4, inner_steps=0)
    model = sk.sparsify(model, method, batches=[(x, y)], loss=nn.functional.cross_entropy)
    for i in (0, 1):
        rows = model[i].topology.mask().flatten(1).any(1)
        assert rows.nonzero().flatten().tolist() == sorted(stay.tolist())
