"""The files of a run folder."""

from pathlib import Path
from typing import Any

import torch

from .errors import UsageError, require
from .files import read_json, write, write_json, write_lines

VERSION = 1
CONFIG = "config.json"
CHECKPOINT = "checkpoint.pt"
METRICS = "metrics.jsonl"
SUMMARY = "summary.json"
WEIGHTS = "model.safetensors"
REPORT = "report.png"


def holds_run(folder: Path) -> bool:
    return (folder / CHECKPOINT).exists() or (folder / SUMMARY).exists()


def finished(folder: Path) -> bool:
    return (folder / SUMMARY).exists()


def read_config(folder: Path) -> dict:
    if not (folder / CONFIG).is_file():
        raise UsageError(f"{folder} holds no run: there is no {CONFIG} in it")
    config = read_json(folder / CONFIG)
    if not isinstance(config, dict):
        raise UsageError(f"{folder / CONFIG} is damaged: expected an object")
    return config


def save(folder: Path, state: dict) -> None:
    write(folder / CHECKPOINT, lambda file: torch.save(state, file))


def load(folder: Path) -> dict:
    path = folder / CHECKPOINT
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UsageError(f"{folder} holds no run to resume: there is no {CHECKPOINT} in it") from error
    except Exception as error:  # what is no pickle raises whatever its bytes happen to mean
        raise UsageError(f"{path} is damaged: {str(error).splitlines()[0] if str(error) else error!r}") from error
    if not isinstance(state, dict) or "version" not in state:
        raise UsageError(f"{path} is not a checkpoint of sparsekern")
    if state["version"] != VERSION:
        raise UsageError(f"expected a checkpoint of version {VERSION}, got {state['version']}")
    return state


def save_weights(folder: Path, state: dict[str, Any]) -> None:
    """The model's state dict as safetensors."""
    save_file = require("safetensors.torch").save_file
    tensors = {name: t.detach().contiguous().cpu() for name, t in state.items() if isinstance(t, torch.Tensor)}
    write(folder / WEIGHTS, lambda file: save_file(tensors, file, metadata={"format": "pt"}))


def save_history(folder: Path, history: list[dict]) -> None:
    write_lines(folder / METRICS, history)


def save_summary(folder: Path, summary: dict) -> None:
    write_json(folder / SUMMARY, summary)


def read_summary(folder: Path) -> dict:
    return read_json(folder / SUMMARY)


def save_config(folder: Path, config: dict) -> None:
    write_json(folder / CONFIG, config)
