"""Generated runs: a method, an optimizer, a network and a way to train it, against masked dense products in float64.

After every step the number of weights is what the method says. A run that goes on from a file, or from a copy, is the
same bit for bit.
"""

import copy
import io
import random
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from support.trajectories import EMERGENT, NAMES, OPTIONS, SCORING, chosen, expected
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import sparsekern as sk

EPOCH = 4
OPTIMIZERS: dict[str, tuple[type[torch.optim.Optimizer], dict[str, list[Any]]]] = {
    "sgd": (torch.optim.SGD, {"lr": [0.05], "momentum": [0, 0.9], "weight_decay": [0, 1e-3], "fused": [None, True]}),
    "nesterov": (
        torch.optim.SGD,
        {"lr": [0.05], "momentum": [0.9], "nesterov": [True], "foreach": [None, True, False]},
    ),
    "adam": (
        torch.optim.Adam,
        {"lr": [0.01], "weight_decay": [0, 1e-3], "amsgrad": [False, True], "fused": [None, True]},
    ),
    "adamw": (torch.optim.AdamW, {"lr": [0.01], "amsgrad": [False, True], "foreach": [None, True, False]}),
    "rmsprop": (torch.optim.RMSprop, {"lr": [0.01], "momentum": [0, 0.9], "centered": [False, True]}),
    "adagrad": (torch.optim.Adagrad, {"lr": [0.05], "initial_accumulator_value": [0.1], "foreach": [None, True]}),
    "radam": (torch.optim.RAdam, {"lr": [0.01], "decoupled_weight_decay": [False, True]}),
    "nadam": (torch.optim.NAdam, {"lr": [0.01], "weight_decay": [0, 1e-3]}),
    "adamax": (torch.optim.Adamax, {"lr": [0.01], "foreach": [None, True]}),
    "asgd": (torch.optim.ASGD, {"lr": [0.02], "t0": [3], "foreach": [None, True]}),
    "rprop": (torch.optim.Rprop, {"lr": [0.01]}),
    "adafactor": (torch.optim.Adafactor, {"lr": [0.02], "weight_decay": [0, 1e-3]}),
}


@dataclass(frozen=True)
class Case:
    method: str
    options: dict[str, Any]
    sparsity: float
    optimizer: str
    settings: dict[str, Any]
    backend: str
    conv: bool
    norm: bool
    inplace: bool
    twice: bool  # one layer has two uses
    frozen: bool  # one layer
    tied: bool  # two layers have one weight, which stays dense
    groups: bool  # of parameters
    parts: int  # of a batch whose gradients are added up
    clip: bool
    closure: bool
    skipped: tuple[int, ...]  # batches whose gradients are thrown away, as a gradient scaler does
    steps: int
    saved: int  # batches before the run is saved and copied
    seed: int


def draw(seed: int) -> Case:
    r = random.Random(seed)
    method = r.choice([name for name in NAMES if name != "dense"])
    optimizer = r.choice(list(OPTIMIZERS))
    settings = {key: r.choice(values) for key, values in OPTIMIZERS[optimizer][1].items()}
    if optimizer == "adafactor" and r.random() < 0.5:
        settings["foreach"] = False
    moment, channels = method.startswith("snr"), method in ("three_sp", "random_channel", "prospr_channel")
    steps = r.choice([12, 16, 18])
    skipped = tuple(sorted(r.sample(range(steps), r.choice([0, 0, 1, 2]))))
    return Case(
        method=method,
        options=_options(method, r),
        sparsity=r.choice([0.5, 0.7, 0.8, 0.9]),
        optimizer=optimizer,
        settings=settings,
        backend=r.choice(["sparse", "sparse", "auto", "dense"]),
        conv=r.random() < 0.5,
        norm=r.random() < 0.5,
        inplace=r.random() < 0.4,
        twice=r.random() < 0.2 and not moment and not channels,
        frozen=r.random() < 0.15 and not channels,
        tied=r.random() < 0.15 and not channels,
        groups=r.random() < 0.3,
        parts=r.choice([1, 1, 2, 3]),
        clip=r.random() < 0.3,
        closure=r.random() < 0.2,
        skipped=skipped,
        steps=steps,
        saved=r.randint(1, steps + len(skipped) - 2),
        seed=seed,
    )


def _options(name: str, r: random.Random) -> dict[str, Any]:
    options = {**OPTIONS.get(name, {}), **SCORING.get(name, {})}
    if "every" in options and r.random() < 0.7:
        options["every"] = r.choice([2, 3, 4])
    if name in ("set", "rigl", "granet") and r.random() < 0.5:
        options["rate"] = r.choice([0.1, 0.5, 0.9])
    if name in ("dpf", "dnw", "oneshot_ft", "magnitude_after", "lottery", "rewind", "dpf_layerwise"):
        options["min_per_layer"] = r.choice([0, 0, 1, 2])
    return options


class Network(nn.Module):
    """A small residual network, five classes."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        bias, conv = not case.norm, case.conv
        if conv:
            self.first = nn.Conv2d(3, 8, 3, padding=1, bias=bias)
            self.middle: nn.Module = nn.Conv2d(8, 8, 3, padding=1, groups=2)
            self.last: nn.Module = nn.Conv2d(8, 12, 1, stride=2)
        else:
            self.first = nn.Linear(10, 16, bias=bias)
            self.middle, self.last = nn.Linear(16, 16), nn.Linear(16, 12)
        self.norm = (nn.BatchNorm2d if conv else nn.BatchNorm1d)(self.first.weight.shape[0]) if case.norm else None
        self.head, self.again = nn.Linear(12, 12), nn.Linear(12, 12)
        self.out = nn.Linear(12, 5)
        if case.tied:
            self.again.weight = self.head.weight
        if case.frozen:
            self.middle.weight.requires_grad_(False)  # type: ignore[union-attr]
        self.conv, self.inplace, self.twice = case.conv, case.inplace, case.twice

    def act(self, x: Tensor) -> Tensor:
        return torch.relu_(x) if self.inplace else torch.relu(x)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = torch.tanh(x if self.norm is None else self.norm(x))
        y = self.middle(x)
        y = self.middle(torch.tanh(y)) if self.twice else y
        if self.inplace:
            y += x
        x = self.act(self.last(torch.tanh(y if self.inplace else x + y)))
        if self.conv:
            x = x.mean((2, 3))
        return self.out(torch.tanh(self.again(self.act(self.head(x)))))


def batches(case: Case) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(case.seed)
    shape = (3, 5, 6) if case.conv else (10,)
    x = torch.randn(case.steps + len(case.skipped), 12, *shape, generator=generator, dtype=torch.double)
    return [(part, part.flatten(1)[:, :5].argmax(1)) for part in x]


def build(case: Case, backend: str, seed: int) -> tuple[nn.Module, sk.Sparsifier]:
    torch.manual_seed(seed)
    method = sk.methods.get(case.method.partition(",")[0])(
        sparsity=case.sparsity, total_steps=case.steps, steps_per_epoch=EPOCH, **case.options
    )
    growth: dict[str, Any] = {"batches": batches(case)[:4], "loss": cross_entropy}
    model = sk.sparsify(Network(case).double(), method, backend=backend, **growth)
    parameters: Any = list(model.parameters())
    if case.groups:
        parameters = [{"params": parameters[::2]}, {"params": parameters[1::2], "lr": case.settings["lr"] / 2}]
    optimizer: Any = OPTIMIZERS[case.optimizer][0]
    return model, sk.Sparsifier(model, optimizer(parameters, **case.settings), method, **growth)


def advance(case: Case, model: nn.Module, sparsifier: Any, first: int, stop: int, seen: list | None = None) -> None:
    """Trains on the batches from `first` to `stop`; notes the patterns after each in `seen`."""
    for i, (x, y) in enumerate(batches(case)[first:stop], first):

        def gradients(x: Tensor = x, y: Tensor = y) -> Tensor:
            sparsifier.zero_grad()
            total = torch.zeros((), dtype=torch.double)
            for part, target in zip(x.chunk(case.parts), y.chunk(case.parts), strict=True):
                loss = cross_entropy(model(part), target) / case.parts
                loss.backward()
                total += loss.detach()
            if case.clip:
                nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            return total

        if i in case.skipped:
            gradients()
            continue
        if case.closure:
            loss = sparsifier.step(gradients)
        else:
            loss = gradients()
            sparsifier.step()
        if sparsifier.steps % EPOCH == 0:
            sparsifier.epoch_end(float(loss))
        if case.method not in EMERGENT and not case.frozen:
            got, want = chosen(sparsifier), expected(sparsifier)
            assert got == want, f"{got} weights instead of {want} after {sparsifier.steps} steps"
        if seen is not None:
            seen.append([site.active.mask() for site in sparsifier.sites])


def check(seed: int) -> None:
    case, dtype = draw(seed), torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # loading casts an optimizer's numbers to the dtype of its Parameters
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _check(case)
    except Exception as error:
        raise AssertionError(f"{case}\n{type(error).__name__}: {error}") from error
    finally:
        torch.set_default_dtype(dtype)


def _check(case: Case) -> None:
    end = case.steps + len(case.skipped)
    seen: list[Any] = []
    model, sparsifier = build(case, case.backend, case.seed)
    advance(case, model, sparsifier, 0, case.saved, seen)
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "sparsifier": sparsifier.state_dict()}, file)
    copied, copied_sparsifier = copy.deepcopy((model, sparsifier))
    advance(case, model, sparsifier, case.saved, end, seen)

    loaded, loaded_sparsifier = build(case, case.backend, case.seed + 99)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    loaded.load_state_dict(state["model"])
    loaded_sparsifier.load_state_dict(state["sparsifier"])
    for what, net, optimizer in (("copied", copied, copied_sparsifier), ("loaded", loaded, loaded_sparsifier)):
        advance(case, net, optimizer, case.saved, end)
        same(model.state_dict(), net.state_dict(), f"{what} model", exact=True)
        same(sparsifier.state_dict(), optimizer.state_dict(), f"{what} sparsifier", exact=True)

    dense_seen: list[Any] = []
    dense, dense_sparsifier = build(case, "masked", case.seed)
    advance(case, dense, dense_sparsifier, 0, end, dense_seen)
    for i in range(1, len(seen) + 1):
        if not _equal(seen[i - 1 : i], dense_seen[i - 1 : i]):
            assert _undecided(case, end, dense_seen[:i]), f"patterns differ after {i} steps"
            return
    same(model.state_dict(), dense.state_dict(), "masked model", exact=False)
    same(sparsifier.state_dict(), dense_sparsifier.state_dict(), "masked sparsifier", exact=False)


def _undecided(case: Case, end: int, masks: list[list[Tensor]]) -> bool:
    """Whether these patterns hang on rounding: a run from weights that differ in their last digits has others. Where an
    optimizer divides by the size of the gradient, say, the first update of every grown weight has one length."""
    for i in range(8):
        model, sparsifier = build(case, "masked", case.seed)
        generator = torch.Generator().manual_seed(i)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1 + 1e-15 * torch.randn(parameter.shape, generator=generator, dtype=torch.double))
        seen: list[list[Tensor]] = []
        advance(case, model, sparsifier, 0, end, seen)
        if not _equal(seen[: len(masks)], masks):
            return True
    return False


def _equal(left: list[list[Tensor]], right: list[list[Tensor]]) -> bool:
    return all(
        torch.equal(a, b) for row, other in zip(left, right, strict=True) for a, b in zip(row, other, strict=True)
    )


def same(a: Any, b: Any, path: str, exact: bool) -> None:
    """Compares nested states: exactly, or all but the kernels up to rounding."""
    if isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for key in a.keys() - (set() if exact else {"kernel", "reason", "plan"}):
            same(a[key], b[key], f"{path}.{key}", exact)
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), path
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            same(x, y, f"{path}[{i}]", exact)
    elif isinstance(a, Tensor):
        assert a.dtype == b.dtype, path
        assert a.shape == b.shape, f"{path}: {tuple(a.shape)} and {tuple(b.shape)}"
        if exact or not a.is_floating_point():
            assert torch.equal(a, b), path
        else:
            torch.testing.assert_close(a, b, msg=lambda m: f"{path}: {m}")
    elif isinstance(a, float) and not exact:
        torch.testing.assert_close(a, b, msg=lambda m: f"{path}: {m}")
    else:
        assert a == b, f"{path}: {a!r} and {b!r}"
