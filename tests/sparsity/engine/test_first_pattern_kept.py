"""The first pattern, which a report compares the present one with, takes little memory, and none before a change."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sparsekern as sk
from sparsekern.sparsity.sites.entries import Entries
from sparsekern.topology import Topology

SHAPES = {"a bitmask": ((30, 70), 300), "16 bits": ((300, 640), 4_000), "32 bits": ((3, 70_000), 900)}


def started() -> tuple[nn.Module, sk.Sparsifier]:
    torch.manual_seed(0)
    method = sk.methods.set(sparsity=0.9, total_steps=100, every=5)
    model = sk.sparsify(nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10)), method)
    return model, sk.Sparsifier(model, torch.optim.SGD(model.parameters(), lr=0.1), method)


def train(model: nn.Module, optimizer: sk.Sparsifier, steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(8, 64)).square().mean().backward()
        optimizer.step()


def masks(optimizer: sk.Sparsifier) -> list[Tensor]:
    return [site.active.mask() for site in optimizer.sites]


@pytest.mark.parametrize("form", SHAPES)
def test_every_form_holds_the_entries(form: str) -> None:
    shape, nnz = SHAPES[form]
    first, active = Topology.random(shape, nnz), Topology.random(shape, nnz // 2)
    entries: Any = Entries.of(first)
    assert {torch.int64: "a bitmask", torch.uint16: "16 bits", torch.int32: "32 bits"}[entries.columns.dtype] == form
    row_ptr, col = entries.csr()
    assert torch.equal(row_ptr, first.row_ptr)
    assert torch.equal(col, first.col)
    assert entries.shared_with(active) == (nnz, int((first.mask() & active.mask()).sum()))
    assert sum(tensor.nbytes for tensor in entries.tensors) <= (4 if form == "32 bits" else 2) * nnz + row_ptr.nbytes


def test_all_entries_take_no_memory() -> None:
    entries = Entries.of(Topology.from_mask(torch.ones(5, 7, dtype=torch.bool)))
    assert entries.csr() is None
    assert entries.tensors == []
    assert entries.shared_with(Topology.random((5, 7), 11)) == (35, 11)


def test_nothing_is_kept_before_a_change_and_the_overlap_is_right_after_it() -> None:
    model, optimizer = started()
    layers, first = [site.module for site in optimizer.sites], masks(optimizer)
    train(model, optimizer, 4)
    assert [optimizer.kept_bytes(layer) for layer in layers] == [0, 0]
    assert [site.iou_first() for site in optimizer.sites] == [1, 1]
    train(model, optimizer, 30)
    for site, layer, was in zip(optimizer.sites, layers, first, strict=True):
        now = site.active.mask()
        assert site.iou_first() == int((now & was).sum()) / int((now | was).sum()) < 1
        assert 0 < optimizer.kept_bytes(layer) <= 2 * site.nnz + site.active.row_ptr.nbytes


@pytest.mark.parametrize("steps", [3, 17])
def test_a_resumed_run_keeps_as_much(steps: int) -> None:
    model, optimizer = started()
    train(model, optimizer, steps)
    again, other = started()
    again.load_state_dict(model.state_dict())
    other.load_state_dict(optimizer.state_dict())
    for site, resumed in zip(optimizer.sites, other.sites, strict=True):
        assert resumed.iou_first() == site.iou_first()
        assert other.kept_bytes(resumed.module) == optimizer.kept_bytes(site.module)


def test_states_of_older_versions_hold_it_too() -> None:
    model, optimizer = started()
    train(model, optimizer, 17)
    state = optimizer.state_dict()
    for site in state["sites"].values():
        del site["unchanged"]
    again, other = started()
    again.load_state_dict(model.state_dict())
    other.load_state_dict(state)
    assert [site.iou_first() for site in other.sites] == [site.iou_first() for site in optimizer.sites]
