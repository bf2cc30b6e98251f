"""timm: its groups of Parameters decay the nonzeros of sparse layers like the weights that they are.

timm decays no vectors, and a sparse layer stores its nonzeros as one: `create_optimizer_v2(model, weight_decay=0.05)`
would leave them out without a word.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from inspect import signature
from typing import Any

from ..nn import SparseLayer

Groups = list[dict[str, Any]]
NAMES = ("param_groups_weight_decay", "param_groups_layer_decay")


def decaying(group: Callable[..., Groups]) -> Callable[..., Groups]:
    """Returns a function of timm's that groups Parameters, and decays nonzeros by its `weight_decay`, too."""

    @wraps(group)
    def groups(*arguments: Any, **options: Any) -> Groups:
        given = signature(group).bind(*arguments, **options)
        given.apply_defaults()
        layers = [m for m in given.arguments["model"].modules() if isinstance(m, SparseLayer)]
        return _divided(group(*arguments, **options), {id(m.stored) for m in layers}, given.arguments["weight_decay"])

    return groups


def _divided(groups: Groups, nonzeros: set[int], weight_decay: float) -> Groups:
    divided = []
    for group in groups:
        own = [p for p in group["params"] if id(p) in nonzeros]
        others = [p for p in group["params"] if id(p) not in nonzeros]
        divided += [{**group, "params": others}] if others else []
        divided += [{**group, "params": own, "weight_decay": weight_decay}] if own else []
    return divided


# Wherever timm has imported them to.
for name in NAMES:
    made = decaying(getattr(sys.modules["timm.optim._param_groups"], name))
    for module in [module for key, module in sys.modules.items() if key.startswith("timm.optim")]:
        if hasattr(module, name):
            setattr(module, name, made)
