"""The private names of PyTorch that this package uses: why each is used, and what would replace it if it went.

No other file names them. `tests/test_private_torch.py` checks that each exists and does what is expected of it. Run it
with the newest torch, in an environment of its own (no compiled kernels are needed):

    python -m venv newest && newest/bin/pip install torch numpy pytest
    PYTHONPATH=. newest/bin/python -m pytest tests/test_private_torch.py

Beside these, layers override the methods of `nn.Module` that subclasses are meant to override although their names
begin with an underscore: `_apply`, `_save_to_state_dict`, `_load_from_state_dict`.
"""

import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd import forward_ad
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm
from torch.nn.modules.dropout import _DropoutNd as Dropout
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map_only

__all__ = ["BatchNorm", "Dropout", "FakeTensor", "tree_leaves", "tree_map_only"]

# FakeTensor: a tensor without data, as operators see it while a program is traced. Replacement: the device of its
# storage, which is "meta".
# BatchNorm, Dropout: the base classes of all batch norms and dropouts. Replacement: a tuple of the public classes.
# tree_leaves, tree_map_only: for tensors in nested lists, tuples and dicts. Replacement: `torch.utils.pytree` of newer
# versions, or the package `optree`.

# ---- autograd

# Statistics of one backward pass must not be mixed with those of another, so a layer asks which one is running: its
# number, -1 outside of any. Replacement: a hook on the tensor that `backward` starts at, which a layer never sees.
current_backward = torch._C._current_graph_task_id

# Whether the running backward pass computes the gradient of a leaf. Raises a RuntimeError where `torch.autograd.grad`
# takes the gradient before the leaf. Replacement: `Function.needs_input_grad`, which ignores what was asked for.
will_execute = torch._C._will_engine_execute_node

# The formula of a gradient calls the operator that it belongs to without being recorded, views included. Replacement:
# `torch.library.register_autograd`, whose call costs several times as much.
below_autograd = torch._C._AutoDispatchBelowADInplaceOrView


def without_python(operator: Any) -> Any:
    """Returns the function that calls an operator of one overload without any code in Python, so that no signal is
    handled until it returns. Replacement: the operator itself, in a thread that signals do not reach."""
    return operator.default._op


def in_forward_mode() -> bool:
    """Returns whether tensors may have tangents. Replacement: `forward_ad.unpack_dual` of every argument."""
    return forward_ad._current_level >= 0


def transforming() -> bool:
    """Returns whether a transform of `torch.func` is at work. Replacement: the error of `Function.apply`, which says
    how functions would have to be written."""
    return torch._C._are_functorch_transforms_active()


def transformed() -> bool:
    """Returns whether PyTorch's own operators must be used, since they alone know all derivatives."""
    return in_forward_mode() or transforming()


@contextmanager
def untraced() -> Iterator[None]:
    """Keeps what is computed within it out of what `torch.jit.trace` records. Replacement: nothing in Python."""
    tracer: Any = torch._C
    state = tracer._get_tracing_state()
    tracer._set_tracing_state(None)
    try:
        yield
    finally:
        tracer._set_tracing_state(state)


@contextmanager
def unrecorded() -> Iterator[None]:
    """Makes what is computed within it a constant of the program that `torch.export` or `torch.jit.trace` records.

    Replacement: constants that are made anew with every pattern, whoever asks for them or not."""
    with untraced(), _disable_current_modes(), without_overrides():
        yield


# ---- tensors

# A tensor subclass computes its own attributes without calling itself (the first), and a change of pattern calls tensor
# functions without any override, modes included (the second). Replacement: PyTorch's manual itself names the first one.
without_subclasses = torch._C.DisableTorchFunctionSubclass
without_overrides = torch._C.DisableTorchFunction


def version(tensor: Tensor) -> int:
    """Returns how often a tensor was changed in place; nobody knows of one that was made in inference mode.
    Replacement: comparing it with a copy."""
    return -1 if tensor.is_inference() else tensor._version


# ---- modules

# The attributes of a module that hold its parts. A change of pattern exchanges their contents all at once, which
# `setattr` can't. Replacement: `setattr`, after which an interrupt might find half a layer.
MODULE_CONTENTS = ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set")


def parameters(module: nn.Module) -> dict[str, Any]:
    """Returns a module's own Parameters by name, None included. Replacement: `named_parameters(recurse=False)`, which
    leaves out None and what is there twice."""
    return module._parameters


def buffers(module: nn.Module) -> dict[str, Any]:
    """Returns a module's own buffers, as `parameters` does."""
    return module._buffers


def modules(module: nn.Module) -> dict[str, nn.Module | None]:
    """Returns a module's children, as `parameters` does. Replacement: `named_children`, which leaves out what is there
    twice."""
    return module._modules


# ---- torch.compile

COMPILED_CHILD = "_orig_mod"  # under which the module that `torch.compile(module)` returns holds the original


def compiled_itself(module: nn.Module) -> bool:
    """Returns whether `module.compile()` was called. Replacement: none; `sparsify` would not refuse such a layer."""
    return "_compiled_call_impl" in vars(module)


def something_compiled() -> bool:
    """Returns whether `torch.compile` may have been used. Asking `torch.compiler` imports the
    compiler's front end, which takes seconds. Replacement: always True."""
    return "torch._dynamo" in sys.modules


# ---- wrappers of models

# Full names of classes and the attribute that holds the model; a class that is gone is never met.
WRAPPERS = {
    "torch._dynamo.eval_frame.OptimizedModule": COMPILED_CHILD,
    "torch.distributed.fsdp.fully_sharded_data_parallel.FullyShardedDataParallel": "_fsdp_wrapped_module",
    "torch.distributed.algorithms._checkpoint.checkpoint_wrapper.ActivationWrapper": "_checkpoint_wrapped_module",
}


def reduced_parameters(model: nn.Module) -> list[Tensor] | None:
    """Returns the Parameters whose gradients a `DistributedDataParallel` reduces, None if it does not say.

    Replacement: none. Wrapping a model before `sparsify` would not be noticed."""
    return getattr(model, "_module_parameters", None)


def reduce_anew(wrapped: Any) -> None:
    """Makes a `DistributedDataParallel` reduce the gradients of the Parameters that its model has now, in the way in
    which it is unpickled. Its options and its communication hook stay.

    Replacement: none. Users would wrap the model again after a step that replaced Parameters."""
    ignored = wrapped.parameters_to_ignore
    wrapped._module_parameters = [p for name, p in wrapped.module.named_parameters() if name not in ignored]
    parameters, sparse = wrapped._build_params_for_reducer()
    names = wrapped._build_debug_param_to_name_mapping(parameters)
    wrapped._ddp_init_helper(parameters, sparse, names, wrapped.static_graph)
    if wrapped.static_graph:
        wrapped.reducer._set_static_graph()
        wrapped.logger._set_static_graph()
        wrapped._static_graph_delay_allreduce_enqueued = False  # the new reducer has not seen the graph
    distributed: Any = torch.distributed
    for hook, state in wrapped._comm_hooks:
        distributed._register_comm_hook(wrapped.reducer, state, hook)


def managed_shards(module: Any) -> list[tuple[nn.Module, str, Any]]:
    """Returns, for each Parameter that a module after `fully_shard` gathers and shards, the module that has it, its
    name there, and what manages it.

    Replacement: none. Sharded layers could not get more or fewer weights, or other Parameters."""
    group = module._get_fsdp_state()._fsdp_param_group
    managed = [] if group is None else group.fsdp_params
    return [(each._module_info.module, each._module_info.param_name, each) for each in managed]


def manages(managed: Any, parameter: nn.Parameter) -> bool:
    """Returns whether a sharded Parameter, in its present shape, is the one that `managed` gathers and shards."""
    return managed.sharded_param is parameter and managed._orig_size == parameter.shape


@torch.no_grad()
def shard_anew(managed: Any, name: str, parameter: nn.Parameter) -> None:
    """Lets another sharded Parameter, perhaps of another name or shape, take the place of the one that is managed.

    `fully_shard` finds sizes from a whole Parameter, which may be one without data; then it takes up the shard as it
    does after a state dict was assigned. Replacement: none; see `managed_shards`."""
    info, whole = managed._module_info, torch.empty(parameter.shape, dtype=parameter.dtype, device="meta")
    whole.requires_grad_(parameter.requires_grad)
    info.param_name, info.shared_param_names = name, [name for _ in info.shared_modules]
    found = inspect.signature(managed._init_sharded_param).parameters
    mesh = {"mesh_info": managed.mesh_info} if "mesh_info" in found else {}  # of newer versions
    managed._init_sharded_param(whole, managed.device, lambda _: managed.fsdp_placement, **mesh)
    if managed.post_forward_mesh_info is not None:
        managed._init_sharded_post_forward_param_metadata(whole)
    managed.all_gather_outputs = []
    vars(managed).pop("_unsharded_param", None)
    managed._setattr_on_modules(parameter)
    managed.reset_sharded_param()


# ---- optimizers

# `GradScaler` hands its scale to a fused optimizer as attributes of the object that it steps, if a class attribute of
# this name is true; the optimizer inside a wrapper would not see them. Replacement: none needed if the name goes.
AMP_SCALING = "_step_supports_amp_scaling"


# The attributes in which an optimizer keeps its hooks. An optimizer with a `state_dict` of its own calls them itself,
# and leaves them out of copies as PyTorch's optimizers do. Replacement: none; such hooks would not be called.
_KINDS = ("step_pre", "step_post", "state_dict_pre", "state_dict_post", "load_state_dict_pre", "load_state_dict_post")
HOOKS = {kind: f"_optimizer_{kind}_hooks" for kind in _KINDS}


def hooks(optimizer: torch.optim.Optimizer, kind: str) -> list[Any]:
    """Returns the hooks of a kind, such as "state_dict_pre", in the order of their registration."""
    return list(vars(optimizer)[HOOKS[kind]].values())


def called_by_checkpoint() -> bool:
    """Returns whether the caller's caller is `torch.distributed.checkpoint.state_dict`.

    It keeps of a `state_dict` only what it knows. Replacement: none; what it leaves out would be missed at loading."""
    frame = inspect.currentframe()
    for _ in range(3):
        frame = None if frame is None else frame.f_back
    return frame is not None and frame.f_globals.get("__name__") == "torch.distributed.checkpoint.state_dict"
