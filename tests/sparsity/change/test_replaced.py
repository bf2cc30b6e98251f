"""Parameters that a change of pattern has replaced say so to whoever still holds them."""

from typing import Any

import pytest
import torch
from support.trajectories import OPTIMIZERS, batches, make, network, step
from torch import nn

import sparsekern as sk


@pytest.mark.parametrize("name", ["gmp", "dpf", "magnitude_after"])
def test_a_list_from_before_training_is_an_error_once_it_is_out_of_date(name: str) -> None:
    torch.manual_seed(0)
    method = make(name)
    model = sk.sparsify(network("linear"), method)
    held, ids = list(model.parameters()), {id(p) for p in model.parameters()}
    optimizer = sk.Sparsifier(model, OPTIMIZERS["momentum"](model.parameters()), method)
    for batch in batches("linear"):
        step(model, optimizer, batch)
        now = list(model.parameters())
        replaced = {id(p) for p in now} != ids
        if not replaced:
            expected = torch.cat([p.grad.flatten() for p in now if p.grad is not None]).norm()
            torch.testing.assert_close(nn.utils.clip_grad_norm_(held, 1e9), expected)
            continue
        for use in (nn.utils.clip_grad_norm_, nn.utils.parameters_to_vector, nn.utils.get_total_norm):
            with pytest.raises(RuntimeError, match=r"was replaced .* from model\.parameters\(\) anew"):
                use(held, *([1e9] if use is nn.utils.clip_grad_norm_ else []))
    assert replaced
    nn.utils.clip_grad_norm_(model.parameters(), 1e9)


def test_those_that_stay_are_ordinary_ones() -> None:
    torch.manual_seed(0)
    method = make("set")
    model: Any = sk.sparsify(network("linear"), method)
    held = list(model.parameters())
    optimizer = sk.Sparsifier(model, OPTIMIZERS["momentum"](model.parameters()), method)
    for batch in batches("linear"):
        step(model, optimizer, batch)
    assert [type(p) for p in held] == [nn.Parameter] * 6
    assert all(a is b for a, b in zip(held, model.parameters(), strict=True))
