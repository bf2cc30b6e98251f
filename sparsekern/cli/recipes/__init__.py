"""The papers' own settings, a file each: flags of `train`, where they come from, what the paper leaves open."""

from pathlib import Path
from typing import Any

from ...errors import choose
from ...training.files import read_json

FOLDER = Path(__file__).parent
# What a flag that is given takes from the recipe along with its own value: it would no longer fit.
BELONGS = {
    "optimizer": {"lr", "momentum", "nesterov"},
    "schedule": {"schedule_unit", "milestones", "gamma", "final_lr"},
    "data": {"data_dir", "target"},
}


def names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def read(name: str) -> dict[str, Any]:
    """Returns `source`, `flags` and `notes` of a recipe, and `baselines`, the options of other methods by name that its
    paper compares with.

    Raises:
        UsageError: no recipe has that name; the message lists the nearest.
    """
    return {"baselines": {}, **read_json(FOLDER / f"{choose('recipe', name, names())}.json")}


def listing() -> str:
    """Returns every recipe with its source, its flags and its notes, for a terminal."""
    blocks = []
    for name in names():
        recipe = read(name)
        lines = [name, f"  {recipe['source']}", f"  {as_flags(recipe['flags'])}"]
        for method, options in recipe["baselines"].items():
            lines.append(f"  with {as_flags({'method': method, 'set': options})}")
        blocks.append("\n".join([*lines, *(f"  - {note}" for note in recipe["notes"])]))
    return "\n\n".join(blocks)


def as_flags(flags: dict[str, Any]) -> str:
    """Returns the flags as one would type them."""
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
    """Returns the flags of the recipe that `given` names, if any, under those that are given besides.

    Another `--epochs` scales the recipe's milestones and its warm-up. Options of the method are added up; those of
    the recipe are for its own method and for its baselines. With the schedule leave the milestones, with the optimizer
    the momentum.

    Args:
        grid: the methods of a comparison, which decide instead of the recipe's method and sparsity; the recipe's
            options go to those of them that it knows.
    """
    if "recipe" not in given:
        return given
    given = given.copy()
    recipe = read(given.pop("recipe"))
    flags = recipe["flags"]
    known = {flags["method"]: flags.pop("set", {}), **recipe["baselines"]}
    if grid is not None:
        options = {f"{name}.{key}": value for name in grid for key, value in known.get(name, {}).items()}
        flags = {key: value for key, value in flags.items() if key not in ("method", "sparsity")}
    else:
        options = known.get(given.get("method", flags["method"]), {})
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
