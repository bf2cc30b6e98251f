"""Attention with sparse projections computes what `nn.MultiheadAttention` does with zeros in its weights."""

import copy
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sparsekern as sk
from sparsekern.nn import PatternLayer, SplitAttention, prunable_layers

E, HEADS, B, L, S = 12, 3, 2, 5, 7
KINDS: dict[str, dict[str, Any]] = {
    "packed": {},
    "first": {"batch_first": True},
    "no bias": {"bias": False, "batch_first": True},
    "other widths": {"kdim": 8, "vdim": 10},
    "appended keys": {"add_bias_kv": True, "add_zero_attn": True},
}


def attention(kind: str, **options: Any) -> nn.MultiheadAttention:
    made = nn.MultiheadAttention(E, HEADS, **KINDS[kind], **options).double()
    for name, bias in made.named_parameters():
        if "bias" in name:
            nn.init.normal_(bias)
    return made


def masked_twin(whole: nn.MultiheadAttention, split: Any) -> nn.MultiheadAttention:
    """The same with the zeros of the split one, and its own weights."""
    twin = copy.deepcopy(whole)
    masks = [getattr(split, f"{name}_proj").topology.mask() for name in "qkv"]
    weights: Any = (twin.q_proj_weight, twin.k_proj_weight, twin.v_proj_weight)
    if twin.in_proj_weight is not None:
        weights = twin.in_proj_weight.data.chunk(3)
    for weight, mask in zip(weights, masks, strict=True):
        weight.data.mul_(mask)
    twin.out_proj.weight.data.mul_(split.out_proj.topology.mask())
    return twin


def inputs(kind: str, batched: bool = True) -> list[Tensor]:
    settings = KINDS[kind]
    sizes = [(L, E), (S, settings.get("kdim", E)), (S, settings.get("vdim", E))]
    made = [torch.randn(B, *size, dtype=torch.double) for size in sizes]
    if not batched:
        return [x[0] for x in made]
    return made if settings.get("batch_first") else [x.transpose(0, 1) for x in made]


@pytest.mark.filterwarnings("ignore:Support for mismatched")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batched", [True, False])
def test_it_computes_what_the_whole_one_does(kind: str, batched: bool) -> None:
    whole = attention(kind)
    model = sk.sparsify(nn.ModuleDict({"a": copy.deepcopy(whole)}), sk.methods.random(0.5, initialize="keep"))
    split: Any = model["a"]
    assert list(prunable_layers(model)) == ["a.q_proj", "a.k_proj", "a.v_proj", "a.out_proj"]
    assert isinstance(split, SplitAttention)
    assert isinstance(split, nn.MultiheadAttention)
    twin = masked_twin(whole, split)
    blocked = torch.rand(L, S) < 0.3
    blocked[:, 0] = False
    padding = torch.zeros(B, S, dtype=torch.bool)
    padding[0, -2:] = True
    padding = padding if batched else padding[0]
    per_head = torch.randn(B * HEADS if batched else HEADS, L, S, dtype=torch.double)
    masks: list[dict[str, Any]] = [
        {},
        {"attn_mask": blocked},
        {"key_padding_mask": padding},
        {"attn_mask": blocked, "key_padding_mask": padding},
        {"attn_mask": per_head},
        {"attn_mask": torch.full((L, S), -torch.inf).triu(1).double(), "is_causal": True},
    ]
    for mode, options, need in product(
        (True, False), masks, ({}, {"need_weights": False}, {"average_attn_weights": False})
    ):
        if kind == "appended keys" and "is_causal" in options and need == {"need_weights": False}:
            continue  # where weights are not asked for, PyTorch takes the hint for the keys that it appends, too
        given = [x.requires_grad_() for x in inputs(kind, batched)]
        same = [x.detach().clone().requires_grad_() for x in given]
        got, expected = split.train(mode)(*given, **options, **need), twin.train(mode)(*same, **options, **need)
        torch.testing.assert_close(got[0], expected[0])
        assert (got[1] is None) == (expected[1] is None)
        if got[1] is not None:
            torch.testing.assert_close(got[1], expected[1])
        delta = torch.randn_like(got[0])
        got[0].backward(delta)
        expected[0].backward(delta)
        for a, b in zip(given, same, strict=True):
            torch.testing.assert_close(a.grad, b.grad)


def test_self_attention_and_its_gradients() -> None:
    whole = attention("first", dropout=0.3)
    split: Any = sk.sparsify(nn.ModuleList([copy.deepcopy(whole)]), sk.methods.random(0.5, initialize="keep"))[0]
    twin: Any = masked_twin(whole, split)
    x = torch.randn(B, L, E, dtype=torch.double)
    for layer in (split, twin):
        torch.manual_seed(3)
        layer(x, x, x)[0].square().sum().backward()
    mask = torch.cat([getattr(split, f"{name}_proj").topology.mask() for name in "qkv"])
    torch.testing.assert_close(split.in_proj_weight.grad, twin.in_proj_weight.grad * mask)
    torch.testing.assert_close(split.in_proj_weight + 0, twin.in_proj_weight)
    torch.testing.assert_close(split.in_proj_bias + 0, twin.in_proj_bias)
    with torch.no_grad():
        split.in_proj_weight.mul_(2)
        twin.in_proj_weight.mul_(2)
    torch.testing.assert_close(split.eval()(x, x, x)[0], twin.eval()(x, x, x)[0])


def encoder(**options: Any) -> nn.TransformerEncoder:
    settings = {"batch_first": True, "dropout": 0.0, "dtype": torch.double, **options}
    layer = nn.TransformerEncoderLayer(8, 2, 16, **settings)
    return nn.TransformerEncoder(layer, 2)


@pytest.mark.parametrize("exclude", [(), "*.linear?", "*.self_attn.*"])
@pytest.mark.parametrize("gradients", [True, False])
def test_an_encoder_in_training_and_on_its_fast_path(exclude: Any, gradients: bool) -> None:
    """PyTorch's own fast path in evaluation reads dense weights, and packs padded sequences into nested tensors."""
    model = sk.sparsify(encoder(), 0.5, exclude=exclude)
    twin = sk.densify(copy.deepcopy(model))
    assert not any(isinstance(module, (PatternLayer, SplitAttention)) for module in twin.modules())
    x = torch.randn(3, 5, 8, dtype=torch.double)
    padding = torch.arange(5) >= torch.tensor([[5], [3], [2]])
    causal = nn.Transformer.generate_square_subsequent_mask(5, dtype=torch.double)
    with torch.set_grad_enabled(gradients):
        for mode in (True, False):
            for options in ({}, {"src_key_padding_mask": padding}, {"mask": causal, "is_causal": True}):
                got, expected = model.train(mode)(x, **options), twin.train(mode)(x, **options)
                kept = ~padding if "src_key_padding_mask" in options else torch.ones(3, 5, dtype=torch.bool)
                torch.testing.assert_close(got[kept], expected[kept])


def test_an_encoder_is_trained_saved_and_converted_back() -> None:
    torch.manual_seed(0)
    method = sk.methods.rigl(sparsity=0.6, total_steps=20, every=4)
    model = sk.sparsify(nn.Sequential(encoder(), nn.Linear(8, 3).double()), method)
    names = list(prunable_layers(model))
    assert "0.layers.1.self_attn.q_proj" in names
    assert "0.layers.0.linear1" in names
    optimizer = sk.Sparsifier(model, torch.optim.Adam(model.parameters(), lr=0.01), method)
    twin = sk.densify(copy.deepcopy(model))  # trained with masks for the first steps
    dense_optimizer = torch.optim.Adam(twin.parameters(), lr=0.01)
    mask = {name: twin_parameter != 0 for name, twin_parameter in twin.named_parameters() if twin_parameter.dim() > 1}
    x, y = torch.randn(16, 5, 8, dtype=torch.double), torch.randint(3, (16, 5))
    for step in range(12):
        for network, own in ((model, optimizer), (twin, dense_optimizer)):
            own.zero_grad()
            loss = nn.functional.cross_entropy(network(x).flatten(0, 1), y.flatten())
            loss.backward()
            if network is twin:
                for name, parameter in twin.named_parameters():
                    if name in mask:
                        parameter.grad.mul_(mask[name])
            own.step()
        if step == 3:
            torch.testing.assert_close(model(x), twin(x))
    assert sum(site.nnz for site in optimizer.sites) == sk.topology.nnz_at(0.6, sum(s.size for s in optimizer.sites))
    other = sk.sparsify(nn.Sequential(encoder(), nn.Linear(8, 3).double()), method)
    other.load_state_dict(model.state_dict())
    torch.testing.assert_close(other(x), model(x))
    expected = model.eval()(x)
    dense = sk.densify(model)
    assert type(dense[0].layers[0].self_attn) is nn.MultiheadAttention
    with torch.no_grad():
        torch.testing.assert_close(dense(x), expected)


def test_a_state_of_the_whole_one_loads_into_masks() -> None:
    method = sk.methods.dpf(sparsity=0.5, total_steps=10, steps_per_epoch=5)
    whole = nn.ModuleList([attention("packed")])
    model = sk.sparsify(copy.deepcopy(whole), method)
    other = nn.ModuleList([attention("packed")])
    model.load_state_dict(other.state_dict(), strict=False)
    q, k, v = other[0].in_proj_weight.chunk(3)
    for name, weight in zip("qkv", (q, k, v), strict=True):
        assert torch.equal(getattr(model[0], f"{name}_proj").master, weight)


def test_packed_projections_may_be_computed_in_place() -> None:
    model: Any = sk.sparsify(nn.ModuleList([attention("packed"), attention("packed")]), 0.5)
    layer = model[0]
    weight, bias = (layer.in_proj_weight + 0).detach(), (layer.in_proj_bias + 0).detach()
    with torch.no_grad():
        layer.in_proj_weight *= 0.5
        layer.in_proj_bias += 1
    assert torch.equal(layer.in_proj_weight, weight * 0.5)
    assert torch.equal(layer.in_proj_bias, bias + 1)
    for value in (torch.ones_like(weight), model[1].in_proj_weight, layer.in_proj_bias):
        with pytest.raises(TypeError, match="cannot assign in_proj_weight"):
            layer.in_proj_weight = value


def test_what_stays_dense_stays_whole() -> None:
    """Also where the call fails: the model has the very modules and Parameters that it had."""
    model = nn.ModuleDict({"a": nn.MultiheadAttention(8, 2), "b": nn.Linear(8, 8)})
    model["a"].register_forward_hook(lambda *_: None)
    model["a"].note = "mine"
    before, parameters = model["a"], [*model.parameters()]
    with pytest.raises(ValueError, match="sparsity"):
        sk.sparsify(model, 1.5)
    sk.sparsify(model, 0.5, exclude="a.*")
    assert model["a"] is before
    assert model["a"].in_proj_weight is parameters[0]
    assert len(before._forward_hooks) == 1
    model["a"](*torch.randn(3, 4, 2, 8))
    sk.densify(sk.sparsify(model, masks={"a.k_proj": torch.ones(8, 8, dtype=torch.bool).tril()}))
    assert model["a"].note == "mine"
    assert len(model["a"]._forward_hooks) == 1
    assert model["a"].in_proj_weight[8:16].triu(1).eq(0).all()


class Scaled(nn.MultiheadAttention):
    def forward(self, *arguments: Any, **options: Any) -> Any:
        output, weights = super().forward(*arguments, **options)
        return 2 * output, weights


def test_subclasses_with_a_forward_of_their_own_stay_dense() -> None:
    model = nn.ModuleList([Scaled(8, 2), nn.Linear(8, 8)])
    with pytest.warns(UserWarning, match="1 Scaled with .*: a subclass"):
        sk.sparsify(model, 0.5)
    assert type(model[0]) is Scaled
    assert isinstance(model[1], sk.SparseLinear)


def test_nested_tensors_are_refused() -> None:
    split: Any = sk.sparsify(nn.ModuleList([nn.MultiheadAttention(8, 2, batch_first=True)]), 0.5)[0].eval()
    x = torch.nested.nested_tensor([torch.randn(3, 8), torch.randn(2, 8)])
    with pytest.raises(ValueError, match="no nested tensors"):
        split(x, x, x)
    with pytest.raises(ValueError, match="is_causal is a hint"):
        split(*torch.randn(3, 2, 4, 8), is_causal=True)
