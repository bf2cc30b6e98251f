"""Networks, data, methods and optimizers for the tests of whole trajectories."""

from collections.abc import Callable
from typing import Any

import torch
from support.devices import moved
from support.networks import convnet
from torch import Tensor, nn

import sparsekern as sk

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, weight_decay=1e-3),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=1e-3),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, foreach=False),
    "adam-foreach": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=1e-3, foreach=True),
    "adamw-fused": lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
    "amsgrad": lambda p: torch.optim.AdamW(p, lr=0.01, amsgrad=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.9, centered=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.05, initial_accumulator_value=0.1),
    "radam": lambda p: torch.optim.RAdam(p, lr=0.01),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "set": {"every": 5},
    "rigl": {"every": 5},
    "gmp": {"every": 5},
    "granet": {"every": 4},
    "deepr": {},
    "dsr": {"every": 1, "threshold": 0.03},
    "snfs": {"every": 4},
    "sfp": {"every": 4},
    "str": {"initial": -4.0},
    "deepr, without noise": {"l1": 0.0, "noise": 0.0},
    **{name: {"every": 5, "stop": 1.0} for name in ("gse_random", "gse_synflow", "gse_grabo", "gse_graest")},
    "gse_graest, two batches": {"every": 5, "stop": 1.0, "batches": 2},
    "dpf": {"every": 4, "finetune": 1},
    "dpf_layerwise": {"every": 4},
    "dpf_filter": {"every": 4},
    "snr": {"every": 2, "memory": 0.5},
    "snr_frozen": {"every": 2, "memory": 0.5},
}
STEPS, EPOCH = 20, 5


SCORING = {"synflow": {"rounds": 4}, "iter_snip": {"rounds": 3}, "force": {"rounds": 3}, "snip_mb": {"batches": 2}}


def make(name: str, **options: Any) -> sk.Method:
    options = {"sparsity": 0.7, **OPTIONS.get(name, {}), **SCORING.get(name, {}), **options}
    return sk.methods.get(name.partition(",")[0])(total_steps=STEPS, steps_per_epoch=EPOCH, **options)


NAMES = [*sk.methods.names(), "gse_graest, two batches"]
SPARSE = [name for name in NAMES if name != "dense"]
CHANNELS = [name for name in SPARSE if make(name).start.unit == "channel"]
EMERGENT = ("snr", "snr_frozen", "str", *CHANNELS)  # methods whose number of weights is not given
NONZEROS = [name for name in SPARSE if make(name).storage == "nonzeros"]
TWINS = ["deepr, without noise" if name == "deepr" else name for name in NONZEROS]  # what their optimizer does alone
KINDS = ("linear", "conv")
CONV = [("conv", "momentum"), ("conv", "adamw-fused")]


class Attentive(nn.Module):
    """A 1-D convolution, attention and linear layers over `[batch, 12]`, four values at each of three positions."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.attention = nn.Conv1d(4, 6, 3, padding=1), nn.MultiheadAttention(6, 2, batch_first=True)
        self.up, self.down, self.head = nn.Linear(6, 10), nn.Linear(10, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x.reshape(-1, 4, 3)).transpose(1, 2)
        x = x + self.attention(x, x, x)[0]
        return self.head(x + self.down(self.up(x).tanh())).mean(1)


class Volumes(nn.Module):
    """3-D and transposed convolutions, and linear layers, over `[batch, 12]`."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.wider = nn.Conv3d(1, 4, 2, padding=1), nn.ConvTranspose3d(4, 2, 2)
        self.line = nn.ConvTranspose1d(2, 4, 2)
        self.up, self.down = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.wider(self.first(x.reshape(-1, 1, 2, 2, 3)).tanh()).flatten(2)
        return self.down(self.up(self.line(x).tanh().mean(2)).tanh())


MODULES: dict[str, Callable[[], nn.Module]] = {"attention": Attentive, "volumes": Volumes}


def network(kind: str) -> nn.Module:
    if kind == "conv":
        return convnet().double()
    if kind in MODULES:
        return MODULES[kind]().double()
    return nn.Sequential(nn.Linear(12, 20), nn.Tanh(), nn.Linear(20, 15), nn.Tanh(), nn.Linear(15, 3)).double()


def batches(kind: str, n: int = STEPS, device: str = "cpu") -> list[tuple[Tensor, Tensor]]:
    return moved(_batches(kind, n), device)


def _batches(kind: str, n: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(5)
    if kind == "conv":
        x = torch.randn(n, 8, 3, 6, 6, generator=generator, dtype=torch.double)
        return [(part, part.mean((2, 3)).argmax(1)) for part in x]
    x = torch.randn(n, 16, 12, generator=generator, dtype=torch.double)
    return [(part, part[:, :3].argmax(1)) for part in x]


def prepare(
    kind: str, name: str, build: Callable, backend: str = "sparse", seed: int = 3, device: str = "cpu", **options: Any
) -> tuple[nn.Module, sk.Sparsifier]:
    torch.manual_seed(seed)
    method, data = make(name), batches(kind, 4, device)
    model = sk.sparsify(
        network(kind).to(device),
        method,
        batches=data,
        loss=nn.functional.cross_entropy,
        backend=backend,
        **options,
    )
    growth: dict[str, Any] = {"batches": data, "loss": nn.functional.cross_entropy}
    return model, sk.Sparsifier(model, build(model.parameters()), method, **growth)


def step(model: nn.Module, optimizer: Any, batch: tuple[Tensor, Tensor]) -> Tensor:
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(model(batch[0]), batch[1])
    loss.backward()
    optimizer.step()
    if optimizer.steps % EPOCH == 0:
        optimizer.epoch_end(loss.item())
    return loss.detach()


def expected(sparsifier: sk.Sparsifier) -> int:
    """How many weights, or filters, take part in the next step of a method that prunes before it, else in the last."""
    method = sparsifier.method
    last = sparsifier.steps - (method.order != "before")
    if method.order == "before":
        last = max((t for t in range(last + 1) if method.when.fires(t)), default=0)
    return sk.topology.nnz_at(method.sparsity(last), sum(method.view.units(site.shape) for site in sparsifier.sites))


def chosen(sparsifier: sk.Sparsifier) -> int:
    if not sparsifier.method.view.filters:
        return sum(site.nnz for site in sparsifier.sites)
    for site in sparsifier.sites:  # whole filters
        assert {*site.active.row_ptr.diff().tolist()} <= {0, site.active.cols}
    return sum(int((site.active.row_ptr.diff() > 0).sum()) for site in sparsifier.sites)
