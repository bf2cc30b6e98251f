"""The papers' own settings, a file each: flags of `train`, where they come from, what the paper leaves open."""

from pathlib import Path
from typing import Any

from ...errors import choose
from ..files import read_json

FOLDER = Path(__file__).parent
# What a flag that is given takes from the recipe along with its own value: it would no longer fit.
BELONGS = {
    "optimizer": {"lr", "momentum", "nesterov"},
    "schedule": {"milestones", "gamma", "final_lr"},
    "data": {"data_dir", "target"},
}


def names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def read(name: str) -> dict[str, Any]:
    """`source`, `flags` and `notes` of a recipe.

    Raises:
        UsageError: no recipe has that name; the message lists the nearest.
    """
    return read_json(FOLDER / f"{choose('recipe', name, names())}.json")


def listing() -> str:
    """Every recipe with its source, its flags and its notes, for a terminal."""
    blocks = []
    for name in names():
        recipe = read(name)
        lines = [name, f"  {recipe['source']}", f"  {as_flags(recipe['flags'])}"]
        blocks.append("\n".join([*lines, *(f"  - {note}" for note in recipe["notes"])]))
    return "\n\n".join(blocks)


def as_flags(flags: dict[str, Any]) -> str:
    """The flags as one would type them."""
    words = []
    for key, value in flags.items():
        flag = "--" + key.replace("_", "-")
        if isinstance(value, dict):
            words += [f"{flag} {option}={setting}" for option, setting in value.items()]
        elif value is True:
            words.append(flag)
        else:
            words.append(f"{flag} {','.join(map(str, value)) if isinstance(value, list) else value}")
    return " ".join(words)


def apply(given: dict[str, Any], grid: list[str] | None = None) -> dict[str, Any]:
    """The flags of the recipe that `given` names, if any, under those that are given besides.

    Another `--epochs` scales the recipe's milestones and its warm-up. Options of the method are added up, and those of
    the recipe leave with its method; so do the milestones with the schedule, the momentum with the optimizer.

    Args:
        grid: the methods of a comparison, which decide instead of the recipe's method and sparsity; the recipe's
            options go to its own method if it is among them.
    """
    if "recipe" not in given:
        return given
    given = given.copy()
    flags = read(given.pop("recipe"))["flags"]
    method, options = flags["method"], flags.pop("set", {})
    if grid is not None:
        flags = {key: value for key, value in flags.items() if key not in ("method", "sparsity")}
        options = {f"{method}.{key}": value for key, value in options.items() if method in grid}
    elif given.get("method", method) != method:
        options = {}
    if given.get("method") == "dense":
        flags.pop("sparsity", None)
    if "epochs" in given:
        scale = given["epochs"] / flags["epochs"]
        if "milestones" in flags:
            flags["milestones"] = [max(1, round(scale * epoch)) for epoch in flags["milestones"]]
        if "warmup" in flags:
            flags["warmup"] = round(scale * flags["warmup"])
    for flag, dependents in BELONGS.items():
        if flag in given and given[flag] != flags.get(flag):
            flags = {key: value for key, value in flags.items() if key not in dependents}
    settings = options | dict(given.get("set", []))
    return flags | given | ({"set": list(settings.items())} if settings else {})
