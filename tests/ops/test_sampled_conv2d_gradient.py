"""The weight gradient of a convolution at some coordinates, and what guides the choice of them."""

from typing import Any

import pytest
import torch
from support.devices import moved
from torch.nn import functional

import sparsekern as sk
from sparsekern import ops
from sparsekern.ops.conv_geometry import ConvGeometry

WINDOWS: dict[str, dict[str, Any]] = {
    "3x3": {"kernel_size": 3, "padding": 1},
    "sides": {"kernel_size": (3, 2), "stride": (2, 1), "padding": (0, 2, 1, 0), "dilation": (1, 2)},
    "groups": {"kernel_size": 3, "groups": 3},
    "depthwise": {"kernel_size": 3, "groups": 6, "padding": "same"},
}


def problem(window: dict[str, Any], dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """delta, h and dL/dW by plain autograd, in double precision."""
    arguments = {key: value for key, value in window.items() if key not in ("kernel_size", "padding")}
    kernel, _, (top, bottom, left, right), *_ = ConvGeometry.of(
        window["kernel_size"], window.get("stride", 1), window.get("padding", 0), window.get("dilation", 1), 1
    )
    h = torch.randn(2, 6, 7, 8).to(dtype)
    weight = torch.zeros(12, 6 // window.get("groups", 1), *kernel, dtype=torch.double, requires_grad=True)
    output = functional.conv2d(functional.pad(h.double(), (left, right, top, bottom)), weight, None, **arguments)
    delta = torch.randn(output.shape).to(dtype)
    return delta, h, torch.autograd.grad(output, weight, delta.double())[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", WINDOWS)
def test_sampled_gradient_equals_the_dense_one(name: str, dtype: torch.dtype, device: str) -> None:
    delta, h, dense = problem(WINDOWS[name], dtype)
    for coordinates in (
        torch.randperm(dense.numel())[:50].sort().values,
        torch.randint(dense.numel(), (50,)),  # any order, repeated
        torch.arange(dense.numel()),
        torch.empty(0, dtype=torch.int64),
    ):
        got = ops.sampled_conv2d_gradient(*moved((delta, h, coordinates), device), **WINDOWS[name]).cpu()
        assert got.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        torch.testing.assert_close(got.double(), dense.flatten()[coordinates], rtol=1e-4, atol=1e-4)


def test_sampled_gradient_says_what_it_takes() -> None:
    delta, h = torch.randn(2, 12, 5, 6), torch.randn(2, 6, 7, 8)
    some = torch.arange(3)
    for arguments, message in (
        ((delta, h, some.int()), "coordinates must be int64"),
        ((delta, h[0], some), r"must be \[batch, channels, height, width\]"),
        ((delta[:, :, 1:], h, some), r"grad_output must be torch.float32 \(2, 12, 5, 6\)"),
        ((delta.double(), h, some), "got torch.float64"),
        ((delta, h, some + 12 * 6 * 9), "coordinates must lie in"),
    ):
        with pytest.raises((ValueError, RuntimeError), match=message):
            ops.sampled_conv2d_gradient(*arguments, kernel_size=3)


@pytest.mark.parametrize("groups", [1, 2])
def test_channels_guide_and_kernel_positions_are_alike(groups: int) -> None:
    layer = sk.SparseConv2d(4, 6, (3, 2), padding=1, groups=groups, padding_mode="circular", sparsity=0.5).double()
    site = sk.sparsity.Site("layer", layer)
    site.arm()
    x = torch.randn(2, 4, 5, 5, dtype=torch.double, requires_grad=True)
    output = layer(x) + layer(x[1])
    output.backward(torch.randn_like(output))
    (_, first), (_, second) = site.probe.records
    deltas = [d if d.dim() == 4 else d[None] for d in (first, second)]
    padded = functional.pad(torch.cat([x, x[1:]]), (1, 1, 1, 1), mode="circular")
    channels = padded.abs().sum((0, 2, 3)).repeat_interleave(6)
    torch.testing.assert_close(site.probe.col_weight(), (channels if groups == 1 else channels.reshape(2, 12)).detach())
    torch.testing.assert_close(site.probe.row_weight(), sum(d.abs().sum((0, 2, 3)) for d in deltas))
    dense = site.dense_gradient()
    assert dense.shape == layer.weight_shape
    torch.testing.assert_close(dense.flatten()[site.active.coordinates()], layer.values.grad)
    everywhere = torch.arange(site.size)
    torch.testing.assert_close(site.probe.gradient_at(everywhere), dense.flatten())
