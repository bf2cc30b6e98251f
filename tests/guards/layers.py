"""Generated layers, and the operators beneath them, against the dense masked twin in float64."""

from collections.abc import Callable
from typing import Any

import torch
from support.conv_cases import LAYOUTS
from torch import Tensor, nn

import sparsekern as sk

from .bounds import Bounded, bounded, moments
from .products import MATRIX_LAYOUTS, Case, draw
from .settings import running


def check(seed: int) -> None:
    case = draw(seed)
    torch.manual_seed(seed)
    with running(case.isa, case.threads):
        try:
            _check(case)
        except Exception as error:
            raise AssertionError(f"{case}\n{type(error).__name__}: {error}") from error


def _check(case: Case) -> None:
    layouts = LAYOUTS if case.conv else MATRIX_LAYOUTS
    options = {k: v for k, v in case.window.items() if k != "padding"} if case.call == "operator" else case.window
    dense: Any = (nn.Conv2d if case.conv else nn.Linear)(**options, bias=case.bias, dtype=case.dtype)
    mask = torch.rand(dense.weight.shape) < case.density
    if case.empty_rows:
        mask[torch.rand(len(mask)) < 0.5] = False
    x = _laid_out(torch.randn(case.shape, dtype=torch.double).to(case.dtype), layouts[case.layout], case.conv)
    x.requires_grad_(case.needs[0])
    weight, bias, apply = (_operator if case.call == "operator" else _layer)(case, dense, mask)
    with torch.autocast("cpu", torch.bfloat16, enabled=case.autocast):
        output = apply(x)
    assert output.dtype == (torch.bfloat16 if case.autocast else case.dtype), "dtype of the output"
    before = output.detach().clone()
    delta = _laid_out(
        torch.randn(output.shape, dtype=torch.double).to(output.dtype), layouts[case.delta_layout], case.conv
    )
    if output.requires_grad:
        changed, behind = _changed(case.after, output, delta)
        changed.backward(delta)
    else:
        behind = delta
    narrow = (lambda t: t.bfloat16()) if case.autocast else (lambda t: t)
    operands = [narrow(t.detach()).double() for t in (x, dense.weight)]
    offset = None if dense.bias is None else narrow(dense.bias.detach()).double()
    result = bounded(case, operands[0], operands[1], mask, offset, behind.detach().double())
    _compare("output", before, result, 0)
    if case.needs[0]:
        _compare("gradient of the input", x.grad, result, 1)
    if case.needs[1]:
        stored, straight = weight.dim() > 1, case.masked and case.gradient != "active"
        if not stored:
            got = torch.zeros(mask.shape, dtype=weight.dtype)
            got[mask] = weight.grad[: int(mask.sum())]
            assert not weight.grad[int(mask.sum()) :].any(), "the gradient of slack is not 0"
        else:
            got = weight.grad
        shown = torch.ones_like(mask) if straight else mask
        assert not got[~shown].any(), "the gradient off the pattern is not 0"
        _compare("gradient of the weight", got, Bounded([t * shown for t in result.want[2:3]], result.error[2:3]), 0)
    if case.needs[2] and bias is not None:
        _compare("gradient of the bias", bias.grad, result, 3)
    layer = getattr(apply, "__self__", apply)
    if case.gradient == "moment" and case.needs[1]:
        samples = case.shape[0]
        assert layer.samples == samples, f"{layer.samples} samples instead of {samples}"
        want, error = moments(case, operands[0], operands[1], mask, behind.detach().double())
        _compare("moment", layer.moment, Bounded([want], [error]), 0)


def _laid_out(t: Tensor, layout: Callable[[Tensor], Tensor], conv: bool) -> Tensor:
    """Layouts of images are those of batches."""
    if conv and t.dim() == 3:
        return layout(t[None])[0].detach()
    return layout(t).detach() if t.dim() else t


def _changed(after: str, output: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
    """The output after an operation in place, and the gradient of what it was before."""
    if after == "relu":
        changed = output.relu_()
        return changed, delta * (changed.detach() > 0)
    if after == "mask":
        keep = torch.rand(output.shape) < 0.5
        return output.mul_(keep), delta * keep
    return (output.add_(1), delta) if after == "add" else (output, delta)


def _layer(case: Case, dense: Any, mask: Tensor) -> tuple[Tensor, Tensor | None, Any]:
    kind: Any = {
        (False, False): sk.SparseLinear,
        (False, True): sk.MaskedLinear,
        (True, False): sk.SparseConv2d,
        (True, True): sk.MaskedConv2d,
    }[case.conv, case.masked]
    options = {"weight_gradient": case.gradient} if case.masked else {}
    topology = sk.Topology.from_mask(mask, capacity=int(mask.sum()) + case.slack)
    layer = kind.from_topology(dense, topology, backend=case.backend, **options)
    if case.kernel is not None:
        layer.set_kernel(case.kernel, "forced")
    layer.stored.requires_grad_(case.needs[1])
    if layer.bias is not None:
        layer.bias.requires_grad_(case.needs[2])
    return layer.stored, layer.bias, layer


def _operator(case: Case, dense: Any, mask: Tensor) -> tuple[Tensor, Tensor | None, Any]:
    """The operators have four-sided padding beside what layers have."""
    name = "masked" if case.masked else "expanded" if case.kernel == "dense" else "sparse"
    function = getattr(sk.ops, f"{name}_{'conv2d' if case.conv else 'linear'}")
    bits = case.masked or case.kernel == "bits"
    views = frozenset({"bitmask"} if bits else {"tiles"} if case.kernel == "tiled" else {"csc"})
    topology = sk.Topology.from_mask(mask, capacity=int(mask.sum()) + case.slack, views=views)
    weight = dense.weight.detach() if case.masked else topology.gather(dense.weight.detach())
    if not case.masked:
        weight[topology.nnz :] = float("nan")  # nobody may read it
    bias = None if dense.bias is None else dense.bias.detach()
    weight.requires_grad_(case.needs[1])
    options = {key: case.window[key] for key in ("stride", "padding", "dilation", "groups") if case.conv}
    if case.masked:
        options["active"] = case.gradient == "active"
    elif case.conv:
        options["kernel_size"] = case.window["kernel_size"]
    else:
        options["out_features"] = case.window["out_features"]
    if bias is not None:
        bias.requires_grad_(case.needs[2])
    return weight, bias, lambda x: function(x, weight, topology.index, bias=bias, **options)


def _compare(what: str, got: Tensor | None, result: Bounded, i: int) -> None:
    want, error = result.want[i], result.error[i]
    assert got is not None, f"{what}: there is none"
    assert got.shape == want.shape, f"{what}: {tuple(got.shape)} instead of {tuple(want.shape)}"
    off = (got.detach().double() - want).abs()
    wrong = ~(off <= error)  # a NaN is wrong
    if wrong.any():
        at = tuple(wrong.nonzero()[0].tolist())
        raise AssertionError(
            f"{what}: {int(wrong.sum())} of {wrong.numel()} are wrong; at {at} {got[at].item()!r} instead of "
            f"{want[at].item()!r}, off by {off[at].item():.3g} where {error[at].item():.3g} may be"
        )
