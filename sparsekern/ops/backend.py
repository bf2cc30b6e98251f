"""Loads the compiled kernels, if they were built."""

import importlib
import importlib.util
import os
import re
import warnings
from types import ModuleType

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling

from ..private_torch import transformed

missing = ""  # why there are no compiled kernels


def _load() -> ModuleType | None:
    global missing
    try:
        return importlib.import_module("sparsekern._C")
    except ImportError as error:
        missing = str(error)
        if os.environ.get("SPARSEKERN_CPP") != "0":
            warnings.warn(f"sparsekern runs on plain PyTorch, without compiled kernels ({error})", stacklevel=2)
        return None


def _load_cuda() -> ModuleType | None:
    """Loads the CUDA C++ kernels, which register themselves; there are none where PyTorch knows no CUDA."""
    try:
        return importlib.import_module("sparsekern._CUDA")
    except ImportError as error:
        if torch.version.cuda is not None and importlib.util.find_spec("sparsekern._CUDA") is not None:
            warnings.warn(f"sparsekern runs without its CUDA C++ kernels ({error})", stacklevel=2)
        return None


def _load_autograd() -> ModuleType | None:
    """Loads the derivatives in C++, which know one version of PyTorch only and bear its name; None for any other, and
    for those that an older version of this package has left behind."""
    try:
        found = importlib.import_module(f"sparsekern._autograd_{re.sub(r'[^0-9A-Za-z]', '_', torch.__version__)}")
    except ImportError:
        return None
    return found if hasattr(found, "straight_product") else None


extension = _load()
cuda_extension = _load_cuda() if extension is not None else None
autograd_extension = _load_autograd() if extension is not None else None


def derivatives(tensor: Tensor) -> ModuleType | None:
    """Returns the derivatives in C++, where they were compiled and nothing traces or transforms a computation with
    `tensor`: what does so knows the Python ones."""
    if is_compiling() or transformed() or type(tensor) not in (Tensor, nn.Parameter):
        return None
    return autograd_extension
