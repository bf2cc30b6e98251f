"""The flags that decide a run, and the configuration they add up to."""

import argparse
import ast
import inspect
import math
import warnings
from typing import Any, Literal, get_args, get_origin, get_type_hints

import torch

from .. import methods, models
from ..data import DATA
from ..errors import UsageError, choose
from .structure import brief

BACKENDS = ["auto", "sparse", "masked", "dense"]
UNITS = ["step", "epoch"]
OPTIMIZERS = ["sgd", "adam", "adamw"]
LEARNING_RATE = {"sgd": 0.05, "adam": 1e-3, "adamw": 1e-3}
DEFAULTS: dict[str, Any] = {
    "method": "gse_grabo",
    "sparsity": 0.9,
    "distribution": None,
    "exclude": [],
    "set": {},
    "backend": "auto",
    "data": "digits",
    "data_dir": None,
    "target": None,
    "model": "mlp",
    "width": 1.0,
    "epochs": 20,
    "batch_size": 128,
    "optimizer": "sgd",
    "lr": None,
    "momentum": 0.9,
    "nesterov": False,
    "weight_decay": 0.0,
    "schedule": "constant",
    "schedule_unit": "step",
    "milestones": [],
    "gamma": 0.1,
    "final_lr": None,
    "warmup": 0,
    "label_smoothing": 0.0,
    "amp": None,
    "compile": False,
    "threads": None,
    "seed": 0,
    "device": "cpu",
}
# What a resumed run may change: none alters what the finished epochs computed.
RESUMABLE = {"epochs", "threads", "data_dir"}


class Bounded:
    """A number of `kind` with `low <= number < high`: an argparse type, and a shape of `structure.check`."""

    def __init__(self, kind: type, low: float, high: float, what: str) -> None:
        self.kind, self.low, self.high, self.what = kind, low, high, what

    def __call__(self, text: str) -> Any:
        try:
            number = self.kind(text)
        except ValueError:
            number = None
        if number is None or not self.low <= number < self.high:
            raise argparse.ArgumentTypeError(f"expected {self.what}, got {brief(text)}")
        return number

    def mismatch(self, value: Any) -> str | None:
        wide = (float, int) if self.kind is float else self.kind
        fits = isinstance(value, wide) and not isinstance(value, bool) and self.low <= value < self.high
        return None if fits else self.what


positive = Bounded(int, 1, 2**31, "a whole number, 1 or more")
natural = Bounded(int, 0, 2**31, "a whole number, 0 or more")
seeds = Bounded(int, 0, 2**64, "a whole number from 0 to 2^64 - 1")  # what a torch.Generator takes
processors = Bounded(int, 1, 1025, "a whole number from 1 to 1024")
fraction = Bounded(float, 0, 1, "a number in [0, 1)")
# Far from where fp32 ends, as optimizers multiply and divide by more than the learning rate.
real = Bounded(float, 0, 1e33, "a number, 0 or more and below 1e33")
above_zero = Bounded(float, 5e-324, 1e33, "a number above 0 and below 1e33")


def numbers(parse: Any) -> Any:
    """An argparse type: a comma-separated list."""
    return lambda text: [parse(part.strip()) for part in text.split(",") if part.strip()]


def setting(text: str) -> tuple[str, Any]:
    """`KEY=VALUE`, the value read as a Python literal if it is one."""
    key, equals, value = text.partition("=")
    if not equals or not all(part.isidentifier() for part in key.split(".")):
        raise argparse.ArgumentTypeError(f"expected KEY=VALUE, got {text!r}")
    try:
        return key, ast.literal_eval({"true": "True", "false": "False", "none": "None"}.get(value, value))
    except (ValueError, SyntaxError):
        return key, value


def add_arguments(parser: argparse.ArgumentParser, *, grid: bool = False) -> None:
    """Adds the flags of a run. A flag that is not given leaves no trace, so that a resumed run can tell.

    Args:
        grid: leave out those that `compare` takes as lists.
    """
    parser.add_argument(
        "--recipe",
        metavar="NAME",
        default=argparse.SUPPRESS,
        help="a paper's settings, under the flags given besides; another --epochs scales its milestones; "
        "`sparsekern train --recipe list` tells them all",
    )
    group = parser.add_argument_group("sparsity")
    if not grid:
        group.add_argument("--method", metavar="NAME", help="sparse training method, see `sparsekern methods`")
        group.add_argument("--sparsity", type=fraction, metavar="S", help="fraction of weights that are zero")
    group.add_argument("--distribution", metavar="D", help="how layers share the sparsity: uniform, er, erk, global")
    group.add_argument(
        "--exclude", action="append", metavar="NAME", help="layer to keep dense; name or glob, repeatable"
    )
    group.add_argument(
        "--set", action="append", type=setting, metavar="KEY=VALUE", help="option of the method, repeatable"
    )
    if not grid:
        group.add_argument("--backend", choices=BACKENDS, help="auto: fastest kernel per layer; masked: dense twin")

    group = parser.add_argument_group("data and model")
    group.add_argument("--data", metavar="NAME", help=", ".join(DATA))
    group.add_argument("--data-dir", metavar="PATH", help="folder of the data set; the file, for csv")
    group.add_argument("--download", action="store_true", help="fetch the data set into --data-dir")
    group.add_argument("--target", metavar="COLUMN", help="csv: the column to predict")
    group.add_argument("--model", metavar="NAME", help=", ".join([*models.MODELS, "torchvision:NAME"]))
    group.add_argument("--width", type=above_zero, metavar="W", help="multiplies the hidden sizes, the channels")

    group = parser.add_argument_group("training")
    group.add_argument("--epochs", type=positive, metavar="N", help="passes over the data")
    group.add_argument("--batch-size", type=positive, metavar="B", help="samples per step")
    group.add_argument("--optimizer", choices=OPTIMIZERS)
    group.add_argument(
        "--lr", type=real, metavar="F", help="learning rate; default 0.05 for sgd, 0.001 for adam and adamw"
    )
    group.add_argument("--momentum", type=fraction, metavar="F", help="of sgd")
    group.add_argument("--nesterov", action="store_true", help="of sgd")
    group.add_argument("--weight-decay", type=real, metavar="F", help="(default 0)")
    group.add_argument("--schedule", choices=["constant", "step", "cosine"], help="of the learning rate")
    group.add_argument("--schedule-unit", choices=UNITS, help="cosine falls at every step, or once an epoch")
    group.add_argument("--milestones", type=numbers(positive), metavar="E,E", help="epochs at which step decays")
    group.add_argument("--gamma", type=above_zero, metavar="F", help="factor of a step decay")
    group.add_argument("--final-lr", type=real, metavar="F", help="learning rate that cosine ends with (default 0)")
    group.add_argument("--warmup", type=natural, metavar="N", help="epochs of linear warm-up (default 0)")
    group.add_argument("--label-smoothing", type=fraction, metavar="F", help="(default 0)")
    group.add_argument("--amp", choices=["bf16", "fp16"], help="mixed precision")
    group.add_argument("--compile", action="store_true", help="torch.compile the model; on a GPU with CUDA graphs")
    if not grid:
        group.add_argument(
            "--seed", type=seeds, metavar="N", help="decides weights, pattern, data order and split (default 0)"
        )
    group.add_argument("--device", metavar="D", help="cpu, cuda, cuda:1")
    group.add_argument("--threads", type=processors, metavar="N", help="of torch (default: its own)")
    for action in parser._actions:
        if action.dest == "help" or action.required or action.dest not in {*DEFAULTS, "download"}:
            continue
        default = DEFAULTS.get(action.dest)
        if default not in (None, 0, [], {}):
            action.help = f"{action.help or ''} (default {default})".strip()
        action.default = argparse.SUPPRESS


def resolve(given: dict) -> dict:
    """The full configuration of a run: plain values that JSON can hold.

    Raises:
        UsageError: an unknown name, or flags that contradict each other.
    """
    config = DEFAULTS | given
    config["set"] = dict(config["set"])
    if config["lr"] is None:
        config["lr"] = LEARNING_RATE[config["optimizer"]]
    check(config)
    if config["method"] == "dense":
        if given.get("sparsity"):
            raise UsageError("the method dense has no --sparsity; leave it out or choose a sparse method")
        config["sparsity"] = 0.0
    elif emerges(config["method"]):
        if given.get("sparsity"):
            warnings.warn(f"{config['method']}: the sparsity emerges; --sparsity is not used", stacklevel=2)
        config["sparsity"] = None
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
    config["milestones"] = sorted(config["milestones"])
    config["threads"] = config["threads"] or torch.get_num_threads()
    return config | {"horizon": config["epochs"]}


def check(config: dict) -> None:
    """Checks the names in a configuration, and what this machine has to have for it.

    Raises:
        UsageError: one of them is unknown.
    """
    choose("method", config["method"], methods.names())
    choose("data set", config["data"], list(DATA))
    models.check(config["model"])
    _check_options(config["method"], config["set"])
    if device(config["device"]) == "cpu" and config["amp"] == "fp16":
        raise UsageError("--amp fp16 needs a CUDA device; on the CPU use --amp bf16")
    if _largest(config) >= real.high:
        raise UsageError(f"--lr {config['lr']:g} grows beyond {real.high:g} by --gamma {config['gamma']:g}")


def _largest(config: dict) -> float:
    """The largest learning rate of the schedule."""
    decays = len(config["milestones"]) if config["schedule"] == "step" else 0
    try:
        return config["lr"] * max(1.0, config["gamma"]) ** decays
    except OverflowError:
        return math.inf


def _check_options(method: str, options: dict) -> None:
    """Checks names and types of `--set` against the method's signature."""
    hints = get_type_hints(methods.get(method))
    for key, value in options.items():
        choose(f"option of {method}", key, known_options(method))
        kinds = get_args(hints[key]) or (hints[key],)
        if get_origin(hints[key]) is Literal:
            choose(f"value of --set {key}", str(value), list(kinds))
            continue
        kinds = tuple(kind for kind in kinds if isinstance(kind, type))
        widened = (*kinds, int) if float in kinds else kinds
        if not isinstance(value, widened) or (isinstance(value, bool) and bool not in kinds):
            names = " or ".join("none" if kind is type(None) else kind.__name__ for kind in kinds)
            raise UsageError(f"--set {key} expects {names}, got {value!r}")


def device(name: str) -> str:
    try:
        kind = torch.device(name).type
    except RuntimeError as error:
        raise UsageError(f"unknown device {name!r}; expected cpu, cuda or cuda:N") from error
    if kind not in ("cpu", "cuda"):
        raise UsageError(f"device {name!r} is not supported; expected cpu, cuda or cuda:N")
    if kind == "cuda" and not torch.cuda.is_available():
        raise UsageError("this machine or this build of torch has no CUDA device; use --device cpu")
    return name


def known_options(method: str) -> list[str]:
    """The options of a method, without the three that every method has."""
    common = ("sparsity", "total_steps", "steps_per_epoch")
    return [name for name in inspect.signature(methods.get(method)).parameters if name not in common]


def emerges(method: str) -> bool:
    """Whether the sparsity is an outcome of the method, so that none need be given."""
    return inspect.signature(methods.get(method)).parameters["sparsity"].default is None
