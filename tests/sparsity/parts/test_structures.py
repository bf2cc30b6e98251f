"""Patterns by N of every M inputs, by blocks, and with as many weights in every row."""

import copy
from typing import Any

import pytest
import torch
from support.trajectories import OPTIMIZERS, batches, make, network, step
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import sparsekern as sk
from sparsekern.sparsity.methods.registry import ALL, names
from sparsekern.sparsity.parts.structures import by_name
from sparsekern.topology import nnz_at

ALLOWED = [name for name in names() if sk.methods.describe(name)["structures"] == ALL]


def model(kind: str) -> nn.Sequential:
    torch.manual_seed(0)
    if kind == "conv":
        layers = [nn.Conv2d(4, 8, 3, padding=1), nn.Tanh(), nn.Conv2d(8, 4, 3), nn.Flatten(), nn.Linear(64, 4)]
    else:
        layers = [nn.Linear(12, 20), nn.Tanh(), nn.Linear(20, 16), nn.Tanh(), nn.Linear(16, 4)]
    return nn.Sequential(*layers).double()


def data(kind: str, n: int = 20) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(5)
    shape = (4, 6, 6) if kind == "conv" else (12,)
    return [
        (x, x.flatten(1)[:, :4].argmax(1)) for x in torch.randn(n, 8, *shape, generator=generator, dtype=torch.double)
    ]


def neighbours(mask: Tensor, m: int) -> Tensor:
    """How many weights each group of m inputs has, of every output and position of the kernel."""
    return mask.reshape(len(mask), mask.shape[1] // m, m, -1).sum(2)


def run(name: str, structure: str, sparsity: float, kind: str, **options: Any) -> tuple[nn.Module, sk.Sparsifier]:
    own = make(name, structure=structure, sparsity=sparsity, **options)
    batch = data(kind, 4)
    net = sk.sparsify(model(kind), own, batches=batch, loss=cross_entropy, include="*")
    return net, sk.Sparsifier(net, OPTIMIZERS["adam"](net.parameters()), own)


@pytest.mark.parametrize("kind", ["linear", "conv"])
@pytest.mark.parametrize("name", ALLOWED)
@pytest.mark.parametrize("structure", ["2:4", "1:4", "4x2", "1x4", "fan_in"])
def test_patterns_have_their_structure(name: str, structure: str, kind: str) -> None:
    """Also on the way there, and exactly as many weights as the structure allows."""
    sparsity = {"2:4": 0.5, "1:4": 0.75}.get(structure, 0.7)
    net, sparsifier = run(name, structure, sparsity, kind)
    for batch in data(kind):
        step(net, sparsifier, batch)
        for site in sparsifier.sites:
            mask = site.active.mask()
            if ":" in structure:
                assert len(neighbours(mask, 4).unique()) == 1
            elif structure == "fan_in":
                assert len(mask.flatten(1).sum(1).unique()) == 1
            else:
                rows, cols = map(int, structure.split("x"))
                blocks = mask.reshape(len(mask) // rows, rows, mask.shape[1] // cols, cols, -1)
                assert torch.equal(blocks.amax((1, 3)), blocks.amin((1, 3)))
    sizes = [site.size for site in sparsifier.sites]
    nnz = [site.nnz for site in sparsifier.sites]
    if ":" in structure:
        assert nnz == [int(size * (1 - sparsity)) for size in sizes]
    elif structure == "fan_in":
        assert all(
            abs(n - 0.3 * size) <= site.shape[0] / 2 for n, size, site in zip(nnz, sizes, sparsifier.sites, strict=True)
        )
    else:
        block = int(structure[0]) * int(structure[2])
        assert sum(nnz) == block * nnz_at(sparsity, sum(sizes) // block)


@pytest.mark.parametrize("kind", ["linear", "conv"])
@pytest.mark.parametrize("name", ["magnitude_init", "snip", "dpf", "dnw"])
def test_what_scores_highest_stays(name: str, kind: str) -> None:
    """The best two of every four, by a sort of each group; the blocks of the largest sums."""
    net, sparsifier = run(name, "2:4", 0.5, kind)
    dense = model(kind)
    weights = [layer.weight for layer in dense if isinstance(layer, (nn.Linear, nn.Conv2d))]
    scores = [weight.detach().abs() for weight in weights]
    if name == "snip":
        losses = [cross_entropy(dense(x), y) for x, y in data(kind, 4)]
        gradients = torch.autograd.grad(sum(losses) / 4, weights)  # type: ignore[arg-type]
        scores = [(weight * g).detach().abs() for weight, g in zip(weights, gradients, strict=True)]
    masks: list[Tensor] = []
    if sparsifier.method.storage == "master":
        for batch in data(kind):
            step(net, sparsifier, batch)
            if sparsifier.rewired and not sparsifier.settled and sparsifier.method.sparsity(sparsifier.steps) == 0.5:
                scores = [site.weight.abs() for site in sparsifier.sites]
                masks = [site.active.mask() for site in sparsifier.sites]
    else:
        masks = [site.active.mask() for site in sparsifier.sites]
    for score, mask in zip(scores, masks, strict=True):
        groups = score.movedim(1, -1).reshape(-1, 4)
        best = groups >= groups.sort(dim=1, descending=True).values[:, 1:2]
        assert torch.equal(mask.movedim(1, -1).reshape(-1, 4), best)


def test_blocks_of_the_largest_sums_over_the_network_and_by_layer() -> None:
    weight = [layer.weight.detach() for layer in model("linear") if isinstance(layer, nn.Linear)]
    sums = [w.abs().reshape(len(w) // 4, 4, w.shape[1] // 2, 2).sum((1, 3)) for w in weight]
    _, whole = run("magnitude_init", "4x2", 0.7, "linear")
    flat = torch.cat([s.flatten() for s in sums])
    least = flat.sort(descending=True).values[nnz_at(0.7, len(flat)) - 1]
    for site, own in zip(whole.sites, sums, strict=True):
        assert torch.equal(site.active.mask()[::4, ::2], own >= least)


@pytest.mark.parametrize("name", ["rigl", "set"])
@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_constant_fan_in_while_weights_move(name: str, kind: str) -> None:
    net, sparsifier = run(name, "fan_in", 0.7, kind)
    fan_in = [site.active.row_ptr.diff() for site in sparsifier.sites]
    assert all(len(rows.unique()) == 1 for rows in fan_in)
    moved = 0
    for batch in data(kind):
        step(net, sparsifier, batch)
        assert all(
            torch.equal(site.active.row_ptr.diff(), rows) for site, rows in zip(sparsifier.sites, fan_in, strict=True)
        )
        moved += sparsifier.rewired
    assert moved >= 2


def test_srigl_grows_the_largest_gradients_of_each_row() -> None:
    """Without ablation: the smallest magnitudes of the layer go, every row is filled up again; checked by loops."""
    net, sparsifier = run("rigl", "fan_in", 0.7, "linear", every=1)
    dense = sk.densify(copy.deepcopy(net))
    x, y = data("linear")[0]
    step(net, sparsifier, (x, y))  # the first change comes after step 1
    dense = sk.densify(copy.deepcopy(net))
    masks = [site.active.mask() for site in sparsifier.sites]
    x, y = data("linear")[1]
    cross_entropy(dense(x), y).backward()
    step(net, sparsifier, (x, y))
    rate = sparsifier.method.grow.rate(1)  # type: ignore[union-attr]
    for site, mask in zip(sparsifier.sites, masks, strict=True):
        layer = dense.get_submodule(site.name)
        weight, gradient = layer.weight.detach(), layer.weight.grad.abs()  # type: ignore[union-attr]
        active = mask.nonzero().tolist()
        active.sort(key=lambda place: float(weight[tuple(place)].abs()))
        stays = mask.clone()
        for place in active[: int(rate * len(active) + 1e-9)]:
            stays[tuple(place)] = False
        for row in range(len(mask)):
            for _ in range(int(mask[row].sum() - stays[row].sum())):
                best = gradient[row].masked_fill(stays[row], -1).argmax()
                stays[row, best] = True
        assert torch.equal(site.active.mask(), stays)


@pytest.mark.parametrize(
    ("make_it", "message"),
    [
        (lambda: sk.methods.random(0.9, structure="2:4"), "2:4 is a sparsity of 0.5, but random has 0.9"),
        (lambda: sk.methods.random(0.5, structure="4:2"), 'structure must be N:M \\("2:4"\\), blocks'),
        (lambda: sk.methods.set(0.5, 30, 3, structure="2:4"), "set of these options does not grow weights by 2:4"),
        (lambda: sk.methods.set(0.5, 30, 3, structure="fan_in", scope="global"), "does not grow weights by fan_in"),
        (lambda: sk.sparsify(nn.Sequential(nn.Linear(6, 4)), sk.methods.random(0.5, structure="2:4")),
         "0: 2:4 does not divide its 6 inputs; leave it dense"),
        (lambda: sk.sparsify(nn.Conv2d(3, 8, 3), sk.methods.random(0.5, structure="4x4")),
         "the layer: blocks of 4x4 do not divide its 8 outputs and 3 inputs"),
    ],
)  # fmt: skip
def test_what_is_refused(make_it: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_it()


def test_scores_that_are_equal_or_nan() -> None:
    structure = by_name("2:4")
    assert structure.marks(torch.ones(1, 8), 4).tolist() == [[True, True, False, False] * 2]  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="NaN"):
        structure.marks(torch.full((1, 4), torch.nan), 2)


def test_a_network_with_layers_of_its_own_structure() -> None:
    """By overrides: 2:4 where the hardware multiplies it, anything elsewhere."""
    net = sk.sparsify(network("linear"), 0.8, overrides={"0": sk.methods.random(0.5, structure="2:4")})
    assert set(neighbours(net[0].topology.mask(), 4).flatten().tolist()) == {2}
    assert len(batches("linear", 1)) == 1
