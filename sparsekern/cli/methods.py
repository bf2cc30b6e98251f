"""`sparsekern methods`: what can be given to --method."""

import argparse
import inspect
import json

from .. import methods as registry
from ..text import columns
from ..training import known_options


def run(arguments: argparse.Namespace) -> int:
    if arguments.name is not None:
        print(json.dumps(registry.describe(arguments.name), indent=2) if arguments.json else explain(arguments.name))
        return 0
    rows = [registry.describe(name) for name in registry.names()]
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return 0
    cells = [["method", "", "pattern changes", "paper"]]
    for row in rows:
        paper = f"{row['paper']} ({row['year']})" if row["year"] else ""
        cells.append([row["name"], row["title"], row["changes"], paper])
    print(columns(cells))
    print("\nstorage and gradient of each: sparsekern methods --json; options: sparsekern methods NAME")
    return 0


def explain(name: str) -> str:
    """The documentation of a method and the options that --set takes, with their defaults."""
    method = registry.get(name)
    parameters = inspect.signature(method).parameters
    options = [f"--set {key}={parameters[key].default}" for key in known_options(name)]
    return f"{inspect.getdoc(method)}\n\n" + ("\n".join(options) or "no options")
