"""A change of pattern that is interrupted has not begun, or is over."""

import contextlib
import copy
import gc
import random
import sys
import weakref
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import AveragedModel

import sparsekern as sk

EPOCH, STEPS, EACH = 4, 24, 6
# Method, its options, and the step of the change that is interrupted.
CASES: dict[str, tuple[str, dict[str, Any], int]] = {
    "set": ("set", {"every": 4}, 4),
    "rigl": ("rigl", {"every": 4}, 4),
    "gse_grabo, with more room": ("gse_grabo", {"every": 4}, 4),
    "gse_grabo, batches of its own": ("gse_grabo", {"every": 4, "batches": 2}, 4),
    "dsr": ("dsr", {"every": 4, "threshold": 0.1}, 8),
    "deepr": ("deepr", {"noise": 0.5}, 3),
    "granet": ("granet", {"every": 4}, 8),
    "gmp, room given back": ("gmp", {"every": 4}, 16),
    "dpf": ("dpf", {"every": 4}, 11),
    "dpf, settled with a new mask": ("dpf", {"every": 4, "finetune": 2}, 15),
    "snfs": ("snfs", {}, 7),
    "optg": ("optg", {}, 11),
    "snr": ("snr", {}, 6),
    "snr_frozen": ("snr_frozen", {}, 6),
    "lottery, the first return": ("lottery", {}, 7),
    "lottery, of nonzeros": ("lottery", {}, 15),
    "rewind": ("rewind", {"step": 1}, 7),
}


class Interrupt(BaseException):
    pass


class Interrupter:
    """Raises at the `n`-th call or return of any function, of Python or C, from the change of pattern on."""

    def __init__(self, n: int) -> None:
        self.n, self.count, self.begun = n, 0, False

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        self.begun |= event == "call" and frame.f_code.co_name == "finish_step"
        # What PyTorch enters and leaves is not the change's; signals come before or after.
        name = argument.__name__ if event.startswith("c_") else frame.f_code.co_name
        if not self.begun or name in ("__enter__", "__exit__", "_set_grad_enabled", "setprofile"):
            return
        self.count += 1
        if self.count == self.n:
            raise Interrupt


class Run:
    """A network whose pattern changes, an average of it that follows, and all that is known of them."""

    def __init__(self, case: str, build: Callable[..., torch.optim.Optimizer]) -> None:
        name, options, self.at = CASES[case]
        torch.manual_seed(0)
        method = sk.methods.get(name)(sparsity=0.75, total_steps=STEPS, steps_per_epoch=EPOCH, **options)
        net = nn.Sequential(nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.Flatten())
        model = sk.sparsify(net.append(nn.Linear(32, 10)).append(nn.Linear(10, 4)), method)
        average = AveragedModel(model)
        data = [(torch.randn(8, 2, 6, 6), torch.randint(4, (8,))) for _ in range(2)]
        optimizer = sk.Sparsifier(
            model, build(model.parameters()), method, followers=[average], batches=data, loss=cross_entropy
        )
        self.model, self.average, self.optimizer, self.data = model, average, optimizer, data

    def step(self, interrupter: Interrupter | None = None) -> float:
        x, y = self.data[self.optimizer.steps % 2]
        self.optimizer.zero_grad()
        loss = cross_entropy(self.model(x), y)
        loss.backward()
        gc.disable()  # callbacks of weak references to what other runs have left are none of the change's events
        sys.setprofile(interrupter)
        try:
            self.optimizer.step()
        finally:
            sys.setprofile(None)
            gc.enable()
        return loss.item()

    def train(self, until: int) -> None:
        while self.optimizer.steps < until:
            loss = self.step()
            self.average.update_parameters(self.model)
            if self.optimizer.steps % EPOCH == 0:
                self.optimizer.epoch_end(loss)

    def facts(self) -> list[tuple[str, Any]]:
        """All that a change alters. What is stashed of active weights means nothing."""
        state = self.optimizer.state_dict()
        for site in self.optimizer.sites:
            stashed = state["sites"][site.name].get("stashed", {})
            state["sites"][site.name]["stashed"] = {k: v.masked_fill(site.active.mask(), 0) for k, v in stashed.items()}
        gradients = {name: p.grad for name, p in self.model.named_parameters()}
        rooms = {name: tuple(p.shape) for name, p in self.model.named_parameters()}
        held = [id(p) for group in self.optimizer.param_groups for p in group["params"]]
        own = [id(p) in held for p in self.model.parameters()]
        index = [layer.topology.index for net in (self.model, self.average) for layer in patterned(net)]
        everything = [state, self.model.state_dict(), self.average.state_dict(), gradients, rooms, own, index]
        return list(leaves("", everything))


def patterned(model: nn.Module) -> list[Any]:
    return [layer for layer in model.modules() if isinstance(layer, sk.nn.PatternLayer)]


def leaves(path: str, value: Any) -> Any:
    if isinstance(value, dict):
        for key, part in value.items():
            yield from leaves(f"{path}.{key}", part)
    elif isinstance(value, (list, tuple)):
        for i, part in enumerate(value):
            yield from leaves(f"{path}.{i}", part)
    else:
        yield path, value.clone() if isinstance(value, Tensor) else value


def same(left: list, right: list) -> bool:
    return len(left) == len(right) and all(
        a == b and (torch.equal(x, y) if isinstance(x, Tensor) and isinstance(y, Tensor) else x is y or x == y)
        for (a, x), (b, y) in zip(left, right, strict=True)
    )


@pytest.mark.filterwarnings("ignore:.*(collapse|fewer than three)")
@pytest.mark.parametrize("case", CASES)
def test_a_change_comes_as_a_whole_or_not_at_all(case: str) -> None:
    start = Run(case, lambda p: torch.optim.Adam(p, lr=0.05))
    start.train(start.at)

    def interrupted(n: int) -> tuple[Run, Interrupter]:
        run, interrupter = copy.deepcopy(start), Interrupter(n)
        with contextlib.suppress(Interrupt):
            run.step(interrupter)
        torch.set_grad_enabled(True)
        return run, interrupter

    whole, counter = interrupted(sys.maxsize)
    before, after = interrupted(1)[0].facts(), whole.facts()
    assert whole.optimizer.rewired
    assert not same(before, after)
    whole.train(start.at + 2)
    nnz, found = [site.nnz for site in whole.optimizer.sites], set()
    chosen = random.Random(0).sample(range(1, counter.count + 1), min(EACH, counter.count))
    for n in sorted({*chosen, *range(max(1, counter.count - 3), counter.count + 1)}):
        run, _ = interrupted(n)
        now = run.facts()
        assert same(now, before) or same(now, after), f"event {n} of {counter.count}"
        found.add(same(now, after))
        if n % 3 == 0:
            run.train(start.at + 2)
            assert sum(site.nnz for site in run.optimizer.sites) == pytest.approx(sum(nnz), abs=loose(case))
            for site, follower in zip(run.optimizer.sites, patterned(run.average), strict=True):
                assert follower.topology.same_pattern(site.active)
    assert found == {True, False}


@pytest.mark.parametrize("case", ["set", "dpf", "snr_frozen"])
def test_a_change_leaves_nothing_behind(case: str) -> None:
    """Without waiting for the collection of garbage."""
    run = Run(case, lambda p: torch.optim.Adam(p, lr=0.05))
    run.train(run.at)
    old = [weakref.ref(layer.topology) for net in (run.model, run.average) for layer in patterned(net)]
    gc.collect()
    gc.disable()
    try:
        run.step()
        assert all(topology() is None for topology in old)
    finally:
        gc.enable()


def loose(case: str) -> int:
    """How much a count depends on the weights, and so on the update that an interrupted step made twice."""
    return 200 if case.startswith("snr") else 0


def test_memory_is_given_back_after_an_interruption(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the next step, if the change was over."""
    run = Run("gmp, room given back", lambda p: torch.optim.Adam(p, lr=0.05))
    run.train(run.at)

    def larger() -> list[Tensor]:
        held = [tensor for state in run.optimizer.state.values() for tensor in state.values()]
        held += [*run.model.parameters(), *run.average.parameters()]
        return [tensor for tensor in held if tensor.untyped_storage().nbytes() > tensor.nbytes]

    rooms = {name: p.numel() for name, p in run.model.named_parameters()}
    with monkeypatch.context() as patch:
        patch.setattr("sparsekern.sparsity.engine.draft.trim", interrupted)
        with pytest.raises(Interrupt):
            run.step()
    assert any(p.numel() < rooms[name] for name, p in run.model.named_parameters())
    assert len(larger()) == 4 * len(run.optimizer.sites)  # values, those of the average, two moments
    run.step()
    assert not larger()


def interrupted(*_: Any) -> None:
    raise Interrupt
