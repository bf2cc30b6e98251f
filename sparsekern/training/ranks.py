"""Data-parallel runs: the processes that `torchrun` starts train one network, each on its part of every batch.

torchrun tells each process which one it is (RANK, WORLD_SIZE; LOCAL_RANK on its machine), and so do the launchers of
clusters. Rank 0 writes the folder and speaks for all.
"""

import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn

from ..errors import RunError, UsageError, first_line
from ..process import rank_of_machine, world_size
from ..sparsity import parallel

Value = TypeVar("Value")


@contextmanager
def joined() -> Iterator[None]:
    """Joins the other ranks for the length of a command, of which all but rank 0 print nothing. Does nothing in a
    process that is alone."""
    if world_size() == 1:
        yield
        return
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    previous = signal.signal(signal.SIGTERM, _terminated)
    try:
        if first():
            yield
        else:
            with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
    finally:
        signal.signal(signal.SIGTERM, previous)
    dist.destroy_process_group()  # not after an error, where the others may never answer


class Terminated(SystemExit):
    """torchrun ends the ranks of a run, because one of them has ended or because it was told to."""


def _terminated(*_: object) -> None:
    raise Terminated("this one was terminated")


def first() -> bool:
    """Returns whether this is rank 0, or the only process."""
    return parallel.rank() == 0


@contextmanager
def together() -> Iterator[None]:
    """Ends all ranks if one of them meets a mistake of the user's or a failure. Rank 0 raises it; the others, whose
    message would be one too many, exit."""
    error: UsageError | RunError | None = None
    try:
        yield
    except (UsageError, RunError) as met:
        error = met
    for rank, other in enumerate(parallel.gathered(error)):
        if other is not None and first():
            raise type(other)(str(other) if rank == 0 else f"rank {rank}: {other}") from error
        if other is not None:
            sys.exit(2 if isinstance(other, UsageError) else 1)


def from_first(make: Callable[[], Value]) -> Value:
    """Returns on all ranks what `make` gives on rank 0."""
    value: Any = None
    with together():
        if first():
            value = make()
    return parallel.shared(value)


def in_turn(make: Callable[[bool], Value]) -> Value:
    """Returns `make(True)` in the first process of every machine and then `make(False)` in the others, which find what
    the first one has downloaded."""
    found: Any = None
    for leads in (True, False):
        with together():
            if leads == (parallel.ranks() == 1 or rank_of_machine() == 0):
                found = make(leads)
    return found


@contextmanager
def watched(advice: str, interrupted: Callable[[], None]) -> Iterator[None]:
    """Gives `advice` where a rank has ended, which collective operations tell the others by errors, and torchrun by
    SIGTERM. Rank 0 tells it, or rank 1 if it may have been rank 0.

    Args:
        interrupted: raises KeyboardInterrupt if Ctrl-C was pressed, which ends ranks, too.
    """
    try:
        yield
    except (Terminated, RuntimeError) as error:
        lost = isinstance(error, Terminated | dist.DistError) or "gloo" in str(error)
        if parallel.ranks() == 1 or not lost or isinstance(error, RunError):
            raise
        interrupted()
        if parallel.rank() > 1:
            sys.exit(1)
        raise RunError(f"a rank has ended or is out of reach ({first_line(error)}); {advice}") from error


def device(name: str) -> torch.device:
    """Returns the device of this rank: of `cuda`, every process of a machine has one of its own.

    Raises:
        UsageError: all ranks would share one, or there are fewer than processes.
    """
    own = torch.device(name)
    if own.type != "cuda" or parallel.ranks() == 1:
        return own
    count, number = torch.cuda.device_count(), rank_of_machine()
    if own.index is not None:
        raise UsageError(f"every rank takes a device of its own: --device cuda, not {name}")
    if number >= count:
        raise UsageError(f"this machine has {count} CUDA devices; start as many processes, --nproc-per-node {count}")
    torch.cuda.set_device(number)
    return torch.device("cuda", number)


def share_buffers(model: nn.Module) -> None:
    """Gives all ranks the buffers of rank 0, the statistics of batch norm say, with which the model is evaluated."""
    for buffer in model.buffers() if parallel.ranks() > 1 else ():
        buffer.copy_(parallel.of_first(buffer))
