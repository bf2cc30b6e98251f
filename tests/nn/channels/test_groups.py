"""channel_groups: which output channels are one, who reads them, and which have to stay."""

from typing import Any

import pytest
import torch
from support.channel_nets import EXAMPLE, MODELS, Functional, conv
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import prune

import sparsekern as sk
from sparsekern.nn import ChannelGroup, ZeroChannels, channel_groups, prunable_layers


def groups(model: nn.Module, *shape: int) -> dict[str, ChannelGroup]:
    """By the first layer and row of each."""
    found = channel_groups(model, torch.randn(*(shape or EXAMPLE)))
    return {f"{(layer := next(iter(g.layers)))} {int(g.layers[layer][0, 0])}": g for g in found}


def index(entries: dict[str, Tensor]) -> dict[str, list]:
    return {name: where.tolist() for name, where in entries.items()}


def column(*numbers: int) -> list[list[int]]:
    return [[number] for number in numbers]


@pytest.mark.parametrize("name", MODELS)
def test_every_row_of_every_layer_is_in_one_group(name: str) -> None:
    model = MODELS[name]()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    found = channel_groups(model, torch.randn(*EXAMPLE))
    for layer, module in prunable_layers(model).items():
        rows = torch.cat([g.layers[layer].flatten() for g in found if layer in g.layers])
        assert rows.sort().values.tolist() == list(range(module.weight.shape[0]))
    pinned = ["1", "3"] if name == "grouped" else []
    assert [list(g.layers) for g in found if g.pinned] == [
        [name] for name in [*pinned, list(prunable_layers(model))[-1]]
    ]
    assert model.training
    for key, value in model.state_dict().items():  # batch statistics too
        assert torch.equal(value, state[key])


def test_flattening_makes_of_a_channel_several_features() -> None:
    found = groups(nn.Sequential(conv(3, 4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 5)), 2, 3, 2, 2)
    assert index(found["0 0"].layers) == {"0": column(0, 1, 2, 3)}
    assert index(found["0 0"].consumers) == {"3": [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15]]}
    assert not found["0 0"].pinned
    assert found["3 0"].pinned
    assert not found["3 0"].consumers


def test_shortcut_without_parameters_ties_its_first_channels_only() -> None:
    found = groups(MODELS["resnet option A"]())
    first, second, third = found["conv1 0"], found["layer2.0.conv2 4"], found["layer3.0.conv2 6"]
    assert [first.size, second.size, third.size] == [4, 2, 2]
    inner = {"layer2.0.conv2", "layer2.1.conv2", "layer3.0.conv2"}
    assert set(first.layers) == {"conv1", "layer1.0.conv2", "layer1.1.conv2", *inner}
    assert set(second.layers) == inner
    assert set(third.layers) == {"layer3.0.conv2"}
    assert index(second.layers)["layer2.1.conv2"] == column(4, 5)
    assert set(second.consumers) == {"layer2.1.conv1", "layer3.0.conv1", "fc"}
    assert set(second.norms) == {"layer2.0.bn2", "layer2.1.bn2", "layer3.0.bn2"}


def test_shortcuts_with_projections_tie_a_stage() -> None:
    found = groups(MODELS["bottleneck"]())
    assert set(found["layer1.0.conv3 0"].layers) == {"layer1.0.conv3", "layer1.0.downsample.0", "layer1.1.conv3"}
    assert set(found["layer1.0.conv1 0"].layers) == {"layer1.0.conv1"}
    assert set(found["layer1.0.conv3 0"].consumers) == {
        "layer1.1.conv1",
        "layer2.0.conv1",
        "layer2.0.downsample.0",
    }


def test_depthwise_convolution_belongs_to_its_input() -> None:
    found = groups(MODELS["mobilenet"]())
    assert set(found["0 0"].layers) == {"0", "3"}
    assert set(found["0 0"].consumers) == {"6"}
    assert set(found["0 0"].norms) == {"1", "4"}
    assert index(found["12 0"].layers)["15"] == [[2 * i, 2 * i + 1] for i in range(10)]
    assert index(found["12 0"].consumers) == {"19": [[2 * i, 2 * i + 1] for i in range(10)]}


def test_concatenation_shifts_columns() -> None:
    found = groups(MODELS["concatenated"]())
    assert index(found["a 0"].consumers) == {"b": column(*range(3, 8)), "head": column(*range(3, 8))}
    assert index(found["a 0"].norms) == {"norm": column(*range(3, 8))}
    assert index(found["b 0"].consumers) == {"head": column(*range(8, 12))}
    assert not found["a 0"].pinned
    assert not found["b 0"].pinned


def test_factors_and_layers_used_twice_are_tied() -> None:
    assert set(groups(MODELS["squeezed"]())["a 0"].layers) == {"a", "up"}
    assert set(groups(MODELS["shared"]())["a 0"].layers) == {"a", "b"}


def test_a_batch_norm_used_twice_ties_what_it_scales() -> None:
    model = Functional(lambda self, x: self.c(torch.cat([self.norm(self.a(x)), self.norm(self.b(x))], 1)))
    for name, layer in {"a": conv(3, 4), "b": conv(3, 4), "c": conv(8, 2), "norm": nn.BatchNorm2d(4)}.items():
        model.add_module(name, layer)
    found = groups(model)["a 0"]
    assert set(found.layers) == {"a", "b"}
    assert index(found.consumers) == {"c": [[0, 4], [1, 5], [2, 6], [3, 7]]}


def padded(self: Any, x: Tensor) -> Tensor:
    return self.b(F.pad(self.a(x), (1, 1, 0, 0, 1, 2)))


def test_padding_in_code_pins_the_channels_that_it_adds() -> None:
    found = groups(Functional(padded, a=conv(3, 4), b=conv(7, 4)))
    assert index(found["a 0"].consumers) == {"b": column(1, 2, 3, 4)}
    assert not found["a 0"].pinned
    tied = Functional(lambda self, x: self.c(padded(self, x) + F.pad(self.a(x), (1, 1))), a=conv(3, 4), b=conv(7, 4))
    tied.c = conv(4, 2)
    assert {name: (g.size, g.pinned) for name, g in groups(tied).items()} == {"a 0": (4, False), "c 0": (2, True)}
    ones = Functional(
        lambda self, x: self.b(F.pad(self.a(x), (0, 0, 0, 0, 1, 2), value=1.0)), a=conv(3, 4), b=conv(7, 4)
    )
    assert groups(ones)["a 0"].pinned


def test_module_that_appends_zeros_pins_nothing() -> None:
    model = Functional(
        lambda self, x: self.c(self.zeros(self.a(x)) + self.b(x)),
        a=conv(3, 4),
        zeros=ZeroChannels(2),
        b=conv(3, 6),
        c=conv(6, 2),
    )
    found = groups(model)
    assert {name: (g.size, g.pinned) for name, g in found.items()} == {
        "a 0": (4, False),
        "b 4": (2, False),
        "c 0": (2, True),
    }


OPERATIONS = {
    "softmax": lambda self, x: F.softmax(x, 1),
    "layer norm": lambda self, x: F.layer_norm(x, x.shape[1:]),
    "sum over channels": lambda self, x: x.sum(1, keepdim=True).expand(-1, 6, -1, -1),
    "mean over channels": lambda self, x: x.mean(1, keepdim=True) * torch.ones(1, 6, 1, 1),
    "half of the channels": lambda self, x: torch.cat([x[:, :3], x[:, 3:]], 1),
    "every channel by a list": lambda self, x: x[:, [1, 0, 2, 3, 4, 5]],
    "chunks": lambda self, x: torch.cat(x.chunk(2, 1)[::-1], 1),
    "split of a dimension": lambda self, x: x.view(x.size(0), 2, 3, 6, 6).transpose(1, 2).reshape(x.size(0), 6, 6, 6),
    "size in the code": lambda self, x: x.reshape(-1, 6, 6, 6),
    "number of channels": lambda self, x: x * x.size(1),
    "a tensor of one number for each channel": lambda self, x: x * torch.arange(6.0).view(6, 1, 1),
    "pooling over channels": lambda self, x: F.max_pool2d(x.permute(0, 2, 1, 3), 1).permute(0, 2, 1, 3),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_what_is_not_understood_pins(name: str) -> None:
    model = Functional(
        lambda self, x: self.b(self.operation(F.relu(self.a(x)))),
        a=conv(3, 6),
        operation=Functional(OPERATIONS[name]),
        b=conv(6, 4),
    )
    assert groups(model)["a 0"].pinned
    model.operation = nn.Identity()
    assert not groups(model)["a 0"].pinned


def test_grouped_convolutions_and_foreign_layers_pin() -> None:
    model = nn.Sequential(conv(3, 6), conv(6, 6, groups=2), nn.GroupNorm(2, 6), conv(6, 6), nn.Conv2d(6, 2, 1))
    assert {name: g.pinned for name, g in groups(model).items()} == {
        "0 0": True,
        "1 0": True,
        "3 0": False,
        "4 0": True,
    }


def test_layers_that_are_read_otherwise_are_pinned() -> None:
    def penalised(self: Any, x: Tensor) -> Tensor:
        return self.b(self.a(x)) * self.a.weight.abs().sum()

    assert groups(Functional(penalised, a=conv(3, 6), b=conv(6, 2)))["a 0"].pinned
    tied = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 2))
    tied[1].weight = tied[0].weight
    assert {name: g.pinned for name, g in groups(tied, 2, 6).items()} == {
        "0 0": True,
        "1 0": True,
        "2 0": False,
        "3 0": True,
    }
    normed = nn.Sequential(nn.utils.parametrizations.weight_norm(conv(3, 6)), conv(6, 4), conv(4, 2))
    assert {name: g.pinned for name, g in groups(normed).items()} == {"1 0": False, "2 0": True}
    masked = nn.Sequential(prune.identity(conv(3, 6), "weight"), conv(6, 2))
    assert groups(masked)["0 0"].pinned
    unused = Functional(lambda self, x: self.a(x), a=conv(3, 6), b=conv(6, 2))
    assert groups(unused)["b 0"].pinned


def test_linear_layers_over_another_dimension_than_the_channels() -> None:
    model = nn.Sequential(conv(3, 4), nn.Linear(6, 5), nn.Linear(5, 2))  # of the width
    assert {name: g.pinned for name, g in groups(model).items()} == {"0 0": True, "1 0": False, "2 0": True}


def test_sparse_and_masked_layers() -> None:
    model = nn.Sequential(
        sk.SparseConv2d(3, 6, 3, padding=1, sparsity=0.5),
        nn.ReLU(),
        sk.MaskedConv2d(6, 8, 3, sparsity=0.5),
        nn.Flatten(),
        sk.SparseLinear(128, 4, sparsity=0.5),
    )
    found = groups(model)
    assert [(name, g.size, g.pinned) for name, g in found.items()] == [
        ("0 0", 6, False),
        ("2 0", 8, False),
        ("4 0", 4, True),
    ]
    (alone,) = channel_groups(sk.SparseLinear(6, 4, sparsity=0.5), torch.randn(2, 6))
    assert alone.pinned
    assert index(alone.layers) == {"": column(0, 1, 2, 3)}


def test_several_inputs() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.head = nn.Linear(5, 4), nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return self.head(self.a(x) * self.b(y))

    found = channel_groups(Two(), (torch.randn(2, 5), torch.randn(2, 3)))
    assert [list(group.layers) for group in found] == [["a", "b"], ["head"]]


def test_errors() -> None:
    model = MODELS["perceptron"]()
    with pytest.raises(ValueError, match="example must be a tensor or the tuple"):
        channel_groups(model, [1, 2])
    with pytest.raises(ValueError, match="cannot be called with this example"):
        channel_groups(model, torch.randn(2, 7))
    branching = Functional(lambda self, x: self.a(x) if x.sum() > 0 else x, a=nn.Linear(3, 3))
    with pytest.raises(ValueError, match="fx cannot trace Functional"):
        channel_groups(branching, torch.randn(2, 3))
