"""Ctrl-C at a random line of a change of pattern: the change has not begun or is over, and training goes on."""

import copy
import random
import sys
import warnings
from dataclasses import replace
from linecache import getline
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

import sparsekern as sk

from .training import EPOCH, Case, advance, batches, build, draw, same

PACKAGE = str(Path(sk.__file__).parent)
State = tuple[nn.Module, Any]


class Interrupter:
    """Presses Ctrl-C before the `n`-th line of this package, counted from the beginning of the change. Where a `with`
    statement is left, it doesn't: no signal comes between the last line of its block and what ends it."""

    def __init__(self, n: int) -> None:
        self.n, self.lines, self.begun, self.place = n, 0, False, ""

    def __call__(self, frame: FrameType, event: str, argument: Any) -> Any:
        code = frame.f_code
        self.begun |= code.co_name == "finish_step"
        if not code.co_filename.startswith(PACKAGE):
            return None
        line = getline(code.co_filename, frame.f_lineno).lstrip()
        if self.begun and event == "line" and not line.startswith("with "):
            self.lines += 1
            if self.lines == self.n:
                self.place = f"{code.co_filename.removeprefix(PACKAGE)}:{frame.f_lineno}"
                raise KeyboardInterrupt
        return self


def check(seed: int) -> None:
    r, dtype = random.Random(seed), torch.get_default_dtype()
    case = replace(draw(seed), skipped=(), closure=False, parts=1)
    torch.set_default_dtype(torch.float64)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _check(case, r)
    except Exception as error:
        raise AssertionError(f"{case}\n{type(error).__name__}: {error}") from error
    finally:
        torch.set_default_dtype(dtype)


def _check(case: Case, r: random.Random) -> None:
    model, sparsifier = build(case, case.backend, case.seed)
    due = [t for t in range(case.steps) if sparsifier.method.when.fires(t + (sparsifier.method.order == "before"))]
    at = r.choice(due or range(case.steps))
    advance(case, model, sparsifier, 0, at)
    start = model, sparsifier

    (before, _), _ = _interrupted(case, start, at, 1)
    (after, _), whole = _interrupted(case, start, at, sys.maxsize)
    for _ in range(3):
        (now, state), interrupter = _interrupted(case, start, at, r.randint(1, whole.lines))
        done = state[1].steps > at
        try:
            same(after if done else before, now, "", exact=True)
            advance(case, *state, at + 1, case.steps)
        except Exception as error:
            state = "over" if done else "not begun"
            raise AssertionError(f"step {at + 1}, at {interrupter.place}, {state}: {error}") from error


def _interrupted(case: Case, start: State, at: int, n: int) -> tuple[tuple[Any, State], Interrupter]:
    """What is known of a copy after the step, and the copy."""
    (model, sparsifier), interrupter = copy.deepcopy(start), Interrupter(n)
    x, y = batches(case)[at]
    sparsifier.zero_grad()
    loss = cross_entropy(model(x), y)
    loss.backward()
    sys.settrace(interrupter)
    try:
        sparsifier.step()
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(None)
    known = copy.deepcopy(_facts(model, sparsifier))
    if sparsifier.steps > at and sparsifier.steps % EPOCH == 0:
        sparsifier.epoch_end(loss.item())
    return (known, (model, sparsifier)), interrupter


def _facts(model: nn.Module, sparsifier: sk.Sparsifier) -> list[Any]:
    """All that a change alters. What is stashed of active weights means nothing."""
    state = sparsifier.state_dict()
    for site in sparsifier.sites:
        stashed = state["sites"][site.name].get("stashed", {})
        state["sites"][site.name]["stashed"] = {k: v.masked_fill(site.active.mask(), 0) for k, v in stashed.items()}
    held = [id(p) for group in sparsifier.param_groups for p in group["params"]]
    gradients = {name: None if p.grad is None else p.grad.detach() for name, p in model.named_parameters()}
    return [state, model.state_dict(), gradients, [id(p) in held for p in model.parameters()]]
