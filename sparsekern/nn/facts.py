"""Functions of tensors that need not have the weight of a sparse layer, and those whose effect on it would be lost."""

from typing import Any

import torch
from torch import Tensor

_tensor: Any = Tensor  # its attributes are descriptors, which its annotations do not say


def getters(*names: str) -> set[Any]:
    """Returns the functions by which attributes of tensors are read. Newer versions of PyTorch have no `names`."""
    return {getattr(_tensor, name).__get__ for name in names if hasattr(_tensor, name)}


# What is answered without making the weight.
FACTS = getters(
    "shape", "dtype", "device", "layout", "ndim", "requires_grad", "is_leaf", "is_cuda", "is_cpu", "is_meta"
)
FACTS |= getters("is_sparse", "is_quantized", "is_nested", "itemsize", "nbytes", "names")
FACTS |= {Tensor.size, Tensor.dim, Tensor.ndimension, Tensor.numel, Tensor.nelement, Tensor.element_size, Tensor.stride}
FACTS |= {Tensor.is_floating_point, torch.is_floating_point, Tensor.is_complex, torch.is_complex, torch.numel}
FACTS |= {Tensor.get_device, Tensor.is_contiguous, Tensor.__len__, Tensor.__hash__}
# What would be lost, since the weight is made anew at every read.
LOST = {Tensor.register_hook, Tensor.register_post_accumulate_grad_hook, Tensor.retain_grad, Tensor.data_ptr}
LOST |= {Tensor.set_, Tensor.resize_, Tensor.untyped_storage, Tensor.storage, Tensor.share_memory_}


def initializes(function: Any) -> bool:
    """Returns whether a function is one of `torch.nn.init`, which record no gradients of what they do."""
    return getattr(function, "__module__", None) == "torch.nn.init"
