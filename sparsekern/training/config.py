"""The configuration of a run: a dictionary of plain values that JSON can hold, its defaults, and its checks.

Errors name a setting as the command line spells it: `weight_decay` is `--weight-decay`.
"""

import inspect
import math
import warnings
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import torch

from .. import methods, models
from ..data import DATA
from ..errors import UsageError, choose
from ..settings import (
    BACKENDS,
    BATCH_SIZE,
    CONTEXT,
    DEFAULTS,
    LEARNING_RATE,
    LOGGERS,
    OPTIMIZERS,
    SCHEDULES,
    UNITS,
    above_zero,
    fraction,
    natural,
    positive,
    processors,
    real,
    seeds,
)
from ..text import counted
from . import loggers, overrides
from .schema import NAMES, Later, Schema, one_of, problems

# What a resumed run may change: none alters what the finished epochs computed.
RESUMABLE = {"epochs", "threads", "data_dir", "log"}


def _milestones(value: Any) -> str | None:
    fits = isinstance(value, list) and all(positive(epoch) is None for epoch in value)
    return None if fits else "a list of epochs"


null = type(None)
SCHEMA: dict[str, Schema] = {
    **dict.fromkeys(("method", "data", "model", "device"), str),
    **dict.fromkeys(("distribution", "data_dir", "target"), (str, null)),
    **dict.fromkeys(("epochs", "batch_size", "horizon"), positive),
    **dict.fromkeys(("momentum", "label_smoothing"), fraction),
    **dict.fromkeys(("lr", "weight_decay"), real),
    **dict.fromkeys(("width", "gamma"), above_zero),
    **dict.fromkeys(("nesterov", "compile"), bool),
    "sparsity": (fraction, null),
    "exclude": [str],
    "overrides": Later(overrides.schema),
    "set": dict,
    "backend": one_of(BACKENDS),
    "optimizer": one_of(OPTIMIZERS),
    "schedule": one_of(SCHEDULES),
    "schedule_unit": Later(one_of(UNITS)),
    "context": Later((positive, null)),
    "milestones": _milestones,
    "final_lr": (real, null),
    "warmup": natural,
    "clip": Later(real),
    "amp": (one_of(["bf16", "fp16"]), null),
    "threads": (processors, null),
    "seed": seeds,
    "log": Later([one_of(LOGGERS)]),
}


def configure(**given: Any) -> dict:
    """Returns the full configuration of a run from the settings that are given; `DEFAULTS` has the others.

    `set` holds the options of the method, `overrides` the settings of some layers, each a dictionary or pairs.
    `horizon`, the epochs that schedules span, is added.

    Raises:
        UsageError: an unknown name, a value of another type, or settings that contradict each other.

    Examples:
        >>> config = configure(method="rigl", sparsity=0.95, epochs=2, set={"every": 50})
    """
    for name in given:
        choose("setting", name, list(DEFAULTS))
    config = DEFAULTS | given
    config["set"], config["overrides"] = dict(config["set"]), dict(config["overrides"])
    if config["lr"] is None and config["optimizer"] in LEARNING_RATE:
        config["lr"] = LEARNING_RATE[config["optimizer"]]
    if config["context"] is None and config["data"] == "text":
        config["context"] = CONTEXT
    if "exclude" not in given:
        config["exclude"] = list(models.DENSE.get(config["model"], []))
    if config["batch_size"] is None:
        config["batch_size"] = BATCH_SIZE.get(config["data"], 128)
    if config["warmup"] is None:
        config["warmup"] = int(positive(config["epochs"]) is None and config["epochs"] >= 10)
    config["horizon"] = config["epochs"]
    for problem in problems(config, SCHEMA):
        raise UsageError(problem)
    check(config)
    if config["method"] == "dense":
        if given.get("sparsity"):
            raise UsageError("the method dense has no --sparsity; leave it out or choose a sparse method")
        config["sparsity"] = 0.0
    elif emerges(config["method"]):
        if given.get("sparsity"):
            warnings.warn(f"{config['method']}: the sparsity emerges; --sparsity is not used", stacklevel=2)
        config["sparsity"] = None
    elif config["sparsity"] is None:
        raise UsageError(f"the method {config['method']} needs a --sparsity in [0, 1), got none")
    _check_together(config, given)
    _warn_of_length(config)
    config["milestones"] = sorted(config["milestones"])
    config["threads"] = config["threads"] or torch.get_num_threads()
    return config


def resume(config: dict, epochs_done: int, **given: Any) -> dict:
    """Returns the configuration of an interrupted run with what may change (`RESUMABLE`) changed.

    Raises:
        UsageError: another setting is given another value, or the run is past the epochs that are asked for.
    """
    for name in {"set", "overrides"} & given.keys():
        given[name] = dict(given[name])
    for name, value in given.items():
        if name not in RESUMABLE and value != config.get(name):
            flag = as_flag(name)
            raise UsageError(f"the run to resume has {flag} {config.get(name)}, not {value}; leave {flag} out")
    before = config["threads"]
    config = config | given
    config["threads"] = config["threads"] or torch.get_num_threads()
    if before not in (None, config["threads"]):
        warnings.warn(
            f"--threads {config['threads']} instead of {before}: what torch multiplies may differ in its last bits",
            stacklevel=2,
        )
    if config["epochs"] < epochs_done:
        done = counted(epochs_done, "epoch")
        raise UsageError(f"the run to resume has done {done}, more than --epochs {config['epochs']}")
    if config["epochs"] > config["horizon"] and config["schedule"] == "cosine":
        raise UsageError(
            f"a cosine schedule ends at epoch {config['horizon']}, where this run began to end; "
            "start a new run with more --epochs"
        )
    return config


def as_flag(name: str) -> str:
    """Returns the flag of the command line for a setting."""
    return "--" + name.replace("_", "-")


def check(config: dict) -> None:
    """Checks the names in a configuration, and what this machine has to have for it.

    Raises:
        UsageError: a name is unknown, an option of the method has another type, or a device is missing.
    """
    methods.get(config["method"])
    choose("data set", config["data"], list(DATA))
    models.check(config["model"])
    _check_options(config["method"], config["set"])
    loggers.check(config["log"])
    for _, name, options in overrides.methods_in(config["overrides"]):
        methods.get(name)
        _check_options(name, options)
    if _check_device(config["device"]) == "cpu" and config["amp"] == "fp16":
        raise UsageError("--amp fp16 needs a CUDA device; on the CPU use --amp bf16")
    if _largest(config) >= real.high:
        raise UsageError(f"--lr {config['lr']:g} grows beyond {real.high:g} by --gamma {config['gamma']:g}")


def _check_together(config: dict, given: dict) -> None:
    for flag in ("momentum", "nesterov"):
        if flag in given and config["optimizer"] != "sgd":
            raise UsageError(f"--{flag} belongs to --optimizer sgd, not {config['optimizer']}")
    if config["nesterov"] and config["momentum"] == 0:
        raise UsageError("--nesterov needs a --momentum above 0")
    if config["schedule"] == "step" and not config["milestones"]:
        raise UsageError("--schedule step needs --milestones")
    if config["schedule"] != "step" and ("milestones" in given or "gamma" in given):
        raise UsageError("--milestones and --gamma belong to --schedule step")
    if config["schedule"] != "cosine" and (given.get("final_lr") is not None or "schedule_unit" in given):
        raise UsageError("--final-lr and --schedule-unit belong to --schedule cosine")
    if config["target"] is not None and config["data"] != "csv":
        raise UsageError("--target belongs to --data csv")
    if config["context"] is not None and config["data"] != "text":
        raise UsageError("--context belongs to --data text")
    if config["data"] == "text" and config["model"] not in models.TOKENS:
        raise UsageError(f"--data text needs a --model of text: {', '.join(models.TOKENS)}")
    if config["data"] != "text" and config["model"] in models.TOKENS:
        raise UsageError(f"{config['model']} needs --data text")


def _warn_of_length(config: dict) -> None:
    epochs = config["epochs"]
    if config["warmup"] > epochs:
        warnings.warn(
            f"--warmup {config['warmup']} is longer than the run of {counted(epochs, 'epoch')}: the learning rate "
            f"stays below --lr {config['lr']:g}",
            stacklevel=3,
        )
    late = sorted(milestone for milestone in config["milestones"] if milestone >= epochs)
    if late:
        warnings.warn(
            f"--milestones {' '.join(map(str, late))}: the run ends before, after {counted(epochs, 'epoch')}",
            stacklevel=3,
        )


def _largest(config: dict) -> float:
    """Returns the largest learning rate of the schedule."""
    decays = len(config["milestones"]) if config["schedule"] == "step" else 0
    try:
        return config["lr"] * max(1.0, config["gamma"]) ** decays
    except OverflowError:
        return math.inf


def _check_options(method: str, options: dict) -> None:
    """Checks names and types of a method's options against its signature."""
    hints = get_type_hints(methods.get(method))
    for key, value in options.items():
        choose(f"option of {method}", key, known_options(method))
        hint = hints.get(key, Any)
        if hint is Any:  # of a method of the user's own
            continue
        kinds = get_args(hint) if get_origin(hint) in (Literal, Union, UnionType) else (get_origin(hint) or hint,)
        if get_origin(hint) is Literal:
            choose(f"value of --set {key}", str(value), list(kinds))
            continue
        kinds = tuple(kind for kind in kinds if isinstance(kind, type))
        widened = (*kinds, int) if float in kinds else kinds
        if not isinstance(value, widened) or (isinstance(value, bool) and bool not in kinds):
            names = " or ".join("none" if kind is null else NAMES.get(kind, kind.__name__) for kind in kinds)
            raise UsageError(f"--set {key} expects {names}, got {value!r}")


def _check_device(name: str) -> str:
    """Returns the kind of a device, `cpu` or `cuda`, that this machine has."""
    try:
        kind = torch.device(name).type
    except RuntimeError as error:
        raise UsageError(f"unknown device {name!r}; expected cpu, cuda or cuda:N") from error
    if kind not in ("cpu", "cuda"):
        raise UsageError(f"device {name!r} is not supported; expected cpu, cuda or cuda:N")
    if kind == "cuda" and not torch.cuda.is_available():
        raise UsageError("this machine or this build of torch has no CUDA device; use --device cpu")
    if kind == "cuda" and (torch.device(name).index or 0) >= torch.cuda.device_count():
        raise UsageError(f"there is no {name}: this machine has {counted(torch.cuda.device_count(), 'CUDA device')}")
    return kind


def known_options(method: str) -> list[str]:
    """Returns the options of a method, without the three that every method has."""
    common = ("sparsity", "total_steps", "steps_per_epoch")
    return [name for name in inspect.signature(methods.get(method)).parameters if name not in common]


def emerges(method: str) -> bool:
    """Tells whether the sparsity is an outcome of the method, so that none need be given."""
    return inspect.signature(methods.get(method)).parameters["sparsity"].default is None
