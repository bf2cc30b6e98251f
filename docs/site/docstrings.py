"""Docstrings of methods as Markdown: their text, and what they say of each option."""

import re
from collections.abc import Callable
from inspect import Parameter, getdoc, signature
from textwrap import dedent
from typing import Any

import sparsekern as sk

RUN = ("sparsity", "total_steps", "steps_per_epoch")  # what every method is given


def text(method: Callable[..., Any]) -> str:
    """Returns the docstring without its section on options, with links to papers and to the pages of other methods."""
    found = (getdoc(method) or "").partition("\nArgs:\n")[0].strip()
    found = re.sub(r"arXiv\s+(\d{4}\.\d{4,5})", r"[arXiv \1](https://arxiv.org/abs/\1)", found)
    return linked(found, method.__name__)


def arxiv(method: Callable[..., Any]) -> str | None:
    """Returns the arXiv number that the docstring names first."""
    found = re.search(r"arXiv\s+(\d{4}\.\d{4,5})", getdoc(method) or "")
    return found[1] if found else None


def options(method: Callable[..., Any]) -> dict[str, tuple[Parameter, str]]:
    """Returns the options of a method with what is said of them, by its own docstring or by that of its base.

    Raises:
        ValueError: nothing is said of one.
    """
    known = {name: option for name, option in signature(method).parameters.items() if name not in RUN}
    return {name: (option, linked(_said(method, name), method.__name__)) for name, option in known.items()}


def _said(method: Any, name: str) -> str:
    own = _arguments(getdoc(method) or "").get(name)
    reference = re.fullmatch(r"as in `(\w+)`(?:; (.*))?\.?", own or "", re.DOTALL)
    base = reference[1] if reference else method.base
    if own is not None and not reference:
        return own
    if base is None:
        raise ValueError(f"the docstring of {method.__name__} says nothing of its option {name}")
    return " ".join(part for part in (_said(sk.methods.get(base), name), reference and reference[2]) if part)


def _arguments(docstring: str) -> dict[str, str]:
    """Returns the section `Args:` of a docstring by name; several names may share a text."""
    found: dict[str, str] = {}
    names: list[str] = []
    for line in dedent(docstring.partition("\nArgs:\n")[2]).splitlines():
        if begin := re.match(r"(\w+(?:, \w+)*): (.*)", line):
            names = begin[1].split(", ")
            found |= dict.fromkeys(names, begin[2])
        else:
            found |= {name: f"{found[name]} {line.strip()}".strip() for name in names}
    return found


def linked(markdown: str, own: str = "", folder: str = "") -> str:
    """Makes links of the names of other methods, to their pages in `folder`."""
    names = {*sk.methods.names()} - {own}
    return re.sub(
        r"(?<![\[\w`])`(\w+)`",
        lambda code: f"[{code[0]}]({folder}{code[1]}.md)" if code[1] in names else code[0],
        markdown,
    )
