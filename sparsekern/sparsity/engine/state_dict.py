"""Saves and loads the state of an engine, also from files of version 0.1."""

from typing import Any

from ..model.fully_sharded import reshard
from .checks import check_saved, renamed
from .draft import drafted
from .engine import Engine
from .optimizer_state_dict import compact_state_dict, load_compact_state_dict
from .snapshot import Snapshot


def state_of(engine: Engine) -> dict[str, Any]:
    """Returns optimizer state with `[nnz]` entries for sparse weights, counters, the generator, and each layer's
    kernel, all in plain values that `torch.save` can hold. "inner" has the same of engines inside it, but for the
    optimizer, which is theirs, too."""
    reshard(engine.sharders)
    own, *inner = [_state(each) for each in engine.chain]
    sites = [site for each in engine.chain for site in each.now.sites]
    return {**own, "optimizer": compact_state_dict(engine.optimizer, sites), **({"inner": inner} if inner else {})}


def _state(engine: Engine) -> dict[str, Any]:
    now = engine.now
    return {
        "method": engine.method.name,
        "steps": now.steps,
        "losses": list(now.losses),
        "loss_due": now.loss_due,
        "settled": now.settled,
        "frozen": now.frozen,
        **({"unloaded": True} if now.unloaded else {}),
        "snapshot": None if now.snapshot is None else now.snapshot.state(now.sites),
        "generator": engine.generator.get_state(),
        "sites": {site.name: site.state() for site in now.sites},
    }


def load(engine: Engine, state: dict[str, Any]) -> None:
    """Restores what `state_of` returned, also in version 0.1.

    Raises:
        ValueError: the state is of another method or model, or the model's state was not loaded before.
    """
    reshard(engine.sharders)
    states = [state, *state.get("inner", [])]
    expected, found = ([each.method.name for each in engine.chain], [each.get("method") for each in states])
    if expected != found:
        raise ValueError(f"expected the state of method {' + '.join(expected)}, got {' + '.join(map(str, found))}")
    for each, own in zip(engine.chain, states, strict=True):
        _fit(each, own)
    load_compact_state_dict(
        engine.optimizer, [site for each in engine.chain for site in each.now.sites], state["optimizer"]
    )
    for each, own in zip(engine.chain, states, strict=True):
        _restore(each, own)


def _fit(engine: Engine, state: dict[str, Any]) -> None:
    """Gives the layers the storage and the capacities that they have in a state."""
    saved = renamed(engine.now.sites, state["sites"])
    if state["steps"]:  # otherwise the state is of what the first change made
        with drafted(engine) as draft:
            draft.undo_first_change()
    check_saved(engine.now.sites, saved)
    for site in engine.now.sites:
        for follower in engine.followers_of(site):
            if not follower.topology.same_pattern(site.active):  # its own state may come later
                follower.load_state_dict(site.module.state_dict())
    if engine.now.settled and not state["settled"] and engine.method.resolved_storage.keeps_pruned:
        raise ValueError(
            "the layers hold nonzeros only, but the state is of a run that still kept the pruned weights: load it into "
            "a new model, made by sparsify with the same method"
        )
    with drafted(engine) as draft:
        draft.begin()
        if state["settled"]:
            draft.settle()
        draft.now.frozen = state["frozen"]
        draft.fit(saved)


def _restore(engine: Engine, state: dict[str, Any]) -> None:
    now, saved = engine.now, renamed(engine.now.sites, state["sites"])
    for site in now.sites:
        site.load_state(saved[site.name])
    now.steps, now.losses = state["steps"], list(state["losses"])
    now.loss_due, now.unloaded = state["loss_due"], state.get("unloaded", False)
    snapshot = state["snapshot"] if "snapshot" in state else state["origin"]  # as version 0.1 called it
    now.snapshot = Snapshot.loaded(snapshot, now.sites) if snapshot else None
    engine.generator.set_state(state["generator"].cpu())
    engine.arm()
