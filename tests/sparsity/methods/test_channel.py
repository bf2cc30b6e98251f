"""Channels that are taken out before training: their saliency, what they cost, and what `shrink` makes of them."""

import copy

import pytest
import torch
from support.residual import READERS, TIED, Batch, living, residual, samples
from support.trajectories import CHANNELS
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

import sparsekern as sk
from sparsekern.models import build
from sparsekern.nn import channel_groups, prunable_layers

SIZES = [6, 8, 7, 9]


def prune(name: str, sparsity: float, model: nn.Module | None = None, **options: object) -> nn.Module:
    model = residual() if model is None else model
    method = sk.methods.get(name)(sparsity=sparsity, **options)
    return sk.sparsify(model, method, batches=samples(), loss=cross_entropy)


def gate_gradients(model: nn.Module, batches: list[Batch]) -> list[Tensor]:
    """dL/dc of gates c = 1 that multiply what the readers of each group read, the mean over the batches."""
    model = copy.deepcopy(model).train()
    gates = [torch.ones(size, 1, 1, dtype=torch.double, requires_grad=True) for size in SIZES]
    for gate, readers in zip(gates, READERS, strict=True):
        for name in readers:
            model.get_submodule(name).register_forward_pre_hook(lambda _, inputs, gate=gate: inputs[0] * gate)
    flat = gates[3].expand(9, 2, 2).flatten()
    model.get_submodule("head").register_forward_pre_hook(lambda _, inputs: inputs[0] * flat)
    losses = [cross_entropy(model(x), y) for x, y in batches]
    return [gradient.flatten() for gradient in torch.autograd.grad(sum(losses) / len(batches), gates)]  # type: ignore


def operations(model: nn.Module, x: Tensor) -> int:
    with FlopCounterMode(display=False) as counter:
        model.eval()(x)
    return counter.get_total_flops() // 2


def costs(x: Tensor) -> list[int]:
    """How many multiplications less there are for each group when its first channel is gone."""
    found = []
    for writers, readers in zip(TIED, READERS, strict=True):
        model = residual()
        with torch.no_grad():
            for name in writers:
                model.get_submodule(name).weight[0] = 0
            for name in readers:
                model.get_submodule(name).weight[:, 0] = 0
            if not readers:
                model.get_submodule("head").weight[:, :4] = 0
        found.append(operations(residual(), x) - operations(sk.shrink(model, x), x))
    return found


def test_three_sp_keeps_the_highest_saliency_per_operation() -> None:
    gradients, x = gate_gradients(residual(), samples()), samples()[0][0][:1]
    assert len({*costs(x)}) == 4
    scores = torch.cat([g.abs() / cost for g, cost in zip(gradients, costs(x), strict=True)])
    pruned = prune("three_sp", 0.4)
    assert torch.equal(torch.cat(living(pruned)), scores >= scores.topk(18).values[-1])
    plain = torch.cat([g.abs() for g in gradients])
    assert not torch.equal(torch.cat(living(pruned)), plain >= plain.topk(18).values[-1])


@pytest.mark.parametrize("variant", ["plain", "reinit", "rescale"])
def test_weights_that_three_sp_trains(variant: str) -> None:
    torch.manual_seed(0)
    before, pruned = residual(), prune("three_sp", 0.4, variant=variant)
    for name, layer in prunable_layers(pruned).items():
        mask, weight = layer.topology.mask(), layer.weight.detach()
        fan_in = mask.flatten(1).sum(1).clamp(min=1).view(-1, *[1] * (mask.dim() - 1))
        old = before.get_submodule(name).weight.detach() * mask
        if variant == "plain":
            assert torch.equal(weight, old)
        elif variant == "rescale":
            torch.testing.assert_close(weight, old * (mask[0].numel() / fan_in).sqrt())
        else:
            share = (weight.abs() / (6 / fan_in).sqrt())[mask]
            assert 0.8 < share.max() <= 1
            assert share.mean() == pytest.approx(0.5, abs=0.2)
    for names, alive in zip(TIED, living(pruned), strict=True):
        for name in names:
            bias = pruned.get_submodule(name).bias
            assert bias is None or not bias[~alive].any()


def test_random_channel_takes_as_much_from_every_group() -> None:
    masks, x = [], samples()[0][0]
    for seed in (0, 0, 1):
        model = residual()
        torch.manual_seed(seed)
        method = sk.methods.random_channel(sparsity=0.4)
        sk.sparsify(model, method, batches=[(x, None)])  # type: ignore[list-item]
        assert sum(int(alive.sum()) for alive in living(model)) == 18
        assert all(abs(int(a.sum()) - 0.6 * size) < 1 for a, size in zip(living(model), SIZES, strict=True))
        masks.append(torch.cat(living(model)))
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])


@pytest.mark.parametrize("name", CHANNELS)
def test_the_least_number_of_channels(name: str) -> None:
    for minimum in (1, 2, 3):
        pruned = prune(name, 0.6, min_per_layer=minimum)
        assert min(int(alive.sum()) for alive in living(pruned)) >= minimum
        assert sum(int(alive.sum()) for alive in living(pruned)) == 12
    with pytest.raises(ValueError, match=r"min_per_layer=4 keeps 16 of 30 channels in 4 groups.* is to leave 12"):
        prune(name, 0.6, min_per_layer=4)
    assert all(alive.all() for alive in living(prune(name, 0.0)))


def test_refuses() -> None:
    with pytest.raises(ValueError, match="variant must be one of plain, reinit, rescale, got 'new'"):
        sk.methods.three_sp(sparsity=0.5, variant="new")  # type: ignore[arg-type]


@pytest.mark.parametrize(("network", "width"), [("resnet20", 0.5), ("vgg16-quarter", 0.5)])
@pytest.mark.parametrize("name", CHANNELS)
def test_shrink_takes_the_channels_out(name: str, network: str, width: float) -> None:
    torch.manual_seed(0)
    batches, x = samples(2, 8, (3, 32, 32)), samples(1, 3, (3, 32, 32))[0][0]
    model = build(network, (3, 32, 32), 5, width).double()
    gates = sum(group.size for group in channel_groups(model, x) if not group.pinned)
    before = sum(p.numel() for p in model.parameters())
    options = {"inner_steps": 1} if name == "prospr_channel" else {}
    method = sk.methods.get(name)(sparsity=0.4, min_per_layer=1, **options)
    sk.sparsify(model, method, batches=batches, loss=cross_entropy)
    optimizer = sk.Sparsifier(model, torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1), method)
    for trained in (False, True):
        small = sk.shrink(model, x).eval()
        with torch.no_grad():
            torch.testing.assert_close(small(x), model.eval()(x))
        groups = [group for group in channel_groups(small, x) if not group.pinned]
        assert sum(group.size for group in groups) == gates - int(0.4 * gates)
        sparse = sum(layer.topology.nnz for layer in prunable_layers(model).values())
        assert sparse == sum(layer.weight.numel() for layer in prunable_layers(small).values()) < 0.8 * before
        if not trained:
            model.train()
            for batch, target in batches:
                optimizer.zero_grad()
                cross_entropy(model(batch), target).backward()
                optimizer.step()


@pytest.mark.parametrize(("network", "width"), [("resnet20", 0.5), ("vgg16-quarter", 0.5)])
def test_shrink_takes_the_filters_of_dpf_out(network: str, width: float) -> None:
    torch.manual_seed(0)
    method = sk.methods.dpf_filter(sparsity=0.4, total_steps=2, steps_per_epoch=1, every=1, min_per_layer=1)
    model = sk.sparsify(build(network, (3, 32, 32), 5, width).double(), method)
    optimizer = sk.Sparsifier(model, torch.optim.SGD(model.parameters(), lr=0.05), method)
    for x, y in samples(2, 8, (3, 32, 32)):
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        optimizer.step()
    filters = sum(site.shape[0] for site in optimizer.sites)
    assert sum(int((site.active.row_ptr.diff() > 0).sum()) for site in optimizer.sites) == filters - int(0.4 * filters)
    small = sk.shrink(model, x).eval()
    with torch.no_grad():
        torch.testing.assert_close(small(x), model.eval()(x))
    assert sum(p.numel() for p in small.parameters()) < 0.8 * sum(p.numel() for p in model.parameters())
