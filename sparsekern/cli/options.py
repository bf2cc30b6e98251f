"""The flags that decide a run."""

import argparse
import ast
from pathlib import Path
from typing import Any

from .. import settings
from ..settings import BACKENDS, DATA, DEFAULTS, LOGGERS, MODELS, OPTIMIZERS, SCHEDULES, UNITS, Range, brief


def number(allowed: Range) -> Any:
    """Returns an argparse type: a number in a range."""

    def parse(text: str) -> Any:
        try:
            value = allowed.kind(text)
        except ValueError:
            value = None
        if allowed(value) is not None:
            raise argparse.ArgumentTypeError(f"expected {allowed.words}, got {brief(text)}")
        return value

    return parse


positive = number(settings.positive)
natural = number(settings.natural)
seeds = number(settings.seeds)
processors = number(settings.processors)
fraction = number(settings.fraction)
sparsity = number(Range(float, 0, 1, "a fraction in [0, 1), 0.9 for 90 %"))
real = number(settings.real)
above_zero = number(settings.above_zero)


def numbers(parse: Any) -> Any:
    """Returns an argparse type: a comma-separated list."""
    return lambda text: [parse(part.strip()) for part in text.split(",") if part.strip()]


def setting(text: str) -> tuple[str, Any]:
    """Splits `KEY=VALUE`; the value is read as a Python literal if it is one."""
    key, equals, value = text.partition("=")
    if not equals or not all(part.isidentifier() for part in key.split(".")):
        raise argparse.ArgumentTypeError(f"expected KEY=VALUE, got {text!r}")
    return key, literal(value)


def literal(text: str) -> Any:
    """Returns what a Python literal says; other text as it is."""
    try:
        return ast.literal_eval({"true": "True", "false": "False", "none": "None"}.get(text, text))
    except (ValueError, SyntaxError):
        return text


def override(text: str) -> tuple[str, Any]:
    """Splits `LAYERS=VALUE`; the value is read as a Python literal if it is one."""
    key, equals, value = text.rpartition("=") if "{" not in text else text.partition("=")
    if not equals or not key:
        raise argparse.ArgumentTypeError(f"expected LAYERS=VALUE, got {text!r}")
    setting = literal(value)
    if isinstance(setting, int | float) and settings.fraction(setting) is not None:
        raise argparse.ArgumentTypeError(f"expected a sparsity in [0, 1), none or a method for {key}, got {value}")
    return key, setting


def add_arguments(parser: argparse.ArgumentParser, *, grid: bool = False) -> None:
    """Adds the flags of a run. A flag that is not given leaves no trace, so that a resumed run can tell.

    Args:
        grid: leave out those that `compare` takes as lists.
    """
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        default=argparse.SUPPRESS,
        help="settings from a YAML file, or from the config.json of another run; flags take precedence",
    )
    source.add_argument(
        "--recipe",
        metavar="NAME",
        default=argparse.SUPPRESS,
        help="settings of a paper; flags take precedence, and another --epochs scales the milestones; "
        "`sparsekern train --recipe list` lists them",
    )
    group = parser.add_argument_group("sparsity")
    if not grid:
        group.add_argument(
            "--method",
            metavar="NAME",
            help="sparse training method, see `sparsekern methods`; one of your own: module:function, FILE.py:function",
        )
        group.add_argument("--sparsity", type=sparsity, metavar="S", help="fraction of weights that are zero")
    group.add_argument("--distribution", metavar="D", help="how layers share the sparsity: uniform, er, erk, global")
    group.add_argument(
        "--exclude", action="append", metavar="NAME", help="layer to keep dense; name or glob, repeatable"
    )
    group.add_argument(
        "--overrides",
        action="append",
        type=override,
        metavar="LAYERS=VALUE",
        help="another setting for layers by name, glob or class (nn.Conv2d): a sparsity, none, or a method; repeatable",
    )
    group.add_argument(
        "--set", action="append", type=setting, metavar="KEY=VALUE", help="option of the method, repeatable"
    )
    if not grid:
        group.add_argument(
            "--backend",
            choices=BACKENDS,
            help="auto: the fastest kernel of each layer; masked: dense products with masks, to verify",
        )

    group = parser.add_argument_group("data and model")
    group.add_argument("--data", metavar="NAME", help=", ".join(DATA))
    group.add_argument(
        "--data-dir", metavar="PATH", help="folder of the data set; of csv the file; of text also a pattern"
    )
    group.add_argument("--download", action="store_true", help="fetch the data set into --data-dir")
    group.add_argument("--target", metavar="COLUMN", help="csv: the column to predict")
    group.add_argument("--context", type=positive, metavar="N", help="text: bytes that a sample has (default 128)")
    group.add_argument("--model", metavar="NAME", help=", ".join([*MODELS, "torchvision:NAME", "timm:NAME"]))
    group.add_argument("--width", type=above_zero, metavar="W", help="factor of the hidden sizes or channels")

    group = parser.add_argument_group("training")
    group.add_argument("--epochs", type=positive, metavar="N", help="passes over the data")
    group.add_argument(
        "--batch-size",
        type=positive,
        metavar="B",
        help="samples per step, those of all ranks together (default 128, of digits 32)",
    )
    group.add_argument("--optimizer", choices=OPTIMIZERS)
    group.add_argument(
        "--lr", type=real, metavar="F", help="learning rate; default 0.05 for sgd, 0.001 for adam and adamw"
    )
    group.add_argument("--momentum", type=fraction, metavar="F", help="optimizer sgd")
    group.add_argument("--nesterov", action="store_true", help="optimizer sgd")
    group.add_argument("--weight-decay", type=real, metavar="F", help="(default 0)")
    group.add_argument("--clip", type=real, metavar="F", help="largest norm of all gradients together; 0: any")
    group.add_argument("--schedule", choices=SCHEDULES, help="of the learning rate")
    group.add_argument(
        "--schedule-unit", choices=UNITS, help="schedule cosine: it falls at every step, or once an epoch"
    )
    group.add_argument(
        "--milestones",
        type=numbers(positive),
        metavar="E,E",
        help="schedule step: epochs at which the learning rate drops",
    )
    group.add_argument("--gamma", type=above_zero, metavar="F", help="schedule step: factor of each drop")
    group.add_argument(
        "--final-lr", type=real, metavar="F", help="schedule cosine: the learning rate at the end (default 0)"
    )
    group.add_argument(
        "--warmup", type=natural, metavar="N", help="epochs of linear warm-up (default 1 in runs of 10 and more)"
    )
    group.add_argument("--label-smoothing", type=fraction, metavar="F", help="(default 0)")
    group.add_argument("--amp", choices=["bf16", "fp16"], help="mixed precision")
    group.add_argument("--compile", action="store_true", help="torch.compile the model; on a GPU with CUDA graphs")
    if not grid:
        group.add_argument(
            "--seed", type=seeds, metavar="N", help="of weights, pattern, order and split of the data (default 0)"
        )
    group.add_argument("--device", metavar="D", help="cpu, cuda, cuda:1")
    group.add_argument("--threads", type=processors, metavar="N", help="threads of PyTorch (default: its own)")
    group.add_argument(
        *("--log", "--logger"),
        action="append",
        choices=LOGGERS,
        help="also log the run there, repeatable (torchrun has a --log)",
    )
    for action in parser._actions:
        if action.dest == "help" or action.required or action.dest not in {*DEFAULTS, "download"}:
            continue
        default = DEFAULTS.get(action.dest)
        if default not in (None, 0, [], {}):
            action.help = f"{action.help or ''} (default {default})".strip()
        action.default = argparse.SUPPRESS
