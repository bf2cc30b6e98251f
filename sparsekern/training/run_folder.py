"""The files of a run folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from ..errors import UsageError, first_line
from ..settings import DEFAULTS, PLAIN, brief
from . import checksum, config
from .config import RESUMABLE
from .files import locked, read_json, write, write_json, write_lines, write_safetensors
from .schema import Later, check, count, finite

VERSION = 2  # 1, of release 0.1, has no checksum
CONFIG = "config.json"
CHECKPOINT = "checkpoint.pt"
METRICS = "metrics.jsonl"
SUMMARY = "summary.json"
WEIGHTS = "model.safetensors"
REPORT = "report.png"
FILES = [CHECKPOINT, CONFIG, METRICS, WEIGHTS, REPORT, SUMMARY]

LAYER = {"name": str, "shape": [int], "nnz": count, "sparsity": finite, "iou_first": finite, "iou_last": finite}
EPOCH = {
    "epoch": count,
    "train_loss": float,
    "test_loss": float,
    "test_accuracy": finite,
    "sparsity": finite,
    "nnz": count,
    "layers": [LAYER],
}
SUMMARY_SHAPE = {
    **dict.fromkeys(("method", "model", "data", "backend"), str),
    **dict.fromkeys(("nnz", "epochs", "seed", "prunable", "peak_memory_bytes"), count),
    "test_loss": float,
    **dict.fromkeys(("test_accuracy", "sparsity", "seconds_per_step", "train_seconds"), finite),
    "sparsity_target": (finite, type(None)),
}
STATE_SHAPE = {
    "config": config.SCHEMA,
    "data": {"train": count, "test": count, "shape": [int], "classes": count, "names": Later([str])},
    "model": dict,
    "optimizer": dict,
    "scaler": dict,
    "rng": torch.Tensor,
    "cuda_rng": (torch.Tensor, type(None)),
    "epoch": count,
    "step": count,
    "seconds": [finite],
    "history": [EPOCH],
}


def holds_run(folder: Path) -> bool:
    return (folder / CHECKPOINT).exists() or (folder / SUMMARY).exists()


def check_resumable(folder: Path) -> None:
    """Raises a `UsageError` unless there is a checkpoint in a folder."""
    if not (folder / CHECKPOINT).is_file():
        if not folder.is_dir():
            raise UsageError(f"there is no folder {folder}")
        raise UsageError(f"{folder} holds no run: there is no {CHECKPOINT} in it")


def check_free(folder: Path, overwrite: bool) -> None:
    """Raises a `UsageError` if a new run would replace files in a folder and is not to `overwrite` them."""
    if (folder / "results.json").exists() and (folder / "table.md").exists() and not holds_run(folder):
        raise UsageError(f"{folder} holds a comparison; choose another --out")
    found = [name for name in FILES if (folder / name).exists()]
    if overwrite or not found:
        return
    if holds_run(folder):
        raise UsageError(f"{folder} already holds a run; --resume it, --overwrite it, or choose another --out")
    raise UsageError(f"{folder} holds {found[0]}, which is of no run; choose another --out, or --overwrite it")


@contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Keeps the folder of a run for this process as long as the context lasts; raises like `files.locked`."""
    with locked(folder, FILES):
        yield


def clear(folder: Path) -> None:
    """Removes the run that a folder holds, but for its checkpoint, which the new one's replaces."""
    for name in FILES:
        if name != CHECKPOINT:
            (folder / name).unlink(missing_ok=True)


def finished(folder: Path) -> bool:
    """Tells whether the summary is of the last epoch of its configuration: that of a prolonged run may be older."""
    try:
        return read_summary(folder)["epochs"] == read_config(folder)["epochs"]
    except UsageError:
        return False


def complete(folder: Path, epochs: int) -> bool:
    """Tells whether the summary is of so many epochs, and the files before it are those that it was written with."""
    try:
        summary = read_summary(folder)
        files = summary.get("files", {})
        return summary["epochs"] == epochs and all(checksum.digest(folder / name) == files[name] for name in files)
    except (UsageError, OSError):
        return False


def read_config(folder: Path) -> dict:
    """Reads the configuration; raises a `UsageError` if there is none or it is damaged."""
    if not (folder / CONFIG).is_file():
        if (folder / CHECKPOINT).is_file():  # stopped before the first configuration was written
            return load(folder)["config"]
        raise UsageError(f"{folder} holds no run: there is no {CONFIG} in it")
    return _whole(read_json(folder / CONFIG, config.SCHEMA))


def _whole(found: dict) -> dict:
    """Returns all settings of a run, those that its file is older than, too."""
    if found.get("method") == "optg" and "clip" not in found:  # before `short_runs`
        found = found | {"set": {"steepness": 80 / found.get("horizon", found["epochs"]), **found.get("set", {})}}
    return DEFAULTS | PLAIN | found


def save(folder: Path, state: dict) -> None:
    """Writes the checkpoint, then the configuration and the metrics, which are copies of what it holds."""
    write(folder / CHECKPOINT, lambda file: checksum.save(file, state))
    write_json(folder / CONFIG, state["config"])
    write_lines(folder / METRICS, state["history"])


def load(folder: Path) -> dict:
    """Returns the checkpoint of the run in a folder.

    Raises:
        UsageError: there is none, it is damaged, or it is of another run than the configuration beside it.
    """
    check_resumable(folder)
    path = folder / CHECKPOINT
    try:
        state = checksum.load(path)
    except Exception as error:  # what is no pickle raises whatever its bytes happen to mean
        raise UsageError(f"{path} is damaged: {first_line(error)}") from error
    if not isinstance(state, dict) or "version" not in state:
        raise UsageError(f"{path} is not a checkpoint of sparsekern")
    if state["version"] not in (1, VERSION):
        raise UsageError(f"{path}: expected a checkpoint of version 1 or {VERSION}, got {brief(state['version'])}")
    if state["version"] == VERSION and not checksum.sealed(path):
        raise UsageError(f"{path} is damaged: its checksum is missing")
    check(state, STATE_SHAPE, str(path))
    if len(state["history"]) != state["epoch"] or len(state["seconds"]) != state["epoch"]:
        raise UsageError(f"{path} is damaged: history: expected {state['epoch']} epochs, got {len(state['history'])}")
    state["config"] = _whole(state["config"])
    if (folder / CONFIG).is_file():
        _check_same_run(folder, state["config"], read_config(folder))
    return state


def _check_same_run(folder: Path, there: dict, here: dict) -> None:
    for name in sorted({*there, *here} - RESUMABLE):
        if name not in there and name not in DEFAULTS:
            raise UsageError(f"{folder / CONFIG} has the unknown setting {name!r}")
        if there.get(name) != here.get(name):
            raise UsageError(
                f"{folder / CHECKPOINT} is of another run than {CONFIG} beside it: {name} is "
                f"{brief(there.get(name))}, not {brief(here.get(name))}"
            )


def save_weights(folder: Path, model: torch.nn.Module) -> None:
    """Writes the model's state dict as safetensors."""
    write_safetensors(folder / WEIGHTS, model)


def save_summary(folder: Path, summary: dict) -> None:
    """Writes the summary, last: it vouches for the files before it."""
    files = {name: checksum.digest(folder / name) for name in (WEIGHTS, METRICS)}
    write_json(folder / SUMMARY, checksum.stamp(summary | {"files": files}))


def read_summary(folder: Path) -> dict:
    """Reads the summary; it may lack a checksum only if the checkpoint, of release 0.1, has none."""
    summary = read_json(folder / SUMMARY, SUMMARY_SHAPE)
    try:
        required = checksum.sealed(folder / CHECKPOINT)
    except OSError:
        required = False
    return checksum.stamped(summary, str(folder / SUMMARY), required)
