"""Figures of a run, as its folder keeps them: a line of `metrics.jsonl` for each epoch, and `summary.json`."""

import math
import os
import sys

import torch

from ..nn.memory import COLUMNS
from ..sparsity import parallel
from .run import Run


def epoch_metrics(run: Run, train_loss: float, test_loss: float, accuracy: float) -> dict:
    """Returns what `metrics.jsonl` holds of an epoch."""
    (nnz, prunable), total = run.weights(), run.memory.total
    return {
        "epoch": run.epoch,
        "step": run.step,
        "lr": run.optimizer.param_groups[0]["lr"],
        "train_loss": train_loss,
        "test_loss": test_loss,
        "test_accuracy": accuracy,
        **({"test_bits_per_byte": test_loss / math.log(2)} if run.data.tokens else {}),
        "sparsity": 1 - nnz / prunable,
        "nnz": nnz,
        "seconds_per_step": run.seconds[-1],
        "cpu_seconds_per_step": run.cpu_seconds,
        "weight_bytes": run.most_bytes,
        "dense_weight_bytes": sum(total[f"dense_{column}"] for column in COLUMNS),
        "layers": [_plain(row) for row in run.optimizer.report().rows],
    }


def _plain(row: dict) -> dict:
    """Returns a row of a report as JSON can hold it."""
    return {
        key: list(value) if isinstance(value, tuple) else value.item() if isinstance(value, torch.Tensor) else value
        for key, value in row.items()
    }


def peak_memory() -> int:
    """Returns the highest resident memory of this process so far, in bytes, the interpreter and torch included."""
    if os.name != "posix":
        return 0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def summarise(run: Run) -> dict:
    """Returns the content of `summary.json`.

    `seconds_per_step` is the median over the epochs of an epoch's training time by its steps, `train_seconds` that of
    all epochs, evaluation excluded; `cpu_seconds_per_step` is the processor's time in place of the clock's, threads
    added up, which other processes disturb less;
    `peak_memory_bytes` is `peak_memory`, or the most that torch allocated on a CUDA device; `peak_weight_bytes` is the
    most that weights, indices, gradients and optimizer state took together after any epoch or its first step.
    """
    config, last = run.config, run.history[-1]
    cuda = run.device.type == "cuda"
    cpu = [epoch["cpu_seconds_per_step"] for epoch in run.history if "cpu_seconds_per_step" in epoch]
    return {
        "method": config["method"],
        "model": config["model"],
        "data": config["data"],
        "sparsity_target": config["sparsity"],
        **{key: last[key] for key in ("sparsity", "nnz")},
        "prunable": run.weights()[1],
        **{key: last[key] for key in ("train_loss", "test_loss", "test_accuracy", "test_bits_per_byte") if key in last},
        "epochs": run.epoch,
        "steps": run.step,
        "seconds_per_step": sorted(run.seconds)[len(run.seconds) // 2],
        "cpu_seconds_per_step": sorted(cpu)[len(cpu) // 2] if cpu else None,
        "train_seconds": sum(run.seconds) * run.steps_per_epoch,
        "peak_memory_bytes": torch.cuda.max_memory_allocated(run.device) if cuda else peak_memory(),
        "peak_weight_bytes": max((epoch.get("weight_bytes", 0) for epoch in run.history), default=0),
        "memory": run.memory.total,
        "seed": config["seed"],
        "backend": config["backend"],
        "device": config["device"],
        "threads": config["threads"],
        "world_size": parallel.ranks(),
        "torch": torch.__version__,
    }
