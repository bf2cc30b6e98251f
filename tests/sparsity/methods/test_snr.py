"""SNR pruning: the ratio on numbers worked out by hand and by brute force, masks, holding, frozen weights."""

import copy
import math

import pytest
import torch
from support.networks import convnet
from support.trajectories import OPTIMIZERS, batches, make, network, prepare, step
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import sparsekern as sk
from sparsekern.sparsity.engine.draft import drafted
from sparsekern.sparsity.methods.snr import SignalToNoise
from sparsekern.sparsity.sites.layer_site import Companions
from sparsekern.sparsity.sites.master import MasterSite


def ratio(samples: list[float]) -> float:
    """snr of one weight whose per-sample gradients (of sums, not means) are given."""
    layer = sk.MaskedLinear(1, 1, bias=False, sparsity=0.0, dtype=torch.double, weight_gradient="moment")
    x = torch.tensor(samples, dtype=torch.double).unsqueeze(1)
    layer(x).mean().backward()
    r = torch.zeros(1, 1, dtype=torch.double)
    sk.ops.snr_update(r, layer.weight.grad, layer.moment, layer.samples, 0.0, True)
    return r.item()


def test_ratio_of_four_weights() -> None:
    assert ratio([1, 2, 3]) == pytest.approx(12)
    assert ratio([0, 2]) == pytest.approx(1)
    assert ratio([1, -1]) == 0
    assert ratio([0, 0]) == 0
    assert ratio([2, 2, 2]) == 1e6


def test_mean_ratio_of_gaussian_gradients() -> None:
    generator = torch.Generator().manual_seed(0)
    for batch, expected in ((8, 1.4), (12, 11 / 9)):
        g = torch.randn(batch, 400_000, generator=generator, dtype=torch.double) / batch
        r = torch.zeros(400_000, dtype=torch.double)
        sk.ops.snr_update(r, g.sum(0), g.square().sum(0), batch, 0.0, True)
        assert r.mean().item() == pytest.approx(expected, rel=0.02)


def per_sample(model: nn.Module, sites: list, x: Tensor, y: Tensor) -> list[tuple[Tensor, Tensor]]:
    """G and S of every site by single backward passes; the model has no batch norm."""
    weights = [site.module.stored for site in sites]
    losses = [cross_entropy(model(x[i : i + 1]), y[i : i + 1]) / len(x) for i in range(len(x))]
    shares = [torch.autograd.grad(loss, weights) for loss in losses]
    return [(sum(p), sum(s.square() for s in p)) for p in zip(*shares, strict=True)]  # type: ignore[misc]


@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_moving_average_equals_brute_force(kind: str) -> None:
    torch.manual_seed(0)
    plain = (
        network("linear")
        if kind == "linear"
        else nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1), nn.Tanh(), nn.Conv2d(6, 4, 1), nn.Tanh(), nn.Flatten(), nn.Linear(144, 5)
        ).double()
    )
    method = make("snr", burn_in=0, memory=0.5)
    model = sk.sparsify(plain, method, backend="sparse")
    optimizer = sk.Sparsifier(model, torch.optim.SGD(model.parameters(), lr=0.1), method)
    expected: list[Tensor] = []
    decay = 0.01 ** (1 / 10)
    for t, (x, y) in enumerate(batches(kind, 6)):
        twin = copy.deepcopy(model)
        masked = [m for m in twin.modules() if isinstance(m, sk.nn.MaskedLayer)]
        for layer in masked:
            layer.weight_gradient = "dense"
        moments = per_sample(twin, [type("S", (), {"module": m}) for m in masked], x, y)
        snr = [(g.square() * (len(x) - 1) / (len(x) * s - g.square()).clamp(min=0)).clamp(max=1e6) for g, s in moments]
        expected = snr if t == 0 else [decay * r + (1 - decay) * new for r, new in zip(expected, snr, strict=True)]
        step(model, optimizer, (x, y))
        for site, r in zip(optimizer.sites, expected, strict=True):
            torch.testing.assert_close(site.tracked["ratio"], r, rtol=1e-8, atol=1e-10)


def test_both_criteria_have_to_agree() -> None:
    layer = sk.MaskedLinear(4, 1, bias=False, sparsity=0.0)
    layer.weight.data.copy_(torch.tensor([[0.1, 0.2, 0.3, 0.4]]))
    site = MasterSite("layer", layer)
    site.tracked = {"ratio": torch.tensor([[2.0, 0.5, 0.5, 3.0]])}
    for criterion, expected in (
        ("both", [True, False, True, True]),
        ("snr", [True, False, False, True]),
        ("magnitude", [False, False, True, True]),
    ):
        rule = SignalToNoise(0.5, 1, criterion, "never", False)
        masks = rule.masks([site], 7, [])
        assert masks is not None
        assert masks[0][0].tolist() == expected
        assert site.facts == {"snr_sparsity": 0.5, "magnitude_sparsity": 0.5}


def test_memory_and_burn_in() -> None:
    method = sk.methods.snr(total_steps=5000, steps_per_epoch=100)
    assert method.rule.decay == pytest.approx(0.954993, abs=1e-6)
    assert method.rule.decay**100 == pytest.approx(0.01)
    assert [t for t in range(105) if method.when.fires(t)] == [101, 102, 103, 104]
    assert [t for t in range(300) if sk.methods.snr(total_steps=5000, steps_per_epoch=100, every=64).when.fires(t)] == [
        128, 192, 256,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("hold", "expected"), [("best", [0, 0, 1, 1, 0]), ("last", [0, 0, 1, 0, 0]), ("never", [0, 0, 0, 0, 0])]
)
def test_the_mask_rests_while_the_loss_is_above(hold: str, expected: list[int]) -> None:
    rule = SignalToNoise(0.5, 1, "both", hold, False)
    losses = [3, 2, 2.5, 2.1, 1.9]
    assert [int(rule.frozen(losses[: n + 1])) for n in range(5)] == expected
    model, optimizer = prepare("linear", "snr", OPTIMIZERS["momentum"])
    optimizer.engine.method = make("snr", burn_in=0, every=1, hold=hold)
    changed = []
    for epoch, loss in enumerate(losses):
        for batch in batches("linear", 5):
            optimizer.zero_grad()
            cross_entropy(model(batch[0]), batch[1]).backward()
            optimizer.step()
        optimizer.epoch_end(loss)
        before = [site.active.mask() for site in optimizer.sites]
        for site in optimizer.sites:
            site.tracked["ratio"].copy_(torch.rand_like(site.tracked["ratio"]) * 2)
        with drafted(optimizer.engine) as draft:
            draft.change()
        now = [site.active.mask() for site in optimizer.sites]
        changed.append(any(not torch.equal(a, b) for a, b in zip(before, now, strict=True)))
        assert optimizer.epochs == epoch + 1
    assert [not c for c in changed] == [bool(e) for e in expected]


def test_unpruning_while_the_mask_rests() -> None:
    _, optimizer = prepare("linear", "snr", OPTIMIZERS["momentum"])
    optimizer.engine.method = make("snr", burn_in=0, unprune=True)
    site = optimizer.sites[0]
    for low in (0.0, 1.5):
        site.tracked["ratio"].fill_(low)
        optimizer.engine.now.losses = [1.0]
        with drafted(optimizer.engine) as draft:
            draft.change()
        if low == 0.0:
            fewer = site.nnz
            assert fewer < site.size
    assert site.nnz == site.size
    optimizer.engine.now.losses = [1.0]
    site.tracked["ratio"].fill_(0.0)
    with drafted(optimizer.engine) as draft:
        draft.change()
    site.tracked["ratio"].view(-1)[:5] = 2.0
    optimizer.engine.now.losses = [1.0, 2.0]
    mask = site.active.mask()
    with drafted(optimizer.engine) as draft:
        draft.change()
    assert (site.active.mask() | ~mask).all()


def test_the_loss_of_every_epoch_is_asked_for() -> None:
    model, optimizer = prepare("linear", "snr", OPTIMIZERS["sgd"])
    for t, (x, y) in enumerate(batches("linear", 10)):
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        if t < 9:
            optimizer.step()
    with pytest.raises(RuntimeError, match=r"call epoch_end\(train_loss\) after each 5 steps"):
        optimizer.step()


@pytest.mark.parametrize("scale", ["clip", "scaler", "accumulate"])
def test_clipping_scaling_and_accumulation_leave_the_ratio(scale: str) -> None:
    ratios = []
    for changed in (False, True):
        model, optimizer = prepare("conv", "snr", OPTIMIZERS["sgd"])
        for module in model.modules():  # whose statistics would differ between halves of a batch
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        x, y = batches("conv")[0]
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, enabled=changed and scale == "scaler")
        parts = 2 if changed and scale == "accumulate" else 1
        for part, target in zip(x.chunk(parts), y.chunk(parts), strict=True):
            scaler.scale(cross_entropy(model(part), target) / parts).backward()
        if changed and scale == "clip":
            nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
        scaler.step(optimizer)
        ratios.append([site.tracked["ratio"].clone() for site in optimizer.sites])
    for a, b in zip(*ratios, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", ["snr", "snr_frozen"])
def test_what_a_skipped_step_recorded_is_gone_however_its_gradient_is_cleared(name: str) -> None:
    ratios = []
    for skips in (False, True):
        model, optimizer = prepare("linear", name, OPTIMIZERS["sgd"])
        for t, (x, y) in enumerate(batches("linear", 3)):
            if skips and t == 1:
                (cross_entropy(model(x), y) * math.inf).backward()
                model.zero_grad()
            cross_entropy(model(x), y).backward()
            optimizer.step()
            model.zero_grad()
        ratios.append([site.tracked["ratio"] for site in optimizer.sites])
    assert all(torch.equal(a, b) for a, b in zip(*ratios, strict=True))


def test_ratio_of_a_wide_layer_in_bfloat16() -> None:
    x, y, ratios = torch.randn(16, 600, generator=torch.Generator().manual_seed(0)).bfloat16(), torch.arange(16) % 5, []
    for dtype in (torch.float32, torch.bfloat16):
        torch.manual_seed(0)
        plain = nn.Sequential(nn.Linear(600, 30), nn.Tanh(), nn.Linear(30, 5)).to(torch.bfloat16).to(dtype)
        model = sk.sparsify(plain, make("snr"))
        optimizer = sk.Sparsifier(model, torch.optim.SGD(model.parameters(), lr=0.1), make("snr"))
        cross_entropy(model(x.to(dtype)).float(), y).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
        optimizer.step()
        ratios.append(optimizer.sites[0].tracked["ratio"])
    assert ((ratios[0] - ratios[1]).abs() < 0.1 * ratios[0] + 0.05).float().mean() > 0.95


def test_a_batch_of_one_is_refused() -> None:
    model, optimizer = prepare("linear", "snr", OPTIMIZERS["sgd"])
    x, y = batches("linear")[0]
    cross_entropy(model(x[:1]), y[:1]).backward()
    with pytest.raises(ValueError, match="2 or more samples"):
        optimizer.step()


def remask(optimizer: sk.Sparsifier, number: int, mask: torch.Tensor) -> None:
    """Gives the layer of this number a mask."""
    with drafted(optimizer.engine) as draft:
        draft.begin()
        site, along = draft.now.sites[number], Companions(draft.transaction, draft.states, [])
        site.remask(mask, int(mask.sum()), int(site.shared(mask)), site.size, along)


def test_frozen_weights_rest_with_their_state_and_return_with_it() -> None:
    model, optimizer = prepare("conv", "snr_frozen", OPTIMIZERS["amsgrad"])
    data = batches("conv")
    for batch in data[:5]:
        step(model, optimizer, batch)
    site = optimizer.sites[1]
    generator = torch.Generator().manual_seed(0)
    drop = torch.rand(site.shape, generator=generator) < 0.5
    state = optimizer.state[site.module.values]
    before = {key: site.active.dense(value) for key, value in state.items() if value.dim()}
    weight = site.weight.clone()
    remask(optimizer, 1, ~drop)
    assert site.nnz == int((~drop).sum())
    optimizer.engine.method = make("snr_frozen", burn_in=100)
    ratio_before = site.tracked["ratio"].clone()
    for batch in data[5:9]:
        step(model, optimizer, batch)
    assert (site.tracked["ratio"] != ratio_before)[drop].float().mean() > 0.9
    assert torch.equal(site.weight[drop], weight[drop])
    assert (site.weight != weight)[~drop].all()
    every = torch.ones(site.shape, dtype=torch.bool)
    remask(optimizer, 1, every)
    assert torch.equal(site.active.dense(site.module.values.detach())[drop], weight[drop])
    for key, value in before.items():
        now = site.active.dense(optimizer.state[site.module.values][key])
        assert torch.equal(now[drop], value[drop])
        assert (now != value)[~drop].any()


def test_sparsity_emerges_and_says_so() -> None:
    method = sk.methods.snr(sparsity=0.9, total_steps=100, steps_per_epoch=10, refresh=2)
    assert "emerges" in method.notes[0]
    assert "refreshed every 2 steps" in method.notes[1]
    assert [method.rule.gradient(t) for t in (4, 5)] == ["moment", "dense"]
    for options, message in (
        ({"criterion": "size"}, "criterion must be one of both, snr, magnitude"),
        ({"hold": "yes"}, "hold must be one of best, last, never"),
        ({"memory": 0.0}, "memory must be a fraction"),
        ({"burn_in": -1}, "burn_in must be at least 0"),
    ):
        with pytest.raises(ValueError, match=message):
            sk.methods.snr(total_steps=100, steps_per_epoch=10, **options)
    names = [s.name for s in prepare("conv", "snr", OPTIMIZERS["sgd"])[1].sites]
    assert names == ["0", "3", "6", "7"]
    assert math.isclose(method.rule.decay, 0.01**0.5)
    everything = sk.sparsify(convnet(), make("snr", include_classifier=True))
    assert sum(isinstance(m, sk.nn.MaskedLayer) for m in everything.modules()) == 5


@pytest.mark.parametrize("backend", ["sparse", "masked"])
def test_rounding_does_not_decide_on_weights_that_one_sample_moves(backend: str) -> None:
    torch.manual_seed(0)
    method = sk.methods.snr(total_steps=1, steps_per_epoch=1, burn_in=0, hold="never", criterion="snr")
    model = sk.sparsify(nn.Sequential(nn.Linear(4, 400), nn.Linear(400, 3)), method, backend=backend)
    optimizer = sk.Sparsifier(model, torch.optim.SGD(model.parameters(), lr=0.1), method)
    x = torch.randn(32, 4)
    x[1:, 0] = 0
    cross_entropy(model(x), torch.randint(3, (32,))).backward()
    optimizer.step()
    mask, ratio = optimizer.sites[0].active.mask(), optimizer.sites[0].tracked["ratio"]
    assert torch.allclose(ratio[:, 0], torch.ones(400), rtol=1e-5)
    assert not mask[:, 0].any()
    assert torch.equal(mask[:, 1:], ratio[:, 1:] > 1)
