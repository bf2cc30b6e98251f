"""2:4 for tensor cores: which layers are taken. Nothing here multiplies by them without such a card."""

from typing import Any

import pytest
import torch
from torch import nn

import sparsekern as sk
from sparsekern.nn import semi_structured as module_function
from sparsekern.nn.semi_structured import pattern_problem


def test_the_pattern() -> None:
    net = sk.sparsify(nn.Linear(64, 32), sk.methods.random(0.5, structure="2:4"))
    assert pattern_problem(net.topology.mask()) is None  # type: ignore[union-attr,operator]
    mask = net.topology.mask()  # type: ignore[union-attr,operator]
    mask[3, :4] = True
    assert pattern_problem(mask) == "its pattern has 4 of 4 consecutive inputs"
    assert pattern_problem(torch.zeros(4, 6, dtype=torch.bool)) == "its 6 inputs are no multiple of 4"


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: nn.Linear(4, 4), "the model has no sparse linear layer"),
        (
            lambda: sk.sparsify(nn.Linear(64, 32), sk.methods.random(0.5, structure="2:4")),
            "it is on cpu; expected a CUDA device",
        ),
    ],
)
def test_what_does_not_fit_is_refused(model: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sk.semi_structured(model())


@pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability() < (8, 0), reason="needs tensor cores"
)
def test_the_product_on_tensor_cores() -> None:
    net = sk.sparsify(nn.Sequential(nn.Linear(128, 64)), sk.methods.random(0.5, structure="2:4")).cuda().half().eval()
    x = torch.randn(32, 128, device="cuda", dtype=torch.half)
    with torch.no_grad():
        expected = net(x)
        torch.testing.assert_close(module_function(net)(x), expected, rtol=1e-2, atol=1e-2)
    with pytest.raises(ValueError, match="its pattern has"):
        sk.semi_structured(sk.sparsify(nn.Linear(128, 64), 0.3).cuda().half())
