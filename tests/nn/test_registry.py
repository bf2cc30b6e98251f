"""`register_layer`: classes of the user's own, and subclasses of those that are known."""

import copy
import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sparsekern as sk
from sparsekern.nn import prunable_layers
from sparsekern.nn.conversion import registry
from sparsekern.nn.linear import LinearProduct
from sparsekern.nn.masked import MaskedLayer
from sparsekern.nn.sparse import SparseLayer


class Named(nn.Linear):
    """A subclass with a constructor and attributes of its own, and the forward of its parent."""

    def __init__(self, width: int, *, label: str) -> None:
        super().__init__(width, width)
        self.label = label

    def extra_repr(self) -> str:
        return f"{self.label}: {super().extra_repr()}"

    def describe(self) -> str:
        return self.label


class Doubled(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


class Quiet(nn.Conv2d):
    """Overrides less than forward, which matters all the same."""

    def _conv_forward(self, *arguments: Any) -> Tensor:
        return super()._conv_forward(*arguments) / 2


@pytest.fixture(autouse=True)
def as_it_was():
    tables: list[Any] = [registry.SPARSE, registry.MASKED, registry.SPLITTERS, registry.OPT_IN]
    before = [copy.copy(table) for table in tables]
    yield
    for table, old in zip(tables, before, strict=True):
        table.clear()
        table.update(old)
    registry.registered.cache_clear()


@pytest.mark.parametrize(
    "method",
    [
        sk.methods.set(sparsity=0.5, total_steps=9, every=3),
        sk.methods.dpf(sparsity=0.5, total_steps=9, steps_per_epoch=3, every=1),
    ],
    ids=["nonzeros", "master"],
)
def test_a_subclass_with_the_forward_of_its_parent_is_converted_and_comes_back(method: sk.Method) -> None:
    model: Any = nn.Sequential(Named(6, label="first"), nn.ReLU(), nn.Linear(6, 2))
    x = torch.randn(4, 6)
    sk.sparsify(model, method, include="*")
    assert isinstance(model[0], sk.SparseLinear | sk.MaskedLinear)
    assert model[0].label == "first"
    model = copy.deepcopy(model)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    model = torch.load(file, weights_only=False)
    expected = model(x)
    sk.densify(model)
    assert type(model[0]) is Named
    assert model[0].describe() == "first"
    assert "dense_class" not in vars(model[0])
    torch.testing.assert_close(model(x), expected)


def test_subclasses_that_do_something_else_stay_dense() -> None:
    model: Any = nn.Sequential(nn.Conv2d(2, 4, 1), Quiet(4, 4, 1), nn.Flatten(), nn.Linear(4, 4), Doubled(4, 4))
    with pytest.warns(UserWarning, match="a subclass that overrides"):
        sk.sparsify(model, 0.5)
    assert [type(layer) for layer in model[1::3]] == [Quiet, Doubled]
    assert list(prunable_layers(model)) == ["0", "3"]


class Fused(nn.Module):
    """Two linear layers in one weight."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        a, b = nn.functional.linear(x, self.weight).chunk(2, -1)
        return a * b


class Parted(nn.Module):
    def __init__(self, fused: Fused) -> None:
        super().__init__()
        for name, part in zip("ab", fused.weight.detach().chunk(2), strict=True):
            self.add_module(name, nn.Linear(part.shape[1], len(part), bias=False))
            self.get_submodule(name).weight = nn.Parameter(part.clone())

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) * self.b(x)

    def whole(self) -> Fused:
        fused = Fused(self.a.in_features)
        fused.weight = nn.Parameter(torch.cat([self.a.weight, self.b.weight]).detach())
        return fused


def test_a_function_takes_a_layer_apart() -> None:
    sk.register_layer(Fused, Parted)
    model: Any = nn.ModuleDict({"gate": Fused(6)})
    model["gate"].register_forward_hook(lambda module, x, output: output + 1)
    x = torch.randn(3, 6)
    expected = model["gate"](x)
    sk.sparsify(model, masks={"gate.b": torch.ones(6, 6, dtype=torch.bool).tril()})
    assert isinstance(model["gate"].b, sk.SparseLinear)
    assert isinstance(model["gate"].a, nn.Linear)
    sparse = model["gate"](x)
    assert not torch.allclose(sparse, expected)
    sk.densify(model)
    assert type(model["gate"]) is Fused
    torch.testing.assert_close(model["gate"](x), sparse)


class Scaled(nn.Module):
    """A linear layer of its own class, twice what the weight says."""

    def __init__(self, width: int, height: int, bias: bool = True, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        self.width, self.height = width, height
        self.weight = nn.Parameter(torch.randn(height, width, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros(height, device=device, dtype=dtype)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return 2 * nn.functional.linear(x, self.weight, self.bias)


class ScaledProduct(LinearProduct):
    DENSE, SETTINGS = Scaled, ("width", "height")

    def __init__(self, width: int, height: int, bias: bool = True, *arguments: Any, **options: Any) -> None:
        super().__init__(width, height, bias, *arguments, **options)
        self.width, self.height = width, height

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class SparseScaled(ScaledProduct, SparseLayer):
    pass


class MaskedScaled(ScaledProduct, MaskedLayer):
    SPARSE = SparseScaled


def test_a_pair_of_classes() -> None:
    sk.register_layer(Scaled, (SparseScaled, MaskedScaled))
    model = nn.Sequential(Scaled(6, 8), nn.Linear(8, 2))
    dense, x = copy.deepcopy(model), torch.randn(3, 6)
    masks = {name: torch.rand_like(layer.weight) < 0.5 for name, layer in dense.named_children()}
    for name, layer in dense.named_children():
        layer.weight.data.mul_(masks[name])
    sk.sparsify(model, masks=masks)
    assert type(model[0]) is SparseScaled
    torch.testing.assert_close(model(x), dense(x))
    assert type(sk.densify(model)[0]) is Scaled
    torch.testing.assert_close(model(x), dense(x))


def test_what_is_registered_is_checked() -> None:
    with pytest.raises(ValueError, match="must have DENSE = Fused"):
        sk.register_layer(Fused, (SparseScaled, MaskedScaled))
    with pytest.raises(ValueError, match="expected a SparseLayer and a MaskedLayer"):
        sk.register_layer(Scaled, (MaskedScaled, SparseScaled))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="a pair of classes or a function"):
        sk.register_layer(Scaled, 3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected a class of modules"):
        sk.register_layer(Scaled(2, 2), Parted)  # type: ignore[arg-type]
