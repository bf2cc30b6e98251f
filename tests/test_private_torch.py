"""Every name of PyTorch's own that the package uses exists and does what is expected: run it with a new torch first."""

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode

import sparsekern
from sparsekern import private_torch
from sparsekern.ops import extension

PACKAGE = Path(sparsekern.__file__).parent
PRIVATE = re.compile(
    r"torch(\.\w+)*\._[a-zA-Z]|\b_C\.|forward_ad\._|from torch\S* import .*\b_[a-z]|from torch\S*\._|sys\._"
    r"|\._(parameters|buffers|modules|non_persistent_buffers_set|version|orig_mod|compiled_call_impl)\b"
)


def test_no_other_file_names_what_is_private() -> None:
    own = re.compile(r"self\._(parameters|buffers|non_persistent_buffers_set)")  # of a module's own class
    found = [
        f"{path.relative_to(PACKAGE)}: {line.strip()}"
        for path in PACKAGE.rglob("*.py")
        if path.name != "private_torch.py"
        for line in path.read_text().splitlines()
        if PRIVATE.search(own.sub("", line))
    ]
    assert not found


def test_current_backward_and_will_execute() -> None:
    seen = []

    class Twice(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):  # type: ignore[override]
            return 2 * x

        @staticmethod
        def backward(ctx, grad):  # type: ignore[override]
            node = ctx.next_functions[0][0]
            try:
                asked = private_torch.will_execute(node)
            except RuntimeError:
                asked = "handed out"
            seen.append((private_torch.current_backward(), asked))
            return 2 * grad

    assert private_torch.current_backward() == -1
    x, y = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    Twice.apply(x).sum().backward()  # type: ignore[union-attr]
    Twice.apply(x).sum().backward()  # type: ignore[union-attr]
    (Twice.apply(x) * y).sum().backward(inputs=[x])  # type: ignore[operator]
    torch.autograd.grad(Twice.apply(x).sum(), x)  # type: ignore[union-attr]
    numbers, asked = zip(*seen, strict=True)
    assert min(numbers) >= 0
    assert len(set(numbers)) == 4
    assert asked == (True, True, True, "handed out")


def test_below_autograd() -> None:
    x = torch.ones(2, requires_grad=True)
    with private_torch.below_autograd():
        view = x.view(2, 1)
    assert view.grad_fn is None
    assert not view._is_view()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_untraced() -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        with private_torch.untraced():
            constant = torch.ones(2).cumsum(0)
        return x + constant

    traced = torch.jit.trace(function, torch.zeros(2))
    assert "cumsum" not in str(traced.graph)
    assert torch.equal(traced(torch.ones(2)), torch.tensor([2.0, 3.0]))


def test_unrecorded() -> None:
    class Module(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with private_torch.unrecorded():
                constant = torch.ones(2).cumsum(0)
            return x + constant

    program = torch.export.export(Module(), (torch.zeros(2),))
    assert "cumsum" not in program.graph_module.code
    assert torch.equal(program.module()(torch.ones(2)), torch.tensor([2.0, 3.0]))


@pytest.mark.skipif(extension is None, reason="the references are Python")
def test_an_operator_is_called_without_python() -> None:
    call = private_torch.without_python(torch.ops.sparsekern.move_entries)
    source, target, none = torch.arange(3.0), torch.zeros(2), torch.empty(1, 0, dtype=torch.int64)
    called: list[Any] = []
    sys.setprofile(lambda frame, event, argument: called.append(event))
    try:
        call(source, target, torch.tensor([[0b101]]), 3, none, 0, torch.tensor(0.0))
    finally:
        sys.setprofile(None)
    assert target.tolist() == [0, 2]
    assert "call" not in called  # of a function in Python


def test_in_forward_mode() -> None:
    assert not private_torch.in_forward_mode()
    with forward_ad.dual_level():
        assert private_torch.in_forward_mode()


@pytest.mark.parametrize("transform", [torch.func.grad, torch.vmap])
def test_transforming(transform: Any) -> None:
    seen = []

    def function(x: torch.Tensor) -> torch.Tensor:
        seen.append(private_torch.transforming() and private_torch.transformed())
        return x.sum()

    assert not private_torch.transforming()
    assert not private_torch.transformed()
    transform(function)(torch.ones(2))
    assert seen == [True]


def test_overrides_are_passed_by() -> None:
    class Refused(torch.Tensor):
        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):  # type: ignore[override]
            raise AssertionError(func)

    class Refusing(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            raise AssertionError(func)

    tensor = torch.Tensor._make_subclass(Refused, torch.ones(2))
    with private_torch.without_subclasses():
        assert tensor.shape == (2,)
    plain = torch.zeros(2)
    with Refusing(), private_torch.without_overrides():
        plain.add_(1)
        tensor.add_(1)
    assert plain.tolist() == [1, 1]


def test_fake_tensors_and_versions() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        assert isinstance(torch.empty(2), private_torch.FakeTensor)
    tensor = torch.zeros(2)
    before = private_torch.version(tensor)
    tensor.add_(1)
    assert private_torch.version(tensor) == before + 1


@pytest.mark.parametrize("kind", [nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm])
def test_batch_norms(kind: type[nn.Module]) -> None:
    assert issubclass(kind, private_torch.BatchNorm)


@pytest.mark.parametrize("kind", [nn.Dropout, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout])
def test_dropouts(kind: type[nn.Module]) -> None:
    assert issubclass(kind, private_torch.Dropout)


def test_contents_of_a_module() -> None:
    module = nn.BatchNorm1d(3)
    module.register_buffer("index", torch.zeros(1), persistent=False)
    module.register_module("none", None)
    parameters, buffers, modules, passing = (vars(module)[name] for name in private_torch.MODULE_CONTENTS)
    assert parameters is private_torch.parameters(module)
    assert list(parameters) == ["weight", "bias"]
    assert buffers is private_torch.buffers(module)
    assert list(buffers) == ["running_mean", "running_var", "num_batches_tracked", "index"]
    assert modules is private_torch.modules(module)
    assert modules == {"none": None}
    assert passing == {"index"}
    del parameters["weight"]
    assert not hasattr(module, "weight")


def test_overridden_methods_are_called() -> None:
    called = []

    class Layer(nn.Module):
        def _apply(self, fn, recurse=True):  # type: ignore[override]
            called.append("_apply")
            return super()._apply(fn, recurse)

        def _save_to_state_dict(self, destination, prefix, keep_vars) -> None:
            called.append("_save_to_state_dict")

        def _load_from_state_dict(self, state_dict, prefix, metadata, strict, missing, unexpected, errors) -> None:  # type: ignore[override]
            called.append("_load_from_state_dict")

    layer = Layer().double()
    layer.load_state_dict(layer.state_dict())
    assert called == ["_apply", "_save_to_state_dict", "_load_from_state_dict"]


def test_compiled_modules() -> None:
    module = nn.Linear(2, 2)
    assert not private_torch.compiled_itself(module)
    wrapped = torch.compile(module)
    assert private_torch.something_compiled()
    assert getattr(wrapped, private_torch.COMPILED_CHILD) is module
    assert not private_torch.compiled_itself(module)
    module.compile()
    assert private_torch.compiled_itself(module)


@pytest.mark.parametrize("name", private_torch.WRAPPERS)
def test_wrappers_exist(name: str) -> None:
    pytest.importorskip("torch.distributed")
    module, _, kind = name.rpartition(".")
    assert isinstance(getattr(__import__(module, fromlist=[kind]), kind), type)


def test_wrappers_hold_the_model(tmp_path: Path) -> None:
    dist = pytest.importorskip("torch.distributed")
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
    from torch.distributed.fsdp import FullyShardedDataParallel

    module = nn.Linear(2, 2)
    names = private_torch.WRAPPERS
    wrapped = checkpoint_wrapper(module)
    kind = "torch.distributed.algorithms._checkpoint.checkpoint_wrapper.ActivationWrapper"
    assert wrapped.get_submodule(names[kind]) is module
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    try:
        reduced = private_torch.reduced_parameters(nn.parallel.DistributedDataParallel(module))
        assert {id(p) for p in reduced or ()} == {id(p) for p in module.parameters()}
        held = names["torch.distributed.fsdp.fully_sharded_data_parallel.FullyShardedDataParallel"]
        assert isinstance(getattr(FullyShardedDataParallel, "module", None), property)
        assert held in FullyShardedDataParallel.__init__.__code__.co_names or held in vars(
            __import__(FullyShardedDataParallel.__module__, fromlist=["FSDP_WRAPPED_MODULE"])
        ).get("FSDP_WRAPPED_MODULE", "")
    finally:
        dist.destroy_process_group()
    assert private_torch.reduced_parameters(module) is None


def test_shard_anew(tmp_path: Path) -> None:
    from torch.distributed.fsdp import fully_shard

    from sparsekern.shards import sharded_as

    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    try:
        model = fully_shard(nn.Sequential(nn.Linear(3, 4, bias=False)))
        assert model(torch.ones(2, 3)).shape == (2, 4)
        model.reshard()
        ((layer, name, managed),) = private_torch.managed_shards(model)
        assert (layer, name) == (model[0], "weight")
        assert private_torch.manages(managed, layer.weight)
        parameter = nn.Parameter(sharded_as(torch.arange(15.0).reshape(5, 3), layer.weight))
        assert not private_torch.manages(managed, parameter)
        private_torch.shard_anew(managed, "weight", parameter)
        assert layer.weight is parameter
        assert private_torch.manages(managed, parameter)
        output = model(torch.ones(2, 3))
        assert torch.equal(output, torch.arange(15.0).reshape(5, 3).sum(1).expand(2, 5))
        output.sum().backward()
        assert torch.equal(parameter.grad.full_tensor(), torch.full((5, 3), 2.0))  # type: ignore[union-attr]
    finally:
        dist.destroy_process_group()


def test_reduce_anew(tmp_path: Path) -> None:
    seen: list[int] = []

    def hook(state: None, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
        seen.extend(parameter.numel() for parameter in bucket.parameters())
        future: torch.futures.Future[torch.Tensor] = torch.futures.Future()
        future.set_result(7 * torch.ones_like(bucket.buffer()))
        return future

    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    try:
        module = nn.Linear(3, 2)
        wrapped = nn.parallel.DistributedDataParallel(module)
        wrapped.register_comm_hook(None, hook)
        for size in (3, 5):
            module.weight = nn.Parameter(torch.ones(2, size))
            private_torch.reduce_anew(wrapped)
            wrapped(torch.ones(1, size)).sum().backward()
            assert (module.weight.grad == 7).all()
        assert sorted(seen) == [2, 2, 6, 10]
    finally:
        dist.destroy_process_group()


def test_a_gradient_scaler_hands_its_scale_to_optimizers_that_take_it() -> None:
    class Scaled(torch.optim.SGD):
        def step(self, closure=None) -> None:  # type: ignore[override]
            self.scale = getattr(self, "grad_scale", None)

    for takes in (True, False):
        parameter = nn.Parameter(torch.ones(1))
        optimizer = Scaled([parameter], lr=0.1)
        setattr(optimizer, private_torch.AMP_SCALING, takes)
        scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
        scaler.scale((2 * parameter).sum()).backward()
        scaler.step(optimizer)
        assert (optimizer.scale is not None) == takes
        assert parameter.grad.item() == (8 if takes else 2)  # type: ignore[union-attr]


def test_called_by_checkpoint() -> None:
    asked = []

    class Asked(torch.optim.SGD):
        def state_dict(self):  # type: ignore[override]
            asked.append(self.look())
            return super().state_dict()

        def look(self) -> bool:
            return private_torch.called_by_checkpoint()

    state_dicts = pytest.importorskip("torch.distributed.checkpoint.state_dict")
    model = nn.Linear(2, 2)
    optimizer = Asked(model.parameters(), lr=0.1)
    optimizer.state_dict()
    state_dicts.get_optimizer_state_dict(model, optimizer)
    assert asked[0] is False
    assert True in asked[1:]
