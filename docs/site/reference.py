"""Pages of the API: every public name, described by its docstring."""

import argparse
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import sparsekern as sk
from sparsekern import export, ops, sparsity, training
from sparsekern.cli import commands

FOLDER = "docs/reference"
FIRST = ("sparsify", "Sparsifier", "memory_report", "densify", "Method")  # what a user meets first
INTEGRATIONS = (  # whose packages need not be installed here
    "trainer.SparseCallback",
    "lightning.SparseCallback",
    "checkpoint.save",
    "checkpoint.load",
)


def pages() -> dict[str, str]:
    """Returns the pages by their path in the repository's layout."""
    parts = [name for name in sparsity.__all__ if name not in (*sk.__all__, "criteria")]  # an older name of `scores`
    public = [*FIRST, *(name for name in sk.__all__ if name not in (*FIRST, "methods", "ops"))]
    texts = {
        "sparsekern": _module("sparsekern", sk, public),
        "methods": "# sparsekern.methods\n\nThe methods have [a page each](../methods/index.md).\n\n"
        + _names(sk.methods, ["fixed", "get", "names", "describe"]),
        "sparsity": _module("sparsekern.sparsity", sparsity, parts),
        "ops": _module("sparsekern.ops", ops, [name for name in ops.__all__ if name != "extension"]),
        "export": _module("sparsekern.export", export, export.__all__),
        "training": _module("sparsekern.training", training, training.__all__),
        "integrations": "# sparsekern.integrations\n\n"
        + "\n\n".join(_entry(f"sparsekern.integrations.{name}") for name in INTEGRATIONS),
        "command-line": _command_line(),
    }
    return {f"{FOLDER}/{name}.md": f"{text}\n" for name, text in texts.items()}


def _module(title: str, module: ModuleType, names: list[str]) -> str:
    first = (module.__doc__ or "").strip().partition("\n\n")[0]
    return f"# {title}\n\n{first}\n\n{_names(module, names)}"


def _names(module: Any, names: list[str]) -> str:
    """Describes names of a module where they are defined; a module or a value among them by its own name."""
    entries = []
    for name in names:
        found = getattr(module, name)
        if isinstance(found, ModuleType):
            entries.append(_entry(found.__name__))
        else:
            home = getattr(found, "__module__", None)
            entries.append(_entry(f"{home}.{name}" if home else f"{module.__name__}.{name}"))
    return "\n\n".join(entries)


def _entry(path: str) -> str:
    return f"::: {path}"


def _command_line() -> str:
    parser = commands.parser()
    return "\n\n".join(["# Flags of the command line", _help(parser), *_commands(parser, "##")])


def _commands(parser: argparse.ArgumentParser, heading: str) -> Iterator[str]:
    """Yields the help of the commands of a parser, and of theirs (`bench kernels`)."""
    for action in parser._actions:
        for own in action.choices.values() if isinstance(action, argparse._SubParsersAction) else ():
            yield f"{heading} {own.prog.partition(' ')[2]}\n\n{_help(own)}"
            yield from _commands(own, f"{heading}#")


def _help(parser: argparse.ArgumentParser) -> str:
    return f"```text\n{parser.format_help().strip()}\n```"
