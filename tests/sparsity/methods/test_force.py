"""SNIP over several batches and in rounds, against plain copies of the network."""

import copy
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import sparsekern as sk
from sparsekern.nn import prunable_layers
from sparsekern.topology import nnz_at

Batch = tuple[Tensor, Tensor]


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 5, 3, padding=1), nn.BatchNorm2d(5), nn.ReLU(), nn.Flatten(), nn.Linear(80, 3)
    ).double()


def data() -> list[Batch]:
    torch.manual_seed(1)
    return [(torch.randn(6, 2, 4, 4, dtype=torch.double), torch.randint(3, (6,))) for _ in range(2)]


def masks(name: str, sparsity: float, **options: object) -> Tensor:
    method = sk.methods.get(name)(sparsity=sparsity, **options)
    model = sk.sparsify(network(), method, batches=data(), loss=cross_entropy)
    return torch.cat([layer.topology.mask().flatten() for layer in prunable_layers(model).values()])


def by_hand(sparsity: float, rounds: int, returning: bool) -> list[Tensor]:
    """The mask after each round."""
    original = network()
    start = torch.cat([original[i].weight.detach().flatten() for i in (0, 4)])
    keep, found = torch.ones_like(start, dtype=torch.bool), []
    for i in range(1, rounds + 1):
        model = copy.deepcopy(original).train()
        weights = [model[0].weight, model[4].weight]
        with torch.no_grad():
            for weight, mask in zip(weights, keep.split([w.numel() for w in weights]), strict=True):
                weight.mul_(mask.view_as(weight))
        sum(cross_entropy(model(x), y) for x, y in data()).backward()
        score = (start * torch.cat([w.grad.flatten() for w in weights])).abs()
        if not returning:
            score[~keep] = -1
        left = nnz_at(sparsity, start.numel()) / start.numel()
        keep = torch.zeros_like(keep)
        keep[score.topk(nnz_at(1 - left ** (i / rounds), start.numel())).indices] = True
        found.append(keep)
    return found


@pytest.mark.parametrize("rounds", [2, 4])
@pytest.mark.parametrize("name", ["iter_snip", "force"])
def test_rounds_against_masked_copies(name: str, rounds: int) -> None:
    expected = by_hand(0.9, rounds, returning=name == "force")
    assert torch.equal(masks(name, 0.9, rounds=rounds), expected[-1])
    returned = [bool((later & ~earlier).any()) for earlier, later in pairwise(expected)]
    assert any(returned) == (name == "force")


@pytest.mark.parametrize("name", ["iter_snip", "force", "snip_mb"])
def test_one_round_is_snip(name: str) -> None:
    options = {"batches": 2} if name == "snip_mb" else {"rounds": 1}
    assert torch.equal(masks(name, 0.8, **options), masks("snip", 0.8))
    assert torch.equal(masks(name, 0.8, **options), by_hand(0.8, 1, returning=True)[0])


def test_snip_mb_asks_for_its_batches() -> None:
    assert sk.methods.snip_mb(sparsity=0.5).start.batches == 40
    with pytest.raises(ValueError, match="snip_mb scores on 40 or more batches"):
        masks("snip_mb", 0.5)
