"""Optimizers that wrap others, as commonly written: what they keep follows the weights, or they are refused."""

from collections import OrderedDict, defaultdict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer

import sparsekern as sk


class SAM(Optimizer):
    """The optimizer inside shares the groups and has a state of its own."""

    def __init__(self, params: Any, base_optimizer: Any, rho: float = 0.05, **options: Any) -> None:
        super().__init__(params, {"rho": rho, **options})
        self.base_optimizer = base_optimizer(self.param_groups, **options)
        self.param_groups = self.base_optimizer.param_groups
        self.defaults.update(self.base_optimizer.defaults)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:  # type: ignore[override]
        assert closure is not None
        loss = torch.enable_grad()(closure)()
        params = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.stack([p.grad.norm() for p in params]).norm()
        for p in params:
            self.state[p]["old_p"] = p.data.clone()
            p.add_(p.grad * self.param_groups[0]["rho"] / norm)
        torch.enable_grad()(closure)()
        for p in params:
            p.data = self.state[p]["old_p"]
        self.base_optimizer.step()
        return loss

    def load_state_dict(self, state_dict: Any) -> None:
        super().load_state_dict(state_dict)
        self.base_optimizer.param_groups = self.param_groups


class Lookahead(Optimizer):
    """Slow weights lie in its own state; the file has the states of both."""

    def __init__(self, optimizer: Optimizer, k: int = 3, alpha: float = 0.5) -> None:
        # As there, without the constructor of `Optimizer`.
        self._optimizer_step_pre_hooks, self._optimizer_step_post_hooks = OrderedDict(), OrderedDict()
        self.optimizer, self.k, self.alpha, self.count = optimizer, k, alpha, 0
        self.param_groups, self.state = optimizer.param_groups, defaultdict(dict)
        self.fast_state, self.defaults = optimizer.state, optimizer.defaults

    def slow(self, group: int, i: int, p: Tensor) -> Tensor:
        return self.state[p].setdefault("slow_param", p.detach().clone())

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:  # type: ignore[override]
        loss = self.optimizer.step(closure)
        self.count += 1
        if self.count % self.k == 0:
            for g, group in enumerate(self.param_groups):
                for i, p in enumerate(group["params"]):
                    slow = self.slow(g, i, p)
                    slow.add_(p - slow, alpha=self.alpha)
                    p.copy_(slow)
        return loss

    def state_dict(self) -> Any:
        fast = self.optimizer.state_dict()
        slow = {id(p): state for p, state in self.state.items()}
        return {"fast_state": fast["state"], "slow_state": slow, "param_groups": fast["param_groups"]}


class LookaheadInside(Lookahead):
    """Slow weights lie in the state of the optimizer inside (timm)."""

    def slow(self, group: int, i: int, p: Tensor) -> Tensor:
        return self.optimizer.state[p].setdefault("lookahead_slow_buff", p.detach().clone())

    def state_dict(self) -> Any:
        return self.optimizer.state_dict()

    def load_state_dict(self, state_dict: Any) -> None:
        self.optimizer.load_state_dict(state_dict)
        self.param_groups = self.optimizer.param_groups


class LookaheadOfLists(Lookahead):
    """Slow weights lie in lists like the groups."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.slow_weights = [[p.clone().detach() for p in group["params"]] for group in self.param_groups]

    def slow(self, group: int, i: int, p: Tensor) -> Tensor:
        return self.slow_weights[group][i]


class LookaheadOfNumbers(Lookahead):
    """Slow weights lie in a dict whose keys are the `id` of Parameters."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.kept: dict[int, Tensor] = {}

    def slow(self, group: int, i: int, p: Tensor) -> Tensor:
        return self.kept.setdefault(id(p), p.detach().clone())


WRAPPED: dict[str, Callable[..., Optimizer]] = {
    "SAM of momentum": lambda p: SAM(p, torch.optim.SGD, lr=0.2, momentum=0.9),
    "SAM of Adam": lambda p: SAM(p, torch.optim.Adam, lr=0.02),
    **{
        f"{kind.__name__} of Adam": lambda p, kind=kind: kind(torch.optim.Adam(p, lr=0.02))
        for kind in (Lookahead, LookaheadInside, LookaheadOfLists, LookaheadOfNumbers)
    },
}
METHODS: dict[str, dict[str, Any]] = {"set": {"every": 4}, "gmp": {"every": 4}, "magnitude_after": {}}


def build(name: str) -> tuple[Any, sk.Method]:
    torch.manual_seed(0)
    method = sk.methods.get(name)(sparsity=0.6, total_steps=24, **METHODS[name])
    return sk.sparsify(nn.Sequential(nn.Linear(9, 12), nn.Tanh(), nn.Linear(12, 4)).double(), method), method


def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(20, 9, dtype=torch.double, generator=generator), torch.arange(20) % 4


def closure_of(optimizer: Optimizer, loss: Callable[[], Tensor]) -> Callable[[], Tensor]:
    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    return closure


def dense(layer: Any) -> tuple[Tensor, Tensor]:
    """Its effective weight and its mask."""
    return layer.dense_weight().detach(), layer.topology.mask()


class Twin:
    """The same network, dense under masks: a weight that is new, or gone, is 0 and so is all that belongs to it."""

    def __init__(self, model: Any, make: Callable[..., Optimizer]) -> None:
        sparse = [model[0], model[2]]
        self.masks = [layer.topology.mask() for layer in sparse]
        self.weights = [nn.Parameter(dense(layer)[0].clone()) for layer in sparse]
        self.biases = [nn.Parameter(layer.bias.detach().clone()) for layer in sparse]
        order = [self.weights[0], self.biases[0], self.weights[1], self.biases[1]]
        self.optimizer: Any = make(order)

    def loss(self) -> Tensor:
        x, y = data()
        first, second = (w * m for w, m in zip(self.weights, self.masks, strict=True))
        return cross_entropy((x @ first.T + self.biases[0]).tanh() @ second.T + self.biases[1], y)

    @torch.no_grad()
    def change(self, model: Any) -> None:
        kept = []
        for i, layer in enumerate((model[0], model[2])):
            weight, mask = dense(layer)
            kept.append(self.masks[i] & mask & (weight != 0))  # what was dropped and grows at once is new
            self.masks[i] = mask
        for tensor in self.everything():
            for keep, weight in zip(kept, self.weights, strict=True):
                if tensor.shape == weight.shape:
                    tensor.mul_(keep)

    def everything(self) -> list[Tensor]:
        optimizers = [self.optimizer, getattr(self.optimizer, "base_optimizer", None) or self.optimizer.optimizer]
        held = [t for o in optimizers for s in o.state.values() for t in s.values() if isinstance(t, Tensor)]
        held += [t for row in getattr(self.optimizer, "slow_weights", []) for t in row]
        return list({id(t): t for t in (*self.weights, *held, *getattr(self.optimizer, "kept", {}).values())}.values())


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("wrapped", WRAPPED)
def test_trains_like_a_masked_twin_and_goes_on_from_a_file(wrapped: str, name: str) -> None:
    model, method = build(name)
    twin = Twin(model, WRAPPED[wrapped])
    optimizer = sk.Sparsifier(model, WRAPPED[wrapped](model.parameters()), method)
    changes = 0

    def loss() -> Tensor:
        return cross_entropy(model(data()[0]), data()[1])

    for step in range(24):
        optimizer.step(closure_of(optimizer, loss))
        twin.optimizer.step(closure_of(twin.optimizer, twin.loss))
        if optimizer.rewired:
            changes += 1
            twin.change(model)
        for layer, weight, mask in zip((model[0], model[2]), twin.weights, twin.masks, strict=True):
            torch.testing.assert_close(dense(layer)[0], weight.detach() * mask, rtol=1e-9, atol=1e-12)
        if step in (9, 14) and "Numbers" not in wrapped:
            saved = optimizer.state_dict(), model.state_dict(), getattr(optimizer.optimizer, "count", 0)
            model, _ = build(name)
            model.load_state_dict(saved[1])
            optimizer = sk.Sparsifier(model, WRAPPED[wrapped](model.parameters()), method)
            optimizer.load_state_dict(saved[0])
            optimizer.optimizer.count = saved[2]  # type: ignore[attr-defined]
            inner: Any = getattr(optimizer, "base_optimizer", None) or optimizer.optimizer.optimizer
            assert inner.param_groups is optimizer.param_groups
    assert changes >= 1


class Flat(torch.optim.SGD):
    """Keeps one vector for all Parameters."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, lr=0.1)
        self.direction = torch.zeros(sum(p.numel() for p in self.param_groups[0]["params"]))


class Left(torch.optim.SGD):
    """Keeps what no weight can be recognised by."""

    def __init__(self, params: Any, early: bool) -> None:
        super().__init__(params, lr=0.1)
        self.early = early
        if early:
            self.keep()

    def keep(self) -> None:
        self.average = {"first": self.param_groups[0]["params"][0].detach().clone()}

    def step(self, closure: Any = None) -> Any:
        self.keep()
        return super().step(closure)


def test_what_would_be_left_behind_is_refused_before_anything_moves() -> None:
    model, method = build("set")
    message = r"Left keeps a tensor of the shape of 0\.values in Left\.average\['first'\]"
    with pytest.raises(ValueError, match=message):
        sk.Sparsifier(model, Left(model.parameters(), early=True), method)
    with pytest.raises(ValueError, match=r"Flat keeps a tensor of the shape of all Parameters together in Flat"):
        sk.Sparsifier(model, Flat(model.parameters()), method)
    optimizer = sk.Sparsifier(model, Left(model.parameters(), early=False), method)
    closure = closure_of(optimizer, lambda: cross_entropy(model(data()[0]), data()[1]))
    for _ in range(4):
        optimizer.step(closure)
    patterns = [layer.topology for layer in (model[0], model[2])]
    with pytest.raises(ValueError, match=message):
        optimizer.step(closure)
    assert [layer.topology for layer in (model[0], model[2])] == patterns
    assert optimizer.steps == 4


def test_what_goes_past_the_sparsifier_or_returns_is_refused() -> None:
    model, method = build("set")
    optimizer = sk.Sparsifier(model, WRAPPED["SAM of momentum"](model.parameters()), method)
    with pytest.raises(AttributeError, match=r"goes past the Sparsifier: call step\(closure\)"):
        optimizer.second_step(zero_grad=True)
    method = sk.methods.lottery(sparsity=0.6, total_steps=24)
    model = sk.sparsify(nn.Sequential(nn.Linear(9, 12), nn.Linear(12, 4)), method)
    with pytest.raises(ValueError, match=r"lottery returns to the optimizer's state .* Lookahead has an optimizer"):
        sk.Sparsifier(model, Lookahead(torch.optim.Adam(model.parameters())), method)


class Coded(torch.optim.SGD):
    """Keeps codes with a scale for each block, as 8-bit optimizers do, or a matrix, as Shampoo does."""

    def __init__(self, params: Any, kind: str) -> None:
        super().__init__(params, lr=0.1)
        self.kind = kind

    def step(self, closure: Any = None) -> Any:
        for p in self.param_groups[0]["params"]:
            n = p.numel()
            kept = {"codes": torch.zeros(p.shape, dtype=torch.uint8), "matrix": torch.zeros(n, n)}
            self.state[p]["kept"] = kept.get(self.kind, torch.zeros(n // 2 + 1))
        return super().step(closure)


@pytest.mark.parametrize(("kind", "what"), [("codes", "uint8"), ("matrix", r"\(\d+, \d+\)"), ("blocks", r"\(\d+,\)")])
def test_state_of_several_weights_at_once_is_refused_where_weights_move(kind: str, what: str) -> None:
    model, method = build("set")
    optimizer = sk.Sparsifier(model, Coded(model.parameters(), kind), method)
    closure = closure_of(optimizer, lambda: cross_entropy(model(data()[0]), data()[1]))
    for _ in range(4):
        optimizer.step(closure)
    patterns = [layer.topology for layer in (model[0], model[2])]
    with pytest.raises(ValueError, match=rf"Coded keeps kept of 0\.values as Tensor .*{what}"):
        optimizer.step(closure)
    assert [layer.topology for layer in (model[0], model[2])] == patterns
    still = sk.methods.random(sparsity=0.6)
    model = sk.sparsify(nn.Sequential(nn.Linear(9, 12), nn.Tanh(), nn.Linear(12, 4)).double(), still)
    optimizer = sk.Sparsifier(model, Coded(model.parameters(), kind), still)
    for _ in range(6):
        optimizer.step(closure_of(optimizer, lambda: cross_entropy(model(data()[0]), data()[1])))


class Clearing(torch.optim.SGD):
    """Clears the gradients in its step."""

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        super().step(closure)
        self.zero_grad()


@pytest.mark.parametrize("name", ["set", "dsr", "rigl", "gse_random"])
def test_an_optimizer_may_clear_the_gradients(name: str) -> None:
    torch.manual_seed(0)
    method = sk.methods.get(name)(sparsity=0.6, total_steps=24, steps_per_epoch=4, every=3)
    model = sk.sparsify(nn.Sequential(nn.Linear(9, 12), nn.Tanh(), nn.Linear(12, 4)).double(), method)
    optimizer = sk.Sparsifier(model, Clearing(model.parameters(), 0.1), method)
    x, y = data()
    for _ in range(24):
        cross_entropy(model(x), y).backward()
        optimizer.step()
    assert optimizer.steps == 24
