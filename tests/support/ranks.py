"""Data-parallel ranks for tests: forks of the test process, which has imported everything."""

import os
import socket
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import torch


def start(world: int, work: Callable[[int], object], path: Path) -> list[int]:
    """Forks `world` processes in the environment that torchrun would give them, each to call `work(rank)`; returns
    their ids. What a process prints goes to `path/RANK.out` and `.err`; what `work` returns is its exit status."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(world):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                sys.stdout, sys.stderr = ((path / f"{rank}.{end}").open("w", buffering=1) for end in ("out", "err"))
                os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
                os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
                torch.set_num_threads(1)
                status = work(rank)
                code = status if isinstance(status, int) else 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        children.append(child)
    return children


def ended(children: list[int]) -> list[int]:
    """Waits for processes; returns their exit statuses, negative for a signal."""
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def run(world: int, work: Callable[[int], object], path: Path) -> None:
    """Does `work(rank)` in each of `world` processes; raises with what they printed unless all end well."""
    codes = ended(start(world, work, path))
    told = "".join(f"rank {rank}: {(path / f'{rank}.err').read_text()}" for rank in range(world))
    assert codes == [0] * world, told
