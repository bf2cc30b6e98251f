"""FSDP2: ranks that hold a part of every weight train what one process trains, whatever changes its pattern."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from support import ranks
from support.trajectories import EPOCH, OPTIMIZERS, batches, make, network
from torch import nn
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import Shard
from torch.nn.functional import cross_entropy

import sparsekern as sk
from sparsekern.integrations import checkpoint
from sparsekern.shards import is_sharded, local, whole

REFUSED = {
    "lottery": "returns the network to an earlier step",
    "gse_synflow": "grows by the synaptic flow of a copy of the network",
    "gse_graest, two batches": "grows by gradients of more than one batch",
}
SAVED = ("gse_grabo", "oneshot_ft", "random")


def shard(model: nn.Module, **options: Any) -> nn.Module:
    """Shards every second child by itself, and the rest with the root."""
    for child in [child for child in model.children() if any(True for _ in child.parameters())][::2]:
        fully_shard(child, **options)
    fully_shard(model, **options)
    return model


def start(
    name: str,
    world: int,
    kind: str = "linear",
    optimizer: str = "momentum",
    seed: int = 3,
    sparsity: float = 0.7,
    **options: Any,
) -> tuple[nn.Module, sk.Sparsifier]:
    torch.manual_seed(seed)
    method, dtype = make(name, sparsity=sparsity), torch.float32 if "mp_policy" in options else torch.float64
    model = sk.sparsify(network(kind).to(dtype), method)
    model = shard(model, **options) if world > 1 else model
    return model, sk.Sparsifier(model, OPTIMIZERS[optimizer](model.parameters()), method)


def train(
    model: Any, optimizer: sk.Sparsifier, data: list, rank: int = 0, world: int = 1, parts: int = 1, sync: bool = True
) -> dict[str, Any]:
    """Trains, several ranks each on its part of every batch, which is divided into `parts` backward passes. `sync`: all
    of them reduce the gradients. Every epoch ends with an evaluation, after which the root is not sharded."""
    dtype = next(model.parameters()).dtype
    changes = replaced = 0
    for x, y in data:
        optimizer.zero_grad()
        for i, (a, b) in enumerate(zip(x.to(dtype).chunk(parts), y.chunk(parts), strict=True)):
            if world > 1:
                model.set_requires_gradient_sync(sync or i == parts - 1)
            loss = cross_entropy(model(a[rank::world]), b[rank::world]) / parts
            loss.backward()
        optimizer.step()
        changes += optimizer.rewired
        replaced += optimizer.reallocated
        if optimizer.steps % EPOCH == 0:
            with torch.no_grad():
                model(x.to(dtype))
            optimizer.epoch_end(loss.item())
    state = gathered(optimizer.state_dict()["optimizer"]["state"])
    return {"changes": changes, "replaced": replaced, "model": gathered(model.state_dict()), "optimizer": state}


def trained(name: str, rank: int = 0, world: int = 1, **options: Any) -> dict[str, Any]:
    how = {key: options.pop(key) for key in ("parts", "sync") if key in options}
    kind = options.get("kind", "linear")
    model, optimizer = start(name, world, **options)
    found = train(model, optimizer, batches(kind), rank, world, **how)
    assert all(is_sharded(parameter) == (world > 1) for parameter in model.parameters())
    return found


def gathered(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: gathered(part) for key, part in value.items()}
    return whole(value) if isinstance(value, torch.Tensor) else value


# One for each storage, and for each way to choose, to grow and to settle; `trained` takes any other.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in ("set", "gse_grabo", "deepr", "gmp", "optg", "snfs", "snr", "oneshot_ft")},
    "resharded after forward": ("rigl", {"reshard_after_forward": True, "optimizer": "adamw-fused"}),
    "not resharded after forward": ("dpf", {"reshard_after_forward": False}),
    "attention": ("granet", {"kind": "attention"}),
    "accumulated": ("rigl", {"parts": 2, "sync": False}),
    "accumulated, reduced twice": ("snr_frozen", {"parts": 2}),
}
BFLOAT16 = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)


def refusals(rank: int) -> dict[str, str]:
    """What is said of what does not go together."""
    method, (x, y) = make("set"), batches("linear")[0]

    def method_of(name: str) -> None:
        method = make(name)
        model = shard(sk.sparsify(network("linear"), method))
        optimizer = OPTIMIZERS["adam"](model.parameters())
        sk.Sparsifier(model, optimizer, method, batches=batches("linear"), loss=cross_entropy)

    def optimizer_first() -> None:
        model = sk.sparsify(network("linear"), method)
        optimizer = OPTIMIZERS["adam"](model.parameters())
        sk.Sparsifier(shard(model), optimizer, method)

    def sparsifier_first() -> None:
        model, optimizer = start("set", 1)
        cross_entropy(shard(model)(x), y).backward()
        optimizer.step()

    def other_patterns() -> None:
        torch.manual_seed(rank)
        model = shard(nn.Sequential(sk.SparseLinear(12, 3, sparsity=0.7)).double())
        sk.Sparsifier(model, OPTIMIZERS["adam"](model.parameters()), method)

    def by_columns() -> None:
        model = sk.sparsify(network("linear"), make("dpf"))
        fully_shard(model, shard_placement_fn=lambda p: Shard(1) if p.shape == (20, 12) else None)
        sk.Sparsifier(model, OPTIMIZERS["adam"](model.parameters()), make("dpf"))

    attempts: dict[str, Callable[[], object]] = {
        "by columns": by_columns,
        "sharded first": lambda: sk.sparsify(shard(network("linear")), method),
        "optimizer first": optimizer_first,
        "sparsifier first": sparsifier_first,
        "other patterns": other_patterns,
        "dense again": lambda: sk.densify(start("set", 2)[0]),
        **{name: lambda name=name: method_of(name) for name in REFUSED},
    }
    found = {}
    for what, attempt in attempts.items():
        with pytest.raises((ValueError, RuntimeError)) as raised:
            attempt()
        found[what] = str(raised.value)
    return found


def memory(rank: int) -> dict[str, Any]:
    """Bytes on this rank, as reported and as they are."""
    model, optimizer = start("set", 2, optimizer="adam")
    train(model, optimizer, batches("linear")[:6], rank, 2)
    held = [local(p.detach()).nbytes for p in model.parameters()]
    state = [local(t).nbytes for s in optimizer.state.values() for t in s.values() if t.dim()]
    index = sum(t.nbytes for m in model.modules() if isinstance(m, sk.SparseLinear) for t in m.index)
    report = sk.memory_report(model, optimizer).total
    kept = sum(optimizer.kept_bytes(site.module) for site in optimizer.sites)  # the first pattern
    return {"report": report, "held": sum(held), "state": sum(state), "index": index, "kept": kept}


def save(rank: int, path: Path) -> None:
    for name in SAVED:
        model, optimizer = start(name, 2, optimizer="adam")
        train(model, optimizer, batches("linear")[:12], rank, 2)
        checkpoint.save(path / name, model, optimizer)


def resumed(path: Path, name: str, rank: int = 0, world: int = 1) -> dict[str, Any]:
    """What training from a checkpoint comes to, of a model that began otherwise: in one case, with room for less."""
    model, optimizer = start(name, world, optimizer="adam", seed=4, sparsity=0.9 if name == "random" else 0.7)
    checkpoint.load(path / name, model, optimizer)
    return train(model, optimizer, batches("linear")[12:], rank, world)


def work(rank: int, path: Path) -> None:
    dist.init_process_group("gloo")
    found = {case: trained(name, rank, 2, **options) for case, (name, options) in CASES.items()}
    found["bf16"] = trained("snr", rank, 2, mp_policy=BFLOAT16)
    save(rank, path)
    torch.save(found, path / f"{rank}.pt")
    torch.save({"refused": refusals(rank), "memory": memory(rank)}, path / f"facts{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where two processes left what they found, one pair for all cases."""
    path = tmp_path_factory.mktemp("two")
    ranks.run(2, lambda rank: work(rank, path), path)
    return path


@pytest.fixture(scope="module")
def found(path: Path) -> list[dict]:
    return [torch.load(path / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("case", CASES)
def test_shards_train_what_one_process_trains(case: str, found: list[dict]) -> None:
    first, second = (ours[case] for ours in found)
    assert_close(first, second, rtol=0.0, atol=0.0)
    name, options = CASES[case]
    alone = trained(name, **{key: value for key, value in options.items() if key != "reshard_after_forward"})
    assert_close(first, alone, rtol=1e-9, atol=1e-12)
    assert first["changes"]


def test_narrow_passes_of_wide_shards(found: list[dict]) -> None:
    first, second = (ours["bf16"] for ours in found)
    assert_close(first, second, rtol=0.0, atol=0.0)
    assert first["changes"]
    assert all(value.dtype != torch.bfloat16 for value in first["model"].values())


@pytest.fixture(scope="module")
def four(path: Path) -> list[dict]:
    """What four processes make of the checkpoints."""

    def work(rank: int) -> None:
        dist.init_process_group("gloo")
        torch.save({name: resumed(path, name, rank, 4) for name in SAVED}, path / f"four{rank}.pt")

    ranks.run(4, work, path)
    return [torch.load(path / f"four{rank}.pt") for rank in range(4)]


@pytest.mark.parametrize("name", SAVED)
def test_checkpoints_go_on_sharded_or_not(name: str, path: Path, four: list[dict]) -> None:
    model, optimizer = start(name, 1, optimizer="adam")
    train(model, optimizer, batches("linear")[:12])
    expected = train(model, optimizer, batches("linear")[12:])
    for each in (*(ours[name] for ours in four), resumed(path, name)):
        assert_close(each, expected, rtol=1e-9, atol=1e-12)


def test_what_does_not_go_together_is_said(path: Path) -> None:
    expected = {
        "sharded first": "sparsify the model first, then call fully_shard",
        "optimizer first": "built before sparsify or fully_shard?",
        "sparsifier first": "call it after sparsify, and before the optimizer and the Sparsifier are built",
        "other patterns": "does not have the same pattern on all ranks",
        "by columns": "0 is sharded otherwise than by rows",
        "dense again": "load the model's checkpoint into one without fully_shard",
        **REFUSED,
    }
    for rank in range(2):
        said = torch.load(path / f"facts{rank}.pt")["refused"]
        assert said.keys() == expected.keys()
        for what, message in said.items():
            assert expected[what] in message, what


def test_a_rank_has_its_part_and_all_of_the_index(path: Path) -> None:
    model, optimizer = start("set", 1)
    assert all(site.nnz == site.active.capacity for site in optimizer.sites)  # nothing is left over
    both = [torch.load(path / f"facts{rank}.pt")["memory"] for rank in range(2)]
    size = sum(p.nbytes for p in model.parameters())
    assert sum(each["held"] for each in both) == size
    assert sum(each["state"] for each in both) == 2 * size
    for each in both:
        report = each["report"]
        assert report["values"] == report["gradients"] == each["held"]
        assert report["optimizer"] == each["state"] + each["kept"]
        assert report["indices"] == each["index"]


def assert_close(ours: Any, other: Any, **tolerance: float) -> None:
    if isinstance(ours, dict):
        assert ours.keys() == other.keys()
        for key in ours:
            assert_close(ours[key], other[key], **tolerance)
    elif isinstance(ours, torch.Tensor) and ours.is_floating_point():
        torch.testing.assert_close(ours, other, **tolerance)
    else:
        assert torch.equal(ours, other) if isinstance(ours, torch.Tensor) else ours == other
