"""`sparsekern train`: trains one network and leaves a folder that can be resumed, plotted and compared."""

import argparse
import os
import sys
import warnings
from contextlib import suppress
from itertools import chain, count
from pathlib import Path
from typing import Any

import torch

from ..data import load
from ..errors import UsageError, require
from . import checkpoint, figures, recipes
from .files import folder as make_folder
from .files import locked
from .options import RESUMABLE, add_arguments, check, resolve
from .progress import Progress
from .run import Run

DESCRIPTION = """\
Trains one network. DIR then holds config.json, metrics.jsonl (a line per epoch), checkpoint.pt (after every epoch),
summary.json, model.safetensors and report.png.

  sparsekern train                                          digits, 90 % sparse, half a minute
  sparsekern train --method rigl --sparsity 0.98 --data mnist --data-dir data --download --model lenet300
  sparsekern train --method gse_grabo --set every=50 --out runs/try
  sparsekern train --recipe dpf-resnet20 --data-dir data --epochs 8   a paper's settings (--recipe list), shortened
  sparsekern train --resume runs/try                        continues bit for bit after Ctrl-C
  sparsekern train --resume runs/try --epochs 40            prolongs a run; schedules keep their first horizon
"""


def register(commands: Any) -> None:
    parser = commands.add_parser(
        "train",
        help="train one network",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
    )
    add_arguments(parser)
    group = parser.add_argument_group("folder")
    place = group.add_mutually_exclusive_group()
    place.add_argument("--out", type=Path, metavar="DIR", help="new folder of this run (default: a free one in runs/)")
    place.add_argument("--resume", type=Path, metavar="DIR", help="continue the run in this folder")
    group.add_argument("--overwrite", action="store_true", help="replace the run that --out already holds")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    given = vars(arguments).copy()
    for name in ("run", "command"):
        given.pop(name, None)
    out, resume = given.pop("out", None), given.pop("resume", None)
    overwrite, download = given.pop("overwrite", False), given.pop("download", False)
    if given.get("recipe") == "list":
        print(recipes.listing())
        return 0
    for package in ("safetensors.torch", "matplotlib"):
        require(package)
    if resume is not None:
        if overwrite:
            raise UsageError("--overwrite and --resume contradict each other")
        if "recipe" in given:
            raise UsageError("--recipe begins a run; the one to --resume has its settings already")
        return _resume(resume, given, download)
    config = resolve(recipes.apply(given))
    _check_free(out, overwrite)
    session = Run(config, load(config, download))
    session.check_batches()
    folder = _new_folder(config) if out is None else make_folder(out)
    with locked(folder, checkpoint.FILES):
        _check_free(folder, overwrite)  # another process may have been faster
        for name in checkpoint.FILES:
            if name != checkpoint.CHECKPOINT:  # which is replaced
                (folder / name).unlink(missing_ok=True)
        return train(session, folder)


def _check_free(folder: Path | None, overwrite: bool) -> None:
    if folder is not None and checkpoint.holds_run(folder) and not overwrite:
        raise UsageError(f"{folder} already holds a run; --resume it, --overwrite it, or choose another --out")


def _resume(folder: Path, given: dict, download: bool) -> int:
    """Goes on with the run in a folder, from its checkpoint alone: the other files are copies of what that holds."""
    if not (folder / checkpoint.CHECKPOINT).is_file():
        raise UsageError(f"{folder} holds no run to resume: there is no {checkpoint.CHECKPOINT} in it")
    with locked(folder, checkpoint.FILES):
        state = checkpoint.load(folder)
        config = _resumed(given, state)
        try:
            check(config)
        except UsageError as error:
            raise UsageError(f"{folder / checkpoint.CHECKPOINT}: {error}") from error
        session = Run(config, load(config, download))
        session.check_batches()
        session.load_state_dict(state)
        if session.epoch == config["epochs"] and checkpoint.complete(folder, session.epoch):
            print(f"{folder} is finished: {config['epochs']} epochs. Prolong it with --epochs N.")
            return 0
        return train(session, folder)


def _resumed(given: dict, state: dict) -> dict:
    """The configuration of the interrupted run, with what may change changed."""
    config = dict(state["config"])
    given = given | ({"set": dict(given["set"])} if "set" in given else {})
    for name, value in given.items():
        if name not in RESUMABLE and value != config.get(name):
            flag = "--" + name.replace("_", "-")
            raise UsageError(f"the run to resume has {flag} {config.get(name)}, not {value}; leave {flag} out")
    before = config["threads"]
    config |= given
    config["threads"] = config["threads"] or torch.get_num_threads()
    if before not in (None, config["threads"]):
        warnings.warn(
            f"--threads {config['threads']} instead of {before}: what torch multiplies may differ in its last bits",
            stacklevel=2,
        )
    if config["epochs"] < state["epoch"]:
        raise UsageError(f"the run to resume has done {state['epoch']} epochs, more than --epochs {config['epochs']}")
    if config["epochs"] > config["horizon"] and config["schedule"] == "cosine":
        raise UsageError(
            f"a cosine schedule ends at epoch {config['horizon']}, where this run began to end; "
            "start a new run with more --epochs"
        )
    return config


def train(session: Run, folder: Path) -> int:
    """Trains to the last epoch of the configuration."""
    config = session.config
    _save(folder, session)
    print(f"{describe(config)}\n{folder}", flush=True)
    total = config["epochs"] * session.steps_per_epoch
    try:
        with Progress(total, session.step, config["method"]) as progress:
            while session.epoch < config["epochs"]:
                mean = session.train_epoch(progress.step)
                session.history.append(_metrics(session, mean, *session.evaluate(progress.check)))
                _save(folder, session)
                progress.line(_line(session))
                progress.check()
    except KeyboardInterrupt:
        print(
            f"stopped after epoch {session.epoch}; continue with: sparsekern train --resume {folder}", file=sys.stderr
        )
        raise
    checkpoint.save_weights(folder, session.model.state_dict())
    figures.draw_run(folder / checkpoint.REPORT, config, session.history)
    summary = summarise(session)
    checkpoint.save_summary(folder, summary)
    print(
        f"\n{session.optimizer.report()}\n\n{session.memory}\n\n"
        f"test accuracy {summary['test_accuracy']:.2%}, {summary['nnz']:,} of {summary['prunable']:,} weights, "
        f"{summary['seconds_per_step'] * 1e3:.2f} ms per step\n{folder / checkpoint.REPORT}"
    )
    return 0


def _new_folder(config: dict) -> Path:
    """A folder in runs/ that nobody has, not even a process that looks for one at the same moment."""
    parts = [config["data"], config["model"], config["method"]]
    parts += [f"{config['sparsity']:g}"] if config["sparsity"] else []
    base = make_folder(Path("runs")) / "-".join([*parts, f"seed{config['seed']}"])
    for path in chain([base], (base.with_name(f"{base.name}-{i}") for i in count(2))):
        with suppress(FileExistsError):
            path.mkdir()
            return path
    raise AssertionError("no number is free")


def describe(config: dict) -> str:
    sparse = f" at {config['sparsity']:.2%} sparsity" if config["sparsity"] else ""
    sparse += "" if config["method"] == "dense" else f", backend {config['backend']}"
    return (
        f"{config['method']}{sparse}: {config['model']} on {config['data']}, {config['epochs']} epochs, "
        f"{config['optimizer']}, seed {config['seed']}, {config['threads']} threads"
    )


def _save(folder: Path, session: Run) -> None:
    """The checkpoint first: metrics and configuration are copies of what it holds."""
    checkpoint.save(folder, session.state_dict())
    checkpoint.save_config(folder, session.config)
    checkpoint.save_history(folder, session.history)


def _metrics(session: Run, train_loss: float, test_loss: float, accuracy: float) -> dict:
    """What `metrics.jsonl` holds of an epoch."""
    layers = [_plain(row) for row in session.optimizer.report().rows]
    nnz, prunable = session.weights()
    return {
        "epoch": session.epoch,
        "step": session.step,
        "lr": session.optimizer.param_groups[0]["lr"],
        "train_loss": train_loss,
        "test_loss": test_loss,
        "test_accuracy": accuracy,
        "sparsity": 1 - nnz / prunable,
        "nnz": nnz,
        "seconds_per_step": session.seconds[-1],
        "cpu_seconds_per_step": session.cpu_seconds,
        "weight_bytes": session.most_bytes,
        "layers": layers,
    }


def _plain(row: dict) -> dict:
    """A row of a report as JSON can hold it."""
    return {
        key: list(value) if isinstance(value, tuple) else value.item() if isinstance(value, torch.Tensor) else value
        for key, value in row.items()
    }


def _line(session: Run) -> str:
    now = session.history[-1]
    return (
        f"epoch {now['epoch']:{len(str(session.config['epochs']))}}/{session.config['epochs']}"
        f"  train loss {now['train_loss']:.4f}  test loss {now['test_loss']:.4f}  accuracy {now['test_accuracy']:7.2%}"
        f"  sparsity {now['sparsity']:.2%}  {now['seconds_per_step'] * 1e3:.2f} ms/step"
    )


def peak_memory() -> int:
    """Highest resident memory of this process so far, in bytes, the interpreter and torch included."""
    if os.name != "posix":
        return 0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def summarise(session: Run) -> dict:
    """The content of `summary.json`.

    `seconds_per_step` is the median over the epochs of an epoch's training time by its steps, `train_seconds` that of
    all epochs, evaluation excluded; `cpu_seconds_per_step` is the processor's time in place of the clock's, threads
    added up, which other processes disturb less;
    `peak_memory_bytes` is `peak_memory`, or the most that torch allocated on a CUDA device; `peak_weight_bytes` is the
    most that weights, indices, gradients and optimizer state took together after any epoch or its first step.
    """
    config, last = session.config, session.history[-1]
    cuda = session.device.type == "cuda"
    cpu = [epoch["cpu_seconds_per_step"] for epoch in session.history if "cpu_seconds_per_step" in epoch]
    return {
        "method": config["method"],
        "model": config["model"],
        "data": config["data"],
        "sparsity_target": config["sparsity"],
        **{key: last[key] for key in ("sparsity", "nnz")},
        "prunable": session.weights()[1],
        **{key: last[key] for key in ("train_loss", "test_loss", "test_accuracy")},
        "epochs": session.epoch,
        "steps": session.step,
        "seconds_per_step": sorted(session.seconds)[len(session.seconds) // 2],
        "cpu_seconds_per_step": sorted(cpu)[len(cpu) // 2] if cpu else None,
        "train_seconds": sum(session.seconds) * session.steps_per_epoch,
        "peak_memory_bytes": torch.cuda.max_memory_allocated(session.device) if cuda else peak_memory(),
        "peak_weight_bytes": max((epoch.get("weight_bytes", 0) for epoch in session.history), default=0),
        "memory": session.memory.total,
        "seed": config["seed"],
        "backend": config["backend"],
        "device": config["device"],
        "threads": config["threads"],
        "torch": torch.__version__,
    }
