"""Sparse training of neural networks that saves time and memory: the zeros are neither stored nor multiplied."""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from . import integrations as integrations
from . import moved as moved
from . import process as process

__version__ = "0.2.0.dev0"

integrations.listen()

if TYPE_CHECKING or not process.is_command():
    from .api import *  # noqa: F403
    from .api import __all__ as __all__
else:  # PyTorch takes seconds to import, which the command needs only when it gets to work

    def __getattr__(name: str) -> Any:
        if name.startswith("_") or find_spec(f"{__name__}.{name}"):
            raise AttributeError(name)
        return getattr(import_module(".api", __name__), name)
