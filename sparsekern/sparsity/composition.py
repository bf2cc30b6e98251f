"""The parts of a method in words: the rows of the table that `print(method)` and a notebook show."""

from __future__ import annotations

from math import isinf
from typing import TYPE_CHECKING

from .parts.schedules import Cadence, Schedule, Stages, final

if TYPE_CHECKING:
    from .method import Method

KEEP = {
    "nonzeros": "their nonzeros",
    "master": "a dense weight under a mask",
    "stashed": "their nonzeros; pruned weights are stashed",
    "dense": "a dense weight",
}
VALUES = {
    "keep": "those of the model",
    "rescale": "those of the model, times sqrt(dense fan-in / fan-in)",
    "fan_in": "drawn with variance 1 / fan-in",
    "evci": "drawn with variance 2 / fan-in",
}


def rows(method: Method) -> list[list[str]]:
    """Returns pairs of a property and its value; those that do not apply are left out."""
    start, view, grow, storage = method.start, method.view, method.grow, method.resolved_storage
    found = {"method": method.name}
    if storage.prunes:
        unit = "channels" if start.unit == "channel" or view.filters else "weights"
        chosen = "chosen by scores, before training" if start.choose else f"random, {_name(start.share)}"
        reached = f"{_values(method.sparsity)} of the {unit}" if method.has_sparsity else "emerges"
        if start.given:
            chosen = reached = "that of the masks"
        elif storage.keeps_pruned and not method.sparsity(0):
            chosen = "all weights"
        found["sparsity"] = reached
        found |= {"first pattern": chosen, "first weights": VALUES[start.initialize]}
        found["pattern changes"] = _times(method.when)
        until = "" if storage.until is None else f"; from step {storage.until} on their nonzeros"
        found["layers hold"] = KEEP[storage.name] + until
        found["weights compete"] = "within each layer" if view.per_layer else "over the network"
        if view.structure is not None:
            found["structure"] = str(view.structure)
    if grow is not None:
        by = "by their gradients" if grow.armed or grow.batches > 1 else "at random"
        among = "" if grow.multiplier is None else f", among {grow.multiplier:g} times as many"
        exchanged = f"{_values(grow.rate)} of the weights, " if grow.rate(0) else ""
        found["grown"] = f"{exchanged}{by}{among}"
    return [*map(list, found.items()), *(["note", note] for note in method.notes)]


def _values(schedule: Schedule) -> str:
    first, last = schedule(0), final(schedule)
    return f"{last:g}" if first == last else f"{first:g} at first, {last:g} in the end,"


def _times(when: Cadence | Stages) -> str:
    if when.stop <= 0:
        return "never"
    until = "" if isinf(when.stop) else f", until step {int(when.stop)}"
    return f"every {when.period} step{'s' * (when.period > 1)} from step {when.first} on{until}"


def _name(share: object) -> str:
    return getattr(share, "__name__", "a distribution of its own")
