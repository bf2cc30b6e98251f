"""Derivatives of products: the C++ and the Python give the same bits, and both behave as PyTorch's own operators do."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint

from sparsekern import MaskedConv2d, MaskedLinear, SparseConv2d, SparseLinear
from sparsekern.nn import MaskedLayer
from sparsekern.ops.autograd import PRODUCTS
from sparsekern.ops.backend import autograd_extension

LAYERS: dict[str, Callable[[], Any]] = {
    "sparse_linear": lambda: SparseLinear(12, 10, sparsity=0.5, backend="sparse"),
    "expanded_linear": lambda: SparseLinear(12, 10, sparsity=0.5, backend="dense"),
    "masked_linear": lambda: MaskedLinear(12, 10, sparsity=0.5),
    "sparse_conv2d": lambda: SparseConv2d(4, 6, 3, sparsity=0.5, backend="sparse"),
    "expanded_conv2d": lambda: SparseConv2d(4, 6, 3, sparsity=0.5, backend="dense"),
    "masked_conv2d": lambda: MaskedConv2d(4, 6, 3, sparsity=0.5),
    "straight-through linear": lambda: MaskedLinear(12, 10, sparsity=0.5, backend="sparse"),
    "straight-through conv2d": lambda: MaskedConv2d(4, 6, 2, padding="same", sparsity=0.5, backend="sparse"),
    "active entries": lambda: MaskedLinear(12, 10, sparsity=0.5, backend="sparse", weight_gradient="active"),
    "expanded weight": lambda: MaskedLinear(12, 10, sparsity=0.5, backend="masked"),
}


def example(name: str) -> tuple[Any, Tensor]:
    """A layer with the derivatives `name`, and an input that needs a gradient."""
    torch.manual_seed(0)
    layer = LAYERS[name]()
    if name.startswith("masked"):
        layer.set_kernel("bits", "a test")
    return layer, torch.randn((3, 4, 5, 6) if "conv" in name else (2, 3, 12), requires_grad=True)


def gradients(layer: Any, x: Tensor, call: Callable[[Any, Tensor], Tensor] = lambda layer, x: layer(x)) -> list[Tensor]:
    """The gradients of the input and the Parameters."""
    leaves = [x, *layer.parameters()]
    for leaf in leaves:
        leaf.grad = None
    call(layer, x).square().sum().backward()
    return [leaf.grad.clone() for leaf in leaves]  # type: ignore[union-attr]


def everything(name: str) -> list[Tensor]:
    """Output, gradients, and the tangents along the input and along each Parameter."""
    layer, x = example(name)
    found = [layer(x), *gradients(layer, x)]
    leaves: dict[str, Tensor] = {"x": x, **dict(layer.named_parameters())}
    for moved in leaves:
        with forward_ad.dual_level():
            duals = dict(leaves)
            duals[moved] = forward_ad.make_dual(leaves[moved], torch.ones_like(leaves[moved]))
            output = torch.func.functional_call(layer, {k: v for k, v in duals.items() if k != "x"}, duals["x"])
            found.append(forward_ad.unpack_dual(output).tangent)
    return [tensor.detach() for tensor in found]


def test_every_product_has_a_layer_here() -> None:
    assert set(PRODUCTS) <= set(LAYERS)


@pytest.mark.skipif(autograd_extension is None, reason="not compiled for this version of PyTorch")
def test_python_gives_the_same_bits(tmp_path: Path, threads: Callable[[int], None]) -> None:
    code = (
        f"import sys; sys.modules[{autograd_extension.__name__!r}] = None; import torch, test_autograd as t; "  # type: ignore[union-attr]
        "assert t.autograd_extension is None; torch.set_num_threads(1); "
        f"torch.save({{name: t.everything(name) for name in t.LAYERS}}, {str(tmp_path / 'python.pt')!r})"
    )
    here = Path(__file__).parent
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(here), str(here.parent.parent)])}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    threads(1)
    for name, wanted in torch.load(tmp_path / "python.pt").items():
        for found, want in zip(everything(name), wanted, strict=True):
            assert torch.equal(found, want), name


@pytest.mark.parametrize("name", LAYERS)
def test_checkpoints_and_hooks_of_saved_tensors(name: str) -> None:
    layer, x = example(name)
    wanted = gradients(layer, x)
    for reentrant in (True, False):
        found = gradients(layer, x, lambda layer, x, r=reentrant: checkpoint(layer, x, use_reentrant=r))
        assert all(map(torch.equal, found, wanted))
    with torch.autograd.graph.save_on_cpu():
        assert all(map(torch.equal, gradients(layer, x), wanted))


@pytest.mark.parametrize("name", LAYERS)
def test_a_pass_needs_what_was_saved(name: str) -> None:
    layer, x = example(name)
    output = layer(x).sum()
    output.backward(retain_graph=True)
    output.backward()
    with pytest.raises(RuntimeError, match="second time"):
        output.backward()
    changed = x.detach().clone()
    output = layer(changed).sum()
    changed.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.backward()


@pytest.mark.parametrize("name", LAYERS)
def test_no_second_derivatives(name: str) -> None:
    layer, x = example(name)
    with pytest.raises(RuntimeError, match=r"no second derivatives by create_graph=True: take those of torch\.func"):
        torch.autograd.grad(layer(x).sum(), x, create_graph=True)


@pytest.mark.parametrize("name", LAYERS)
def test_only_what_is_asked_for(name: str) -> None:
    """Frozen Parameters get no gradient, nor does what `torch.autograd.grad` was not asked for."""
    layer, x = example(name)
    wanted = gradients(layer, x)
    assert torch.equal(torch.autograd.grad(layer(x).square().sum(), x)[0], wanted[0])
    assert torch.equal(torch.autograd.grad(layer(x).square().sum(), layer.bias)[0], wanted[2])
    layer.requires_grad_(False)
    layer.bias.requires_grad, layer.bias.grad = True, None
    layer(x.detach()).square().sum().backward()
    assert torch.equal(layer.bias.grad, wanted[2])


@pytest.mark.parametrize(
    "name", ["sparse_linear", "sparse_conv2d", "straight-through linear", "straight-through conv2d", "active entries"]
)
def test_compiled_autograd(name: str) -> None:
    """The compiled pass takes another layer of the same shape, too, with a pattern of its own."""
    from torch._dynamo.compiled_autograd import _enable

    for seed in range(2):
        layer, x = example(name)
        kept = torch.rand(layer.weight_shape) < 0.5 + 0.2 * seed
        options = {"weight_gradient": layer.weight_gradient} if isinstance(layer, MaskedLayer) else {}
        layer = type(layer).from_dense(layer.to_dense(), kept, **options)
        layer.set_kernel("csr", "a test")
        wanted = gradients(layer, x)
        with _enable(torch.compile(backend="eager")):
            found = gradients(layer, x)
        torch.testing.assert_close(found, wanted)
