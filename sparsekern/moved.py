"""Keeps the old names of modules working until version 0.3, with a `DeprecationWarning`.

Pickles of version 0.1 load by them, too. `nn.shrink` and `nn.exchange` are functions.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_S, _N, _C = "sparsekern.sparsity.", "sparsekern.nn.", "sparsekern.cli."
MOVED = {
    **{f"{_S}{name}": f"{_S}parts.{name}" for name in ("schedules", "scores", "views", "distributions", "scopes")},
    f"{_S}criteria": f"{_S}parts.scores",
    f"{_S}wrappers": f"{_S}model.wrappers",
    f"{_S}inputs": f"{_S}model.inputs",
    f"{_S}transaction": f"{_S}change.transaction",
    f"{_S}states": f"{_S}change.optimizer_layout",
    f"{_S}carry": f"{_S}change.carry_optimizer_state",
    f"{_S}site": f"{_S}sites.nonzeros",
    f"{_S}sites.site": f"{_S}sites.nonzeros",
    f"{_S}master": f"{_S}sites.master",
    f"{_S}starts": f"{_S}scoring.network",
    f"{_S}objective": f"{_S}scoring.objective",
    f"{_S}channels": f"{_S}scoring.channels",
    f"{_S}flow": f"{_S}scoring.linearised",
    f"{_S}passes": f"{_S}growth.gradients",
    f"{_S}update": f"{_S}engine.drop_and_grow",
    f"{_S}engine.plan": f"{_S}engine.drop_and_grow",
    f"{_S}report": f"{_S}engine.report",
    f"{_S}checks": f"{_S}engine.checks",
    f"{_S}origin": f"{_S}engine.snapshot",
    f"{_S}start": f"{_S}sparsify",
    f"{_N}flow": f"{_N}channels.trace",
    f"{_N}graph": f"{_N}channels.graph",
    f"{_N}constants": f"{_N}channels.constants",
    f"{_N}zeros": f"{_N}channels.zeros",
    f"{_N}part": f"{_N}weight_slice",
    f"{_N}twins": f"{_N}layer",
    f"{_N}conversion.parts": f"{_N}conversion.splitting",
    f"{_N}convert": f"{_N}conversion.convert",
    f"{_N}coverage": f"{_N}conversion.coverage",
    "sparsekern.ops.choice": f"{_N}kernel_choice",
    "sparsekern.ops.window": "sparsekern.ops.conv_geometry",
    f"{_C}models": "sparsekern.models",
    f"{_C}data": "sparsekern.data",
    f"{_C}errors": "sparsekern.errors",
    **{f"{_C}{name}": f"sparsekern.training.{name}" for name in ("run", "files", "grid", "figures")},
    f"{_C}checkpoint": "sparsekern.training.run_folder",
}


class _OldNames(MetaPathFinder, Loader):
    """Finds the module that took the place of an old one."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname in MOVED else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        new = MOVED[spec.name]
        warnings.warn(f"{spec.name} is now {new}; the old name goes with version 0.3", DeprecationWarning, stacklevel=2)
        module = importlib.import_module(new)
        self.own = module.__spec__  # the machinery of imports puts the old name's there
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self.own


sys.meta_path.append(_OldNames())
