"""Every method trains on another device than the CPU, makes the same of the same there, and waits for that device only
when a pattern changes."""

from typing import Any

import pytest
import torch
from support import trajectories
from support.elsewhere import DEVICE, KIND, Elsewhere, elsewhere
from torch import Tensor, nn

import sparsekern as sk
from sparsekern.nn.embedding import MaskedEmbedding, SparseEmbedding


def run(kind: str, name: str, device: str | torch.device) -> tuple[dict[str, Tensor], list[list[str]]]:
    """Final state, and what waited for the device in every step whose pattern stays; in every step of a method that
    lets none stay."""
    torch.manual_seed(3)
    method = trajectories.make(name)
    with elsewhere() as waited:
        data = [(x.to(device), y.to(device)) for x, y in trajectories.batches(kind)]
        scored: dict[str, Any] = {"batches": data[:4], "loss": nn.functional.cross_entropy}
        model = sk.sparsify(trajectories.network(kind).to(device), method, backend="sparse", **scored)
        inner = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        optimizer = sk.Sparsifier(model, inner, method, **scored)
        waits = []
        for x, y in data:
            waited.clear()
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            changed = method.when.fires(optimizer.steps - (method.order != "before"))
            if not changed or name in RESTLESS:
                waits.append(list(waited))
            if optimizer.steps % trajectories.EPOCH == 0:
                optimizer.epoch_end(loss.item())
        optimizer.report()
        state = {key: value.to("cpu") for key, value in model.state_dict().items()}
    return state, waits


# Methods that change a pattern in every step, and how often all layers together wait for the device in it.
RESTLESS = {"deepr": 2, "dnw": 1, "str": 1}
# Second derivatives of a convolution are made in C++ of tensors that the stand-in does not see.
CURVED = ("grasp", "grasp_abs", "grasp_magnitude", "prospr", "prospr_channel")
CASES = [(n, kind) for n in trajectories.NAMES for kind in trajectories.KINDS if kind == "linear" or n not in CURVED]


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_every_method_trains_elsewhere(name: str, kind: str) -> None:
    here, there = run(kind, name, "cpu"), run(kind, name, DEVICE)
    assert all(torch.equal(there[0][key], here[0][key]) for key in here[0])
    assert there[1]
    assert max(map(len, there[1])) <= RESTLESS.get(name, 0), there[1]


# The numbers of weights that are dropped and grown are known beforehand, or those of all layers are asked for at once.
CHANGES = {"set": 0, "gmp": 0, "rigl": 1, "gse_grabo": 1, "dpf": 1, "granet": 3}


@pytest.mark.parametrize(("name", "often"), CHANGES.items())
def test_layers_do_not_wait_by_themselves_when_they_change(name: str, often: int) -> None:
    method = trajectories.make(name)
    with elsewhere() as waited:
        data = [(x.to(DEVICE), y.to(DEVICE)) for x, y in trajectories.batches("linear", 8)]
        model = sk.sparsify(trajectories.network("linear").to(DEVICE), method, backend="sparse")
        optimizer = sk.Sparsifier(model, torch.optim.SGD(model.parameters(), lr=0.05), method)
        changed = 0
        for x, y in data:
            waited.clear()
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            if optimizer.rewired:
                assert waited == ["tolist"] * often
                changed += 1
        assert changed


@pytest.mark.parametrize("altered", [False, True])
def test_a_gradient_that_its_moment_is_not_of_is_refused_with_the_next_pattern(altered: bool) -> None:
    method = sk.methods.snr(total_steps=20, steps_per_epoch=3, every=2)
    with elsewhere():
        (x, y), *_ = [(x.to(DEVICE), y.to(DEVICE)) for x, y in trajectories.batches("linear", 1)]
        model = sk.sparsify(trajectories.network("linear").to(DEVICE), method, backend="sparse")
        optimizer = sk.Sparsifier(model, torch.optim.SGD(model.parameters(), lr=0.05), method)

        def step() -> None:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            for parameter in model.parameters():
                parameter.grad.clamp_(-1e-3, 1e-3) if altered else parameter.grad.mul_(0.5)  # type: ignore[union-attr]
            optimizer.step()

        for _ in range(3):
            step()
        optimizer.epoch_end(1.0)
        if altered:
            with pytest.raises(RuntimeError, match="is not a multiple of the gradient"):
                step()
        else:
            step()


def test_the_device_insists() -> None:
    with elsewhere():
        x = torch.ones(3, device=DEVICE)
        assert isinstance(x + 1, Elsewhere)
        assert (x + 1).device.type == KIND
        with pytest.raises(RuntimeError, match="one device"):
            _ = x + torch.ones(3)
        with pytest.raises(RuntimeError, match="generator"):
            torch.rand(3, device=DEVICE, generator=torch.Generator())
        assert torch.equal((2 * x).to("cpu"), torch.full((3,), 2.0))


@pytest.mark.parametrize(
    "make",
    [
        lambda **options: sk.SparseLinear(12, 8, sparsity=0.5, **options),
        lambda **options: sk.MaskedLinear(12, 8, sparsity=0.5, **options),
        lambda **options: sk.MaskedConv2d(3, 8, 3, sparsity=0.5, **options),
        lambda **options: SparseEmbedding(9, 4, sparsity=0.5, padding_idx=2, **options),
        lambda **options: MaskedEmbedding(9, 4, sparsity=0.5, padding_idx=2, **options),
    ],
)
def test_a_generator_draws_the_same_wherever_the_layer_is(make: Any) -> None:
    here = make(generator=torch.Generator().manual_seed(1)).state_dict()
    with elsewhere():
        there = make(generator=torch.Generator().manual_seed(1), device=DEVICE).state_dict()
        there = {key: value.to("cpu") for key, value in there.items()}
    assert here.keys() == there.keys()
    assert all(torch.equal(here[key], there[key]) for key in here if key != "bias")


def test_counts_of_tensors_on_several_devices() -> None:
    with elsewhere():
        assert sk.ops.host.read_ints([torch.tensor(3), torch.tensor(4, device=DEVICE)]) == [3, 4]
