"""Makes sparse layers known to other packages as soon as they are imported; none of them is imported here."""

from __future__ import annotations

import importlib
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from typing import Any

# By the module of another package: the module of this one that is imported after it, and adapts it.
ADAPTERS = {
    "transformers.modeling_utils": f"{__name__}.transformers",
    "peft.tuners.lora.model": f"{__name__}.peft",
    "timm.optim._param_groups": f"{__name__}.timm",
}


class _Finder(MetaPathFinder):
    """Imports a module of this package when another one has been imported."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if fullname not in ADAPTERS:
            return None
        own = ADAPTERS.pop(fullname)
        spec = find_spec(fullname)  # that of the other finders
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def exec_module(module: Any) -> None:
            execute(module)
            importlib.import_module(own)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def listen() -> None:
    """Adapts packages that are imported already, and others when they are imported."""
    for name in [name for name in ADAPTERS if name in sys.modules]:
        importlib.import_module(ADAPTERS.pop(name))
    sys.meta_path.insert(0, _Finder())


def note(model: Any) -> None:
    """Tells packages that are imported that layers of `model` were exchanged."""
    transformers = sys.modules.get(f"{__name__}.transformers")
    if transformers is not None:
        transformers.note(model)
