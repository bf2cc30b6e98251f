"""Loads the compiled kernels, if they were built."""

import importlib
import os
import warnings
from types import ModuleType


def _load() -> ModuleType | None:
    try:
        return importlib.import_module("sparsekern._C")
    except ImportError as error:
        if os.environ.get("SPARSEKERN_CPP") != "0":
            warnings.warn(f"sparsekern runs on plain PyTorch, without compiled kernels ({error})", stacklevel=2)
        return None


extension = _load()
