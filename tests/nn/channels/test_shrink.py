"""shrink: the network without its dead channels computes the same."""

import copy
from typing import Any

import pytest
import torch
from support.channel_nets import EXAMPLE, MODELS, Functional, conv, randomised, shapes, shrunk, size, zero
from torch import Tensor, nn
from torch.nn import functional as F

import sparsekern as sk
from sparsekern.nn import ZeroChannels, channel_groups, prunable_layers
from sparsekern.nn.conversion.convert import SPARSE
from sparsekern.nn.conversion.exchange import exchange


def dead_rows(model: nn.Module, share: float = 0.5) -> dict[str, Tensor]:
    """For each layer which rows are to be zero: half of the channels that can go, and some rows besides."""
    dead = {
        name: torch.zeros(module.weight.shape[0], dtype=torch.bool) for name, module in prunable_layers(model).items()
    }
    for group in channel_groups(model, torch.randn(*EXAMPLE, dtype=torch.float64)):
        chosen = torch.rand(group.size) < (0.0 if group.pinned else share)
        for name, rows in group.layers.items():
            dead[name][rows[chosen].flatten()] = True
    for rows in list(dead.values())[:-1]:
        rows |= torch.rand(len(rows)) < 0.1
    return dead


def kill(model: nn.Module, dead: dict[str, Tensor], everything: bool = False) -> nn.Module:
    """Zero rows; `everything`: with their biases and batch norms."""
    with torch.no_grad():
        for name, rows in dead.items():
            layer: Any = model.get_submodule(name)
            layer.weight[rows] = 0
            if everything and layer.bias is not None:
                layer.bias[rows] = 0
        if everything:
            for group in channel_groups(model, torch.randn(*EXAMPLE, dtype=torch.float64)):
                for name, entries in group.norms.items():
                    norm: Any = model.get_submodule(name)
                    gone = torch.stack([dead[layer][rows].all(1) for layer, rows in group.layers.items()]).all(0)
                    norm.weight[entries[gone]] = 0
                    norm.bias[entries[gone]] = 0
    return model


def with_patterns(model: nn.Module, dead: dict[str, Tensor], masked: bool) -> nn.Module:
    """Sparse or masked layers, of which the dead rows are off."""
    for name, rows in dead.items():
        dense: Any = model.get_submodule(name)
        mask = torch.rand(dense.weight.shape) < 0.7
        mask[rows] = False
        kind: Any = (
            {nn.Linear: sk.MaskedLinear, nn.Conv2d: sk.MaskedConv2d}[type(dense)] if masked else SPARSE[type(dense)]
        )
        exchange(model, {name: kind.from_dense(dense, mask)})
    return model


@pytest.mark.parametrize("form", ["rows", "rows, biases and norms", "sparse", "masked"])
@pytest.mark.parametrize("name", MODELS)
def test_computes_the_same_with_fewer_parameters(name: str, form: str) -> None:
    model = randomised(MODELS[name]())
    dead = dead_rows(model)
    dense = kill(copy.deepcopy(model), dead, everything="norms" in form)
    if form in ("sparse", "masked"):
        model = with_patterns(model, dead, form == "masked")
        dense = sk.densify(copy.deepcopy(model))
    else:
        model = dense
    small = shrunk(model)
    assert size(small) < size(dense)
    assert small.state_dict().keys() == dense.state_dict().keys()
    loss = small(torch.randn(*EXAMPLE, dtype=torch.float64)).sum()
    loss.backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in small.parameters())


def test_dead_units_of_a_perceptron() -> None:
    model = randomised(nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3), nn.Sigmoid(), nn.Linear(3, 2)), 8, 5)
    zero(model[0], 1, bias=-1.0)  # zero behind the ReLU
    zero(model[0], 2, bias=2.0)  # two, which the next layer's bias takes over
    zero(model[2], 0)  # the sigmoid of its bias
    small = shrunk(model, 2, 5)
    assert shapes(small) == {
        "0.weight": (2, 5),
        "0.bias": (2,),
        "2.weight": (2, 2),
        "2.bias": (2,),
        "4.weight": (2, 2),
        "4.bias": (2,),
    }
    assert torch.equal(small[0].weight, model[0].weight[[0, 3]])
    assert torch.equal(small[2].weight, model[2].weight[1:, [0, 3]])
    torch.testing.assert_close(small[2].bias, (model[2].bias + 2 * model[2].weight[:, 2])[1:])
    torch.testing.assert_close(small[4].bias, model[4].bias + model[2].bias[0].sigmoid() * model[4].weight[:, 0])


def test_without_a_bias_one_constant_unit_takes_over_the_others() -> None:
    model = randomised(nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2, bias=False)), 8, 5)
    zero(model[0], 1, bias=1.0)
    zero(model[0], 2, bias=3.0)
    zero(model[0], 3, bias=-1.0)
    small = shrunk(model, 2, 5)
    assert torch.equal(small[0].bias, model[0].bias[[0, 2]])  # the largest constant stays
    torch.testing.assert_close(small[2].weight[:, 1], model[2].weight[:, 2] + model[2].weight[:, 1] / 3)


def test_channels_that_nobody_reads_go_with_all_that_led_to_them() -> None:
    model = randomised(nn.Sequential(conv(3, 4), nn.Tanh(), conv(4, 5), nn.BatchNorm2d(5), conv(5, 3)))
    with torch.no_grad():
        model[4].weight[:, 2] = 0
        model[2].weight[[0, 1, 3, 4], 1] = 0  # only channel 2 reads channel 1
    small = shrunk(model)
    assert shapes(small)["0.weight"] == (3, 3, 3, 3)
    assert shapes(small)["2.weight"] == (4, 3, 3, 3)
    assert shapes(small)["4.weight"] == (3, 4, 3, 3)


def test_a_constant_that_nobody_reads_has_no_heir() -> None:
    model = randomised(nn.Sequential(conv(3, 4), nn.ReLU(), conv(4, 2)))
    zero(model[0], 1, bias=1.0)
    with torch.no_grad():
        model[2].weight[:, 1] = 0
    assert shapes(shrunk(model))["0.weight"] == (3, 3, 3, 3)


def test_batch_norm_without_scale_kills_a_channel() -> None:
    model = randomised(nn.Sequential(conv(3, 4), nn.BatchNorm2d(4), nn.ReLU(), conv(4, 2)))
    with torch.no_grad():
        model[1].weight[[1, 2]] = 0
        model[1].bias[[1, 2]] = -1.0
    small = shrunk(model)
    assert shapes(small)["0.weight"] == (2, 3, 3, 3)
    x = torch.randn(5, *EXAMPLE[1:], dtype=torch.float64)
    torch.testing.assert_close(small.train()(x), model.train()(x))


def test_a_residual_channel_goes_when_every_layer_that_writes_it_is_dead() -> None:
    model = randomised(MODELS["resnet projections"]())
    for name in ("layer1.0.conv2", "layer1.1.conv2"):
        zero(model.get_submodule(name), 0, 1)
    same = shrunk(model)
    assert shapes(same) == shapes(model)  # conv1 still writes both
    zero(model.conv1, 1)
    model.get_submodule("bn1").bias.data[1] = -9.0
    for name in ("layer1.0.bn2", "layer1.1.bn2"):
        norm: Any = model.get_submodule(name)
        norm.bias.data[1], norm.running_mean[1] = -1.0, 0.0
    small = shrunk(model)
    assert shapes(small)["conv1.weight"] == (3, 3, 3, 3)
    assert shapes(small)["layer1.1.conv2.weight"] == (3, 4, 3, 3)
    assert shapes(small)["layer1.1.conv1.weight"] == (4, 3, 3, 3)
    assert shapes(small)["layer2.0.downsample.0.weight"] == (6, 3, 1, 1)
    removed = 27 + 2 + 2 * (4 * 9 + 4 * 9 + 2) + 6 * 9 + 6  # filter, norm; two blocks; the readers in layer2
    assert size(model) - size(small) == removed


def test_shortcut_without_parameters_appends_fewer_zeros() -> None:
    model = randomised(MODELS["resnet option A"]())
    for name, module in model.named_modules():
        if name.startswith("layer2") and name.endswith("conv2"):
            zero(module, 4)
        if name.startswith("layer3") and name.endswith("conv2"):
            zero(module, 4, 7)
        if name.startswith(("layer2", "layer3")) and name.endswith("bn2"):
            module.bias.data[-4:] = 0.0  # of these channels, those that are dead become zero
            module.running_mean[-4:] = 0.0
    small = shrunk(model)
    assert [m.more for m in model.modules() if isinstance(m, ZeroChannels)] == [2, 2]
    assert [m.more for m in small.modules() if isinstance(m, ZeroChannels)] == [1, 1]
    assert shapes(small)["layer2.1.conv2.weight"] == (5, 6, 3, 3)
    assert shapes(small)["layer3.0.conv2.weight"] == (6, 8, 3, 3)
    assert shapes(small)["fc.weight"] == (4, 6)


def test_depthwise_convolution_goes_with_its_input() -> None:
    model = randomised(nn.Sequential(conv(3, 4), nn.ReLU(), conv(4, 8, groups=4), nn.ReLU(), conv(8, 2)))
    zero(model[0], 1, bias=-1.0)
    zero(model[2], 2, 3, bias=0.0)
    zero(model[2], 4, bias=0.0)  # its twin, channel 5, lives
    small = shrunk(model)
    assert shapes(small)["0.weight"] == (3, 3, 3, 3)
    assert shapes(small)["2.weight"] == (6, 1, 3, 3)
    assert shapes(small)["4.weight"] == (2, 6, 3, 3)
    assert (small[2].groups, small[2].in_channels, small[2].out_channels) == (3, 3, 6)


def test_a_factor_of_zero_is_zero() -> None:
    model = randomised(MODELS["squeezed"]())
    zero(model.a, 1, 4, bias=-1.0)
    small = shrunk(model)
    assert [small.a.out_channels, small.down.in_features, small.up.out_features] == [4, 4, 4]
    assert small.head.in_features == 144


@pytest.mark.parametrize("name", MODELS)
def test_nothing_to_remove(name: str) -> None:
    model = randomised(MODELS[name]())
    assert shapes(shrunk(model)) == shapes(model)


def test_keeps_dtype_mode_and_what_is_frozen() -> None:
    model = randomised(nn.Sequential(conv(3, 4), nn.BatchNorm2d(4), nn.ReLU(), conv(4, 2))).float()
    zero(model[0], 1)
    model[0].weight.requires_grad_(False)
    model[1].eval()
    model(torch.randn(*EXAMPLE)).sum().backward()
    small = sk.shrink(model, torch.randn(*EXAMPLE))
    assert small[0].weight.shape[0] < 4
    assert [p.requires_grad for p in small.parameters()] == [p.requires_grad for p in model.parameters()]
    assert all(p.dtype == torch.float32 and p.grad is None for p in small.parameters())
    assert (
        [m.training for m in small.modules()]
        == [m.training for m in model.modules()]
        == [True, True, False, True, True]
    )
    copied = copy.deepcopy(small)
    copied.load_state_dict(small.state_dict())


def test_numbers_of_channels_in_code_are_an_error() -> None:
    def scaled(self: Any, x: Tensor) -> Tensor:
        return self.b(F.relu(self.a(x)) * self.a.out_channels)

    def checked(self: Any, x: Tensor) -> Tensor:
        x = F.relu(self.a(x))
        torch._assert(x.size(1) == 4, "expected four channels")
        return self.b(x)

    for forward, message in ((scaled, "the model's output is another"), (checked, "expected four channels")):
        model = randomised(Functional(forward, a=conv(3, 4), b=conv(4, 2)))
        zero(model.a, 1, bias=-1.0)
        with pytest.raises(ValueError, match=f"number of channels of a layer.*{message}"):
            sk.shrink(model, torch.randn(*EXAMPLE, dtype=torch.float64))


def test_layers_called_in_training_only_are_an_error() -> None:
    def with_head(self: Any, x: Tensor) -> Any:
        x = F.relu(self.a(x))
        return (self.b(x), self.aux(x)) if self.training else self.b(x)

    model = randomised(Functional(with_head, a=conv(3, 4), b=conv(4, 2), aux=conv(4, 2)))
    zero(model.a, 1, bias=-1.0)
    example = torch.randn(*EXAMPLE, dtype=torch.float64)
    with pytest.raises(ValueError, match="aux would keep reading what is removed"):
        sk.shrink(model, example)
    model.function = lambda self, x: self.b(F.relu(self.a(x)))  # never called
    assert sk.shrink(model, example).a.out_channels == 3


def test_errors() -> None:
    model = MODELS["vgg"]()
    with pytest.raises(ValueError, match="cannot be called with this example"):
        sk.shrink(model, torch.randn(2, 4, 6, 6))
