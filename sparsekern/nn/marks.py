"""Attributes and hooks that users attach to Parameters, handed on when these are replaced."""

import warnings
from typing import Any


def hand_on_marks(old: Any, new: Any, name: str = "a layer") -> None:
    """Gives a Parameter the attributes and, where the gradient keeps its number of dimensions, the hooks of the one
    that it replaces; their handles go on removing them."""
    vars(new).update({key: value for key, value in vars(old).items() if key not in vars(new)})  # a wrapper has its own
    for kind in ("_backward_hooks", "_post_accumulate_grad_hooks"):
        hooks = getattr(old, kind)
        if hooks and old.dim() == new.dim():
            setattr(new, kind, hooks)
        elif hooks:
            warnings.warn(
                f"the gradient of {name}'s weight has another shape now ({tuple(new.shape)}): its hooks are dropped",
                stacklevel=6,
            )
