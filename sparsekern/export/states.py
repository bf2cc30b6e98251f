"""The state of a model for files: its nonzeros only, or CSR tensors of PyTorch."""

import copy

import torch
from torch import Tensor, nn

from ..nn import MaskedLayer, SparseLayer, copies


def nonzeros(model: nn.Module) -> nn.Module:
    """Returns a copy of a model whose sparse and masked layers hold their nonzeros only, without slack: a MaskedLinear
    has become a SparseLinear."""
    copied = copy.deepcopy(model)
    for layer in copied.modules():
        if isinstance(layer, MaskedLayer):
            layer.shed()
        if isinstance(layer, SparseLayer):
            topology, values = layer.topology, layer.values
            if topology.nnz < topology.capacity:
                layer.values = nn.Parameter(topology.to_csr(values.detach()).clone(), values.requires_grad)
                layer.set_topology(topology.with_capacity(topology.nnz))
            copies.release(layer)  # it is no average, which would have to follow the model
    return copied


@torch.no_grad()
def csr_state(model: nn.Module) -> dict[str, Tensor]:
    """Returns the state dict of the dense twin, but weights of sparse and masked layers are CSR tensors of PyTorch with
    int32 indices. `load_state_dict` of a sparse model takes them.

    The weight of a convolution is a matrix there, `[out, in / groups * kernel height * kernel width]`."""
    model = nonzeros(model)
    state = model.state_dict()
    for name, layer in model.named_modules(remove_duplicate=False):
        if isinstance(layer, SparseLayer):
            prefix = f"{name}." if name else ""
            for part in ("values", "row_ptr", "col"):
                del state[prefix + part]
            state[prefix + "weight"] = layer.sparse_weight.to_sparse_csr()
    return state
