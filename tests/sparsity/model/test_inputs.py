"""Models that are called with keywords or several arguments and return more than a tensor, as those of transformers."""

import copy
from collections import OrderedDict, UserDict
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import sparsekern as sk
from sparsekern.nn import PatternLayer
from sparsekern.sparsity.model.inputs import arguments, divided, total
from sparsekern.sparsity.scoring.linearised import flows, linearised

SCORERS = ("snip", "iter_snip", "grasp", "grasp_abs", "synflow", "prospr", "three_sp", "random_channel")


@dataclass
class Output(OrderedDict):
    """As transformers' `ModelOutput`."""

    logits: Any = None

    def __post_init__(self) -> None:
        super().__setitem__("logits", self.logits)

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value)
        setattr(self, key, value)


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = nn.Linear(10, 16), nn.Linear(16, 12), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Any:
        return self.three(torch.tanh(self.two(torch.relu(self.one(x)))))


class Keywords(Plain):
    def forward(self, values: Tensor, scale: Tensor | None = None, shift: Tensor | None = None) -> Any:
        x = values if scale is None else values * scale
        return Output(logits=super().forward(x if shift is None else x + shift))


class Tokens(nn.Module):
    """Embeddings, an attention mask, a loss inside."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.body, self.head = nn.Embedding(9, 6), nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, ids: Tensor, mask: Tensor | None = None, labels: Tensor | None = None) -> dict[str, Any]:
        x = torch.relu(self.body(self.embed(ids)))
        mask = torch.ones_like(ids) if mask is None else mask
        logits = self.head((x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True))
        own = {} if labels is None else {"loss": cross_entropy(logits, labels)}
        return {**own, "logits": logits, "cache": object()}


def masks(model: nn.Module) -> dict[str, Tensor]:
    return {n: m.topology.mask() for n, m in model.named_modules() if isinstance(m, PatternLayer)}


def plain_and_keywords() -> tuple[Plain, Keywords]:
    plain, model = Plain(), Keywords()
    model.load_state_dict(plain.state_dict())
    return plain, model


@pytest.mark.filterwarnings("ignore:layer collapse")
@pytest.mark.parametrize("form", ["keywords", "user dict", "positions"])
@pytest.mark.parametrize("name", SCORERS)
def test_scorers_call_the_model_as_its_batches_say(name: str, form: str) -> None:
    plain, model = plain_and_keywords()
    data = [(torch.randn(6, 10), torch.randint(4, (6,))) for _ in range(4)]
    one, zero = torch.ones(10), torch.zeros(6, 10)
    forms: dict[str, Any] = {
        "keywords": lambda x: {"values": x, "shift": zero},
        "user dict": lambda x: UserDict(values=x, scale=one, shift=None),
        "positions": lambda x: (x, one, zero),
    }
    if name == "synflow":  # to which every floating-point input is 1
        forms = {
            "keywords": lambda x: {"values": x},
            "user dict": lambda x: UserDict(values=x),
            "positions": lambda x: (x,),
        }
    method = sk.methods.get(name)(sparsity=0.5, **({"rounds": 3} if name in ("iter_snip", "synflow") else {}))
    seeds = [torch.Generator().manual_seed(1) for _ in range(2)]
    sk.sparsify(plain, method, batches=data, loss=cross_entropy, generator=seeds[0])
    other = [(forms[form](x), y) for x, y in data]
    sk.sparsify(model, method, batches=other, loss=lambda o, y: cross_entropy(o.logits, y), generator=seeds[1])
    expected, found = masks(plain), masks(model)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[layer], mask) for layer, mask in found.items())


@pytest.mark.parametrize("batches", [1, 2])
@pytest.mark.parametrize("name", ["gse_synflow", "gse_grabo"])
def test_growth_calls_the_model_as_its_batches_say(name: str, batches: int) -> None:
    method = sk.methods.get(name)(sparsity=0.7, total_steps=20, every=1, batches=batches)
    plain, _ = plain_and_keywords()
    sk.sparsify(plain, method)
    model = Keywords()
    for layer, own in plain.named_children():
        setattr(model, layer, copy.deepcopy(own))
    data = [(torch.randn(6, 10), torch.randint(4, (6,))) for _ in range(4)]

    def trained(model: nn.Module, form: Any, loss: Any) -> dict[str, Tensor]:
        own: dict[str, Any] = {"batches": [(form(x), y) for x, y in data], "loss": loss} if batches > 1 else {}
        inner = torch.optim.SGD(model.parameters(), lr=0.1)
        optimizer = sk.Sparsifier(model, inner, method, **own, generator=torch.Generator().manual_seed(0))
        changes = 0
        for x, y in data:
            optimizer.zero_grad()
            x = form(x)
            loss(model(**x) if isinstance(x, dict) else model(x), y).backward()
            optimizer.step()
            changes += optimizer.rewired
        assert changes > 1
        return masks(model)

    expected = trained(plain, lambda x: x, cross_entropy)
    found = trained(model, lambda x: {"values": x}, lambda output, y: cross_entropy(output.logits, y))
    assert all(torch.equal(expected[layer], mask) for layer, mask in found.items())


def test_the_flow_of_tokens_meets_every_entry_of_an_embedding() -> None:
    model = Tokens()
    sk.sparsify(model, 0.4)
    ids = torch.randint(9, (5, 7))
    embed = model.embed.weight.detach().double().abs().sum(0)
    body, head = (layer.weight.detach().double().abs() for layer in (model.body, model.head))
    hidden = body @ embed
    calls: list[Any] = [ids, {"ids": ids, "mask": torch.ones(5, 7, dtype=torch.int64)}]
    calls.append({"ids": ids, "labels": torch.randint(3, (5,))})  # whose loss is no output
    for x in calls:
        (rows, cols), (last_rows, last_cols) = flows(model, [model.body, model.head], arguments(x))
        torch.testing.assert_close(cols, embed / embed.sum())
        torch.testing.assert_close(rows, head.sum(0) / head.sum())
        torch.testing.assert_close(last_cols, hidden / hidden.sum())
        torch.testing.assert_close(last_rows, torch.full((3,), 1 / 3, dtype=torch.double))
    torch.testing.assert_close(linearised(model)(ids)["logits"], (head @ hidden).expand(5, 3))


@pytest.mark.parametrize("name", ["gse_synflow", "synflow", "grasp", "snip"])
def test_models_of_tokens(name: str) -> None:
    x = {"ids": torch.randint(9, (5, 7)), "mask": torch.ones(5, 7, dtype=torch.int64)}
    x["labels"] = torch.randint(3, (5,))
    options = {"total_steps": 20, "every": 1} if name == "gse_synflow" else {}
    method = sk.methods.get(name)(sparsity=0.6, **options)
    model = sk.sparsify(Tokens(), method, batches=[(x, None)] * 2, loss=lambda output, _: output["loss"])
    optimizer = sk.Sparsifier(model, torch.optim.SGD(model.parameters(), lr=0.1), method)
    for _ in range(3):
        optimizer.zero_grad()
        model(**x)["loss"].backward()
        optimizer.step()
    assert sum(int(mask.sum()) for mask in masks(model).values()) == round(0.4 * 72)
    assert optimizer.rewired == (name == "gse_synflow")


def test_what_is_watched_holds_nothing() -> None:
    """Of floating-point inputs neither the values nor the batch."""
    method = sk.methods.gse_synflow(sparsity=0.5, total_steps=10, every=1)
    model = sk.sparsify(Tokens(), method)
    optimizer = sk.Sparsifier(model, torch.optim.SGD(model.parameters(), lr=0.1), method)
    optimizer.step()
    mask = torch.rand(50, 7)
    model(torch.arange(350).reshape(50, 7) % 9, mask=mask)["logits"].sum().backward()
    seen = optimizer.engine.gradients.inputs()
    assert [x.untyped_storage().nbytes() for x in seen.tensors()] == [7 * 8, 7 * 4]
    assert torch.equal(seen.positional[0], torch.arange(7)[None])


def test_outputs() -> None:
    logits = torch.ones(2, 3)
    output = Output(logits=logits)
    halved = divided(output, 2.0)
    assert type(halved) is Output
    assert halved.logits is halved["logits"]
    assert float(halved.logits.sum()) == 3
    assert output.logits is logits
    nested = (torch.tensor(5.0), {"a": [logits], "ids": torch.ones(2, dtype=torch.int64)}, None, object())
    assert float(total(nested)) == 6
    assert float(total(torch.tensor(5.0))) == 5
    assert divided(nested, 2.0)[1]["ids"] is nested[1]["ids"]
    with pytest.raises(ValueError, match="returns no floating-point tensor, but dict"):
        total({"ids": torch.ones(2, dtype=torch.int64)})
