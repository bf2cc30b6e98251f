"""What the fused masked kernels do not touch: blocks without any weight."""

import pytest
import torch
from support.devices import DEVICES
from torch import Tensor

from sparsekern import Topology
from sparsekern.ops import cuda
from sparsekern.ops.index import Index

pytest.importorskip("triton", reason="comes with the CUDA build of PyTorch")
DEVICE = DEVICES[-1]
NAN = float("nan")


def index_of(mask: Tensor) -> Index:
    return Topology.from_mask(mask, views=frozenset({"bitmask"})).index


def finite(tensor: Tensor) -> Tensor:
    """Whether all of each feature is finite, or else none of it."""
    features = tensor.isfinite().transpose(0, 1).flatten(1)
    assert torch.equal(features.all(1), features.any(1))
    return features.all(1)


def test_forward_skips_empty_blocks() -> None:
    mask = torch.rand(160, 200, device=DEVICE) < 0.5
    mask[:128, 64:128] = False
    x, weight = torch.randn(5, 200, device=DEVICE), torch.randn(160, 200, device=DEVICE)
    x[:, 64:128] = NAN
    output = cuda.kernel("masked_linear")(x, weight, index_of(mask), None, False)
    assert torch.equal(finite(output), torch.arange(160, device=DEVICE) < 128)


def test_input_gradient_skips_empty_blocks() -> None:
    mask = torch.rand(200, 160, device=DEVICE) < 0.5
    mask[64:128, :128] = False
    delta, weight = torch.randn(5, 200, device=DEVICE), torch.randn(200, 160, device=DEVICE)
    delta[:, 64:128] = NAN
    needs = (True, False, False)
    backward = cuda.kernel("masked_linear_backward")
    gradient = backward(delta, delta.new_zeros(5, 160), weight, index_of(mask), *needs, False)[0]
    assert torch.equal(finite(gradient), torch.arange(160, device=DEVICE) < 128)


def test_convolution_skips_empty_blocks() -> None:
    """The words of its bitmask are those of a tap: of every second tap the second word of 64 channels is empty."""
    mask = torch.rand(3, 130, 1, 2, device=DEVICE) < 0.5
    mask[:, 64:128, :, 0] = False
    x, weight = torch.randn(2, 130, 1, 5, device=DEVICE), torch.randn(3, 130, 1, 2, device=DEVICE)
    x[:, 64:128, :, 0] = NAN  # which only the first tap sees
    window = ([1, 2], [1, 1], [0, 0, 0, 0], [1, 1], 1)
    output = cuda.kernel("masked_conv2d")(x, weight, index_of(mask), None, *window, False)
    assert finite(output).all()
    x[:, :64, :, 0] = NAN
    assert not cuda.kernel("masked_conv2d")(x, weight, index_of(mask), None, *window, False)[..., 0].isfinite().any()


def test_nothing_is_left() -> None:
    mask = torch.zeros(70, 90, dtype=torch.bool, device=DEVICE)
    x, delta, weight = (torch.full(shape, NAN, device=DEVICE) for shape in ((3, 90), (3, 70), (70, 90)))
    bias = torch.randn(70, device=DEVICE)
    output = cuda.kernel("masked_linear")(x, weight, index_of(mask), bias, True)
    assert torch.equal(output, bias.expand(3, 70))
    backward = cuda.kernel("masked_linear_backward")
    gradients = backward(delta, x, weight, index_of(mask), True, True, False, True)
    assert not gradients[0].any()
    assert not gradients[1].any()
