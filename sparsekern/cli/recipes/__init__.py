"""The papers' own settings, a file each: flags of `train`, where they come from, what the paper leaves open."""

from collections.abc import Mapping
from pathlib import Path
from re import fullmatch
from types import MappingProxyType
from typing import Any

from ...errors import UsageError, choose, first_line, require
from ...settings import DEFAULTS, PLAIN, brief
from ...training.config import SCHEMA, emerges
from ...training.files import read_json
from ...training.schema import problems

FOLDER = Path(__file__).parent
SETTINGS = {name: schema for name, schema in SCHEMA.items() if name != "horizon"}
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
    paper compares with. What a paper does not mention (`PLAIN`), clipping say, it does not do.

    Raises:
        UsageError: no recipe has that name; the message lists the nearest.
    """
    recipe = read_json(FOLDER / f"{choose('recipe', name, names())}.json")
    return {"baselines": {}, **recipe, "flags": PLAIN | recipe["flags"]}


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


def with_flags(given: dict[str, Any], **flags: type) -> dict[str, Any]:
    """Returns `given` with the flags of a command, of these types, that its `--config` has besides settings."""
    if "config" not in given:
        return given
    settings = settings_of(given["config"], flags)
    return {**{name: settings.pop(name) for name in flags if name in settings}, **given, "config": settings}


def settings_of(path: Path, flags: Mapping[str, type] = MappingProxyType({})) -> dict[str, Any]:
    """Returns the settings in a file that differ from the defaults: YAML, or JSON as a run leaves it.

    Args:
        flags: what the file may also have, with types.

    Raises:
        UsageError: there is no such file, or it holds something else than settings.
    """
    if path.suffix == ".json":
        found = PLAIN | read_json(path, dict)
    else:
        yaml = require("yaml")
        try:
            found = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise UsageError(f"cannot read {path}: {first_line(error)}") from error
        if not isinstance(found, dict):
            raise UsageError(f"{path}: expected settings, for example `method: rigl`, got {brief(found)}")
    found = {str(key).replace("-", "_"): _number(value) for key, value in found.items()}
    found.pop("horizon", None)  # a new run's own epochs
    besides = {name: found.pop(name) for name in flags if name in found}
    for name, value in besides.items():
        if not isinstance(value, str if flags[name] is Path else flags[name]):
            raise UsageError(f"{path}: {name} expects {'a folder' if flags[name] is Path else 'true or false'}")
    for name in found:
        choose(f"setting in {path}", name, [*DEFAULTS, *flags])
    for problem in problems(DEFAULTS | PLAIN | {"lr": 0.1, "batch_size": 128} | found, SETTINGS):
        raise UsageError(f"{path}: {problem}")
    besides = {name: flags[name](value) for name, value in besides.items()}
    return {name: value for name, value in found.items() if value != DEFAULTS[name]} | besides


def _number(value: Any) -> Any:
    """Returns the number that YAML takes for a text, 1e-3 say; other values as they are."""
    return float(value) if isinstance(value, str) and fullmatch(r"[-+]?\d+e[-+]?\d+", value) else value


def apply(given: dict[str, Any], grid: list[str] | None = None) -> dict[str, Any]:
    """Returns the flags of the recipe or the file that `given` names, if any, under those that are given besides.

    Another `--epochs` scales the recipe's milestones and its warm-up. Options of the method are added up; those of
    the recipe are for its own method and for its baselines. With the schedule leave the milestones, with the optimizer
    the momentum.

    Args:
        grid: the methods of a comparison, which decide instead of the recipe's method and sparsity; the recipe's
            options go to those of them that it knows.
    """
    given = given.copy()
    if "recipe" in given:
        recipe = read(given.pop("recipe"))
        flags, baselines = recipe["flags"], recipe["baselines"]
    elif "config" in given:
        config = given.pop("config")
        flags, baselines = dict(config) if isinstance(config, dict) else settings_of(config), {}
    else:
        return given
    known = {flags.get("method", DEFAULTS["method"]): flags.pop("set", {}), **baselines}
    if grid is not None:
        options = {f"{name}.{key}": value for name in grid for key, value in known.get(name, {}).items()}
        flags = {key: value for key, value in flags.items() if key not in ("method", "sparsity")}
    else:
        options = known.get(given.get("method", flags.get("method", DEFAULTS["method"])), {})
    method, own = given.get("method"), flags.get("method", DEFAULTS["method"])
    if method is not None and (method == "dense" or (method != own and (own == "dense" or emerges(own)))):
        flags.pop("sparsity", None)  # that of the file is none of this method
    if "epochs" in given:
        scale = given["epochs"] / flags.get("epochs", DEFAULTS["epochs"])
        if "milestones" in flags:
            flags["milestones"] = [max(1, round(scale * epoch)) for epoch in flags["milestones"]]
        if "warmup" in flags:
            flags["warmup"] = round(scale * flags["warmup"])
    for flag, dependents in BELONGS.items():
        if flag in given and given[flag] != flags.get(flag):
            flags = {key: value for key, value in flags.items() if key not in dependents}
    settings = options | dict(given.get("set", []))
    if "overrides" in given and "overrides" in flags:  # of two that match a layer the first counts
        own = dict(given["overrides"])
        given["overrides"] = own | {key: value for key, value in flags["overrides"].items() if key not in own}
    return flags | given | ({"set": list(settings.items())} if settings else {})
