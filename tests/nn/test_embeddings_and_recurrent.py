"""Embeddings and recurrent layers become sparse where they are named, by expanded weights."""

import copy
import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sparsekern as sk
from sparsekern.nn import PatternLayer, prunable_layers
from sparsekern.nn.conversion.registry import MASKED, SPARSE
from sparsekern.nn.recurrent import Matrix, SplitRecurrent
from sparsekern.topology import nnz_at

RECURRENT: dict[str, Any] = {
    "lstm": lambda: nn.LSTM(5, 4, 2, batch_first=True, bidirectional=True),
    "lstm, projected": lambda: nn.LSTM(5, 4, proj_size=3),
    "gru": lambda: nn.GRU(5, 4, bias=False),
    "rnn": lambda: nn.RNN(5, 4, nonlinearity="relu"),
}


class Tagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(20, 6, padding_idx=0)
        self.rnn = nn.LSTM(6, 8, batch_first=True, dropout=0.0)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(self.words(x))[0])


def test_they_are_taken_only_where_they_are_named() -> None:
    assert list(prunable_layers(sk.sparsify(Tagger(), 0.5))) == ["head"]
    assert list(prunable_layers(sk.sparsify(Tagger(), 0.5, include="*"))) == ["head"]
    parts = ["rnn.weight_ih_l0", "rnn.weight_hh_l0"]
    for include in ("rnn", ["rnn"], nn.LSTM, [nn.LSTM]):
        model = sk.sparsify(Tagger(), 0.5, include=include)
        assert list(prunable_layers(model)) == [*parts, "head"]
        assert type(sk.densify(model).rnn) is nn.LSTM
    assert list(prunable_layers(sk.sparsify(Tagger(), 0.5, include=[nn.Embedding, "rnn"]))) == ["words", *parts, "head"]
    mask = torch.rand(32, 8) < 0.5
    model = sk.sparsify(Tagger(), masks={"rnn.weight_hh_l0": mask})
    assert torch.equal(model.rnn.weight_hh_l0.topology.mask(), mask)
    assert type(model.rnn.weight_ih_l0) is Matrix
    with pytest.raises(ValueError, match="the model has no GRU"):
        sk.sparsify(Tagger(), 0.5, include=nn.GRU)


PARTS = ["rnn.weight_ih_l0", "rnn.weight_hh_l0"]


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ({"words": 0.5}, {"words": 0.5}),
        ({nn.Embedding: 0.5}, {"words": 0.5}),
        ({"rnn": 0.5}, dict.fromkeys(PARTS, 0.5)),
        ({nn.LSTM: 0.5, "words": 0.75}, {**dict.fromkeys(PARTS, 0.5), "words": 0.75}),
        ({"rnn.weight_hh_l0": 0.5, "rnn": None}, {"rnn.weight_hh_l0": 0.5}),
        ({"rnn.*": 0.5}, dict.fromkeys(PARTS, 0.5)),
        ({"*": 0.5}, {"head": 0.5}),
        ({"*": 0.5, nn.Embedding: None, "rnn": None}, {"head": 0.5}),
        ({nn.LSTM: None}, {}),
    ],
    ids=str,
)
def test_overrides_name_them(overrides: dict, expected: dict) -> None:
    model: Any = sk.sparsify(Tagger(), 0.9, overrides=overrides)
    found = {name: layer.topology for name, layer in model.named_modules() if isinstance(layer, PatternLayer)}
    assert found.keys() == {"head": 0.9, **expected}.keys()
    for sparsity in {0.9, *expected.values()}:
        own = [found[name] for name in found if expected.get(name, 0.9) == sparsity]
        size = sum(pattern.rows * pattern.cols for pattern in own)
        assert sum(pattern.nnz for pattern in own) == nnz_at(sparsity, size)
    assert type(model.rnn) is (SplitRecurrent if any("rnn" in name for name in expected) else nn.LSTM)
    assert type(sk.densify(model).rnn) is nn.LSTM


def test_a_method_of_their_own() -> None:
    method, body = sk.methods.set(0.5, 20, every=2), sk.methods.gmp(0.8, 20, 5, every=4)
    model = sk.sparsify(Tagger(), body, overrides={nn.LSTM: method})
    optimizer: Any = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    optimizer = sk.Sparsifier(model, sk.Sparsifier(model, optimizer, method, layers=[nn.LSTM]), body)
    for _ in range(20):
        optimizer.zero_grad()
        model(torch.randint(20, (4, 7))).square().mean().backward()
        optimizer.step()
    assert [(row["name"], row["nnz"]) for row in optimizer.report().rows] == [
        ("head", nnz_at(0.8, 24)),
        ("rnn.weight_ih_l0", pytest.approx(nnz_at(0.5, 32 * 14) * 6 / 14, abs=40)),
        ("rnn.weight_hh_l0", pytest.approx(nnz_at(0.5, 32 * 14) * 8 / 14, abs=40)),
    ]


@pytest.mark.parametrize("kinds", [SPARSE, MASKED], ids=["nonzeros", "mask"])
@pytest.mark.parametrize("options", [{}, {"padding_idx": 2}, {"scale_grad_by_freq": True}], ids=str)
def test_embeddings(kinds: dict, options: dict) -> None:
    dense: Any = nn.Embedding(9, 5, **options, dtype=torch.double)
    mask, x = torch.rand(9, 5) < 0.5, torch.randint(9, (3, 4))
    layer, twin = kinds[nn.Embedding].from_dense(dense, mask), copy.deepcopy(dense)
    twin.weight.data.mul_(mask)
    delta = torch.randn(3, 4, 5, dtype=torch.double)
    probe = layer.probe = layer.new_probe()
    output, expected = layer(x), twin(x)
    torch.testing.assert_close(output, expected)
    output.backward(delta)
    expected.backward(delta)
    gradient = twin.weight.grad
    whole = gradient if kinds is MASKED else gradient * mask
    torch.testing.assert_close(layer.weight.grad, whole)
    torch.testing.assert_close(probe.dense_gradient(), gradient)
    some = torch.randperm(45)[:6]
    torch.testing.assert_close(probe.gradient_at(some), gradient.flatten()[some])
    assert (gradient.abs() <= probe.row_weight()[:, None] * probe.col_weight() + 1e-9).all()
    shares = [torch.autograd.grad(twin(a[None]), twin.weight, d[None])[0] for a, d in zip(x, delta, strict=True)]
    if not options.get("scale_grad_by_freq"):
        total, moment, samples = probe.gradient_and_moment()
        torch.testing.assert_close(total, gradient)
        torch.testing.assert_close(moment, sum(share.square() for share in shares))
        assert samples == 3
    back = layer.to_dense()
    assert type(back) is nn.Embedding
    assert back.padding_idx == dense.padding_idx
    torch.testing.assert_close(back(x), expected)


def test_embeddings_that_cannot_be_sparse_stay_dense() -> None:
    for options, why in (({"max_norm": 1.0}, "renormalises"), ({"sparse": True}, "sparse gradients")):
        model = nn.Sequential(nn.Embedding(9, 5, **options), nn.Linear(5, 5))
        with pytest.raises(ValueError, match="0"):
            sk.sparsify(model, 0.5, include="0")
        assert SPARSE[nn.Embedding].refuses(model[0])
        assert why in str(SPARSE[nn.Embedding].refuses(model[0]))


@pytest.mark.parametrize("name", RECURRENT)
@pytest.mark.parametrize("storage", ["nonzeros", "master"])
def test_recurrent_layers(name: str, storage: str) -> None:
    whole = RECURRENT[name]().double()
    method: Any = sk.methods.random(0.5, initialize="keep")
    if storage == "master":
        method = sk.methods.dpf(sparsity=0.5, total_steps=9, steps_per_epoch=3, every=1)
    model: Any = sk.sparsify(nn.ModuleList([copy.deepcopy(whole)]), method, include="0")
    split: Any = model[0]
    if storage == "master":
        for layer in prunable_layers(model).values():
            layer.set_topology(sk.Topology.random(layer.weight_shape, 7))
    assert isinstance(split, SplitRecurrent)
    assert split.hidden_size == 4
    twin = copy.deepcopy(whole)
    masks = {layer: part.topology.mask() for layer, part in split.named_children()}
    for layer, mask in masks.items():
        getattr(twin, layer).data.mul_(mask)
    x = torch.randn(3, 6, 5, dtype=torch.double)
    packed = nn.utils.rnn.pack_padded_sequence(
        x, torch.tensor([6, 4, 3]), batch_first=whole.batch_first, enforce_sorted=False
    )
    if not whole.batch_first:
        packed = nn.utils.rnn.pack_padded_sequence(x.transpose(0, 1), torch.tensor([6, 4, 3]), enforce_sorted=False)
    for given in (x, x[0], packed):
        got, expected = split(given), twin(given)
        if given is packed:
            got, expected = (got[0].data, got[1]), (expected[0].data, expected[1])
        torch.testing.assert_close(got, expected)
    with torch.no_grad():
        hidden = twin(x)[1]
    got, expected = split(x, hidden)[0], twin(x, hidden)[0]
    delta = torch.randn_like(got)
    for output, module in ((got, split), (expected, twin)):
        module.zero_grad()
        output.backward(delta, retain_graph=True)
    for layer, mask in masks.items():
        gradient = getattr(twin, layer).grad
        part = split.get_submodule(layer)
        torch.testing.assert_close(part.weight.grad, gradient if storage == "master" else gradient * mask)
    file = io.BytesIO()
    torch.save(copy.deepcopy(model), file)
    file.seek(0)
    again = torch.load(file, weights_only=False)
    torch.testing.assert_close(again[0](x)[0], twin(x)[0])
    other: Any = sk.sparsify(nn.ModuleList([RECURRENT[name]().double()]), method, include="0")
    other.load_state_dict(model.state_dict())
    torch.testing.assert_close(other[0](x)[0], twin(x)[0])
    dense = sk.densify(model)
    assert type(dense[0]) is type(whole)
    torch.testing.assert_close(dense[0](x)[0], twin(x)[0])


@pytest.mark.parametrize("name", ["set", "rigl", "gmp", "dpf", "granet", "gse_random"])
def test_methods_train_them(name: str) -> None:
    runs = []
    for backend in ("auto", "masked"):
        torch.manual_seed(0)
        options: dict[str, Any] = {"stop": 1.0} if name == "gse_random" else {}
        method = sk.methods.get(name)(sparsity=0.6, total_steps=12, steps_per_epoch=4, every=3, **options)
        model = sk.sparsify(Tagger().double(), method, include=[nn.LSTM, "words", "head"], backend=backend)
        optimizer = sk.Sparsifier(model, torch.optim.Adam(model.parameters(), lr=0.01), method)
        assert len(optimizer.sites) == 4
        x, losses = torch.randint(20, (6, 7)), []
        for step in range(12):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x).flatten(0, 1), x.flatten() % 3)
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
            if step % 4 == 3:
                optimizer.epoch_end(float(loss))
        runs.append((torch.stack(losses), [site.active.mask() for site in optimizer.sites]))
    torch.testing.assert_close(runs[0][0], runs[1][0])
    assert all(torch.equal(a, b) for a, b in zip(runs[0][1], runs[1][1], strict=True))


@pytest.mark.parametrize("name", ["gse_grabo", "gse_graest", "snr", "snr_frozen"])
def test_methods_that_look_inside_the_recurrence_are_refused(name: str) -> None:
    options: dict[str, Any] = {"stop": 1.0, "every": 2} if name.startswith("gse") else {"every": 2}
    method = sk.methods.get(name)(sparsity=0.6, total_steps=12, steps_per_epoch=4, **options)
    model = sk.sparsify(Tagger(), method, include="rnn")
    with pytest.raises(ValueError, match=r"rnn\.weight_ih_l0"):
        sk.Sparsifier(model, torch.optim.SGD(model.parameters(), lr=0.1), method)
