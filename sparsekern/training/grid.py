"""Many training runs, each a process and a folder of its own: what is finished stays, what is not goes on."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .. import process
from ..errors import UsageError
from . import run_folder
from .config import RESUMABLE, as_flag
from .files import folder as make_folder

GRACE = 30.0  # seconds that an interrupted run has to end by itself


@dataclass
class Cell:
    """One run: the flags of `train`, what they resolve to, and where it lies; of the flags, those to resume it with."""

    flags: dict
    config: dict
    folder: Path
    again: tuple[str, ...] = ("data_dir",)


def check(cell: Cell) -> None:
    """Raises a `UsageError` if the folder holds a run of other settings."""
    if not run_folder.holds_run(cell.folder):
        return
    before = run_folder.read_config(cell.folder)
    for name, value in cell.config.items():
        if (name not in RESUMABLE or name == "epochs") and before.get(name) != value:
            flag = as_flag(name)
            raise UsageError(
                f"{cell.folder} holds a run with {flag} {before.get(name)}, not {value}; choose another --out"
            )


def command(cell: Cell) -> list[str]:
    """The command line that begins the run, or goes on with it."""
    command = process.command("sparsekern", "train")
    if (cell.folder / run_folder.CHECKPOINT).exists():
        flags = {name: cell.flags[name] for name in cell.again if name in cell.flags}
        command += ["--resume", str(cell.folder)]
    else:
        flags = cell.flags
        command += ["--out", str(cell.folder)]
    for name, value in flags.items():
        flag = as_flag(name)
        if name in ("set", "overrides"):
            command += [part for key, setting in value for part in (flag, f"{key}={setting}")]
        elif name in ("exclude", "log"):
            command += [f"{flag}={part}" for part in value]
        elif name == "milestones":
            command.append(f"{flag}={','.join(map(str, value))}")
        elif value is True:
            command.append(flag)
        else:
            command.append(f"{flag}={value}")
    return command


def run_all(cells: list[Cell], jobs: int) -> list[dict]:
    """Runs what is not finished, `jobs` at a time, and returns the failures."""
    with _terminated_like_interrupted():
        return _run_all(cells, jobs)


def _run_all(cells: list[Cell], jobs: int) -> list[dict]:
    waiting = [cell for cell in cells if not run_folder.finished(cell.folder)]
    done = len(cells) - len(waiting)
    if done:
        print(f"{done} of {len(cells)} runs are finished already", flush=True)
    running: list[tuple[Cell, subprocess.Popen, float]] = []
    failed = []
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                cell = waiting.pop(0)
                with (make_folder(cell.folder) / "log.txt").open("ab") as log:
                    child = subprocess.Popen(
                        command(cell),
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                        # W&B draws the runs of a group together.
                        env={"WANDB_RUN_GROUP": cell.folder.resolve().parent.name, **os.environ},
                        # Ctrl-C reaches it once, from us, and not from the terminal as well.
                        start_new_session=True,
                    )
                running.append((cell, child, time.perf_counter()))
            time.sleep(0.05)
            for item in [item for item in running if item[1].poll() is not None]:
                running.remove(item)
                cell, child, start = item
                done += 1
                outcome = _outcome(cell, child.returncode)
                if outcome is not None:
                    failed.append(outcome)
                print(f"[{done}/{len(cells)}] {cell.folder.name}: {_news(cell, outcome, start)}", flush=True)
    finally:
        _stop([child for _, child, _ in running])
    return failed


@contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """SIGTERM does what Ctrl-C does, so that the runs, which have sessions of their own, do not outlive us."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _stop(children: list[subprocess.Popen]) -> None:
    """Interrupts them and waits. What ignores that, as processes in the background of a script do, is killed."""
    for child in children:
        child.send_signal(signal.SIGINT)
    end = time.monotonic() + GRACE
    for child in children:
        try:
            child.wait(max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _outcome(cell: Cell, status: int) -> dict | None:
    if status == 0 and run_folder.finished(cell.folder):
        return None
    log = cell.folder / "log.txt"
    lines = log.read_text(errors="replace").strip().splitlines()
    return {"run": cell.folder.name, "status": status, "error": lines[-1] if lines else "", "log": str(log)}


def _news(cell: Cell, failure: dict | None, start: float) -> str:
    if failure:
        return f"FAILED with status {failure['status']}: {failure['error']} (see {failure['log']})"
    summary = run_folder.read_summary(cell.folder)
    return (
        f"accuracy {summary['test_accuracy']:.2%}, {summary['seconds_per_step'] * 1e3:.2f} ms per step, "
        f"{time.perf_counter() - start:.0f} s"
    )
