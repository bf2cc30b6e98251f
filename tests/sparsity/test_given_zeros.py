"""Models that were pruned before sparsekern saw them: `sparsify(model, masks="nonzero")`."""

import copy
import logging
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

import sparsekern as sk
from sparsekern.nn import PatternLayer


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 32), nn.Linear(32, 4)
    )


def batch() -> tuple[Tensor, Tensor]:
    return torch.randn(5, 3, 4, 4), torch.randint(4, (5,))


def with_zeros(sparsity: float = 0.6) -> nn.Sequential:
    """Wanda's and SparseGPT's models: zeros written into dense weights, per row; the head is left whole."""
    model = network()
    for layer in (model[0], model[3]):
        weight: Any = layer.weight.data.flatten(1)
        weight[:, : int(sparsity * weight.shape[1])] = 0
        layer.weight.data = weight[:, torch.randperm(weight.shape[1])].reshape(layer.weight.shape)  # type: ignore[union-attr,operator]
    return model


def under_prune() -> nn.Sequential:
    model = network()
    for layer in (model[0], model[3]):
        prune.l1_unstructured(layer, "weight", amount=0.3)
        prune.l1_unstructured(layer, "weight", amount=0.4)  # a container of two
    return model


def under_ao() -> nn.Sequential:
    from torch.ao.pruning import WeightNormSparsifier

    model = network()
    sparsifier = WeightNormSparsifier(sparsity_level=0.5)
    sparsifier.prepare(model, [{"tensor_fqn": "3.weight"}])
    sparsifier.step()
    return model


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 3) -> None:
    torch.manual_seed(1)
    for _ in range(steps):
        x, y = batch()
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in sk.densify(copy.deepcopy(model)).named_parameters()}


@pytest.mark.parametrize("make", [with_zeros, under_prune, under_ao])
@pytest.mark.parametrize("method", [None, sk.methods.fixed()], ids=["no method", "fixed"])
def test_trains_as_the_masked_network_does(make: Any, method: Any) -> None:
    """The zeros stay, and the others learn what they learn in the dense network whose gradients are masked."""
    model, dense = make(), make()
    x, _ = batch()
    before = model(x)
    for layer in dense.modules():
        if hasattr(layer, "weight_mask"):
            prune.remove(layer, "weight")
        if nn.utils.parametrize.is_parametrized(layer):
            nn.utils.parametrize.remove_parametrizations(layer, "weight")
    masks = {name: p != 0 for name, p in dense.named_parameters()}
    assert sum(int((~mask).sum()) for mask in masks.values()) / 5000 > 0.1
    for name, p in dense.named_parameters():
        p.register_hook(lambda grad, mask=masks[name]: grad * mask)
    model = sk.sparsify(model, method, masks="nonzero")
    assert isinstance(model[3], sk.SparseLinear)
    assert isinstance(model[4], nn.Linear), "a layer without zeros stays dense"
    torch.testing.assert_close(model(x), before)
    optimizer: torch.optim.Optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    if method is not None:
        optimizer = sk.Sparsifier(model, optimizer, method)
    train(model, optimizer)
    train(dense, torch.optim.SGD(dense.parameters(), lr=0.1, momentum=0.9))
    got = weights(model)
    for name, p in dense.named_parameters():
        torch.testing.assert_close(got[name], p.detach())
        assert not got[name][~masks[name]].any()


def test_tells_what_it_found(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "sparsekern"):
        sk.sparsify(with_zeros(), masks="nonzero")
    assert "3: 2432 of 4096 weights are zero (59.4 %)" in caplog.text
    assert "Linear with 2.9% (4): at most 1% of it is zero" in caplog.text


def test_a_layer_of_zeros_is_not_frozen() -> None:
    """The last layer of a block is often zero at the start, so as to learn."""
    model = with_zeros()
    nn.init.zeros_(model[4].weight)  # type: ignore[arg-type]
    model = sk.sparsify(model, masks="nonzero")
    assert type(model[4]) is nn.Linear
    assert model[4].weight.requires_grad


def test_few_zeros_are_chance() -> None:
    model = with_zeros()
    model[4].weight.data[0, 0] = 0  # type: ignore[index,union-attr,operator]
    assert type(sk.sparsify(model, masks="nonzero")[4]) is nn.Linear  # type: ignore[index]


def test_excluded_masks_stay() -> None:
    model = under_prune()
    sk.sparsify(model, masks="nonzero", exclude=["3"])
    assert isinstance(model[0], PatternLayer)
    assert prune.is_pruned(model[3])


def test_a_sparse_layer_keeps_its_pattern() -> None:
    model = sk.sparsify(with_zeros(), masks="nonzero")
    pattern = model[3].topology  # type: ignore[index]
    with torch.no_grad():
        model[3].values.zero_()  # type: ignore[index]
    model = sk.sparsify(model, masks="nonzero")
    assert model[3].topology.same_pattern(pattern)  # type: ignore[index]


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (None, {}, "expected a Method"),
        (None, {"method": sk.methods.fixed()}, "fixed keeps a pattern that is there: pass masks"),
        (None, {"masks": "zeros"}, "masks must be a dict of bool tensors or \"nonzero\", got 'zeros'"),
        (None, {"masks": "nonzero", "include": "*"}, "include adds nothing"),
        (None, {"masks": "nonzero", "exclude": "9"}, "exclude pattern '9' matches none"),
        (None, {"masks": "nonzero", "exclude": ["0", "3"]}, "no layer of the model has zeros to keep: 4: at most 1%"),
        (lambda m: prune.l1_unstructured(m[3], "bias", 2), {"masks": "nonzero"}, "the biases of 3 are masked"),
    ],
)
def test_refuses_and_changes_nothing(change: Any, options: dict[str, Any], message: str) -> None:
    model = under_prune()
    if change is not None:
        change(model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        sk.sparsify(model, **options)
    after = model.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_reports_and_resumes(tmp_path: Any) -> None:
    """Followers, reports and checkpoints work under `fixed` as under other methods."""
    whole, halves = (sk.sparsify(with_zeros(), masks="nonzero") for _ in range(2))
    runs = [sk.Sparsifier(m, torch.optim.Adam(m.parameters()), sk.methods.fixed()) for m in (whole, halves)]
    train(whole, runs[0], 2)
    train(halves, runs[1], 2)
    torch.save({"model": halves.state_dict(), "run": runs[1].state_dict()}, tmp_path / "run.pt")
    saved = torch.load(tmp_path / "run.pt")
    other = sk.sparsify(with_zeros(), masks="nonzero")
    other.load_state_dict(saved["model"])
    run = sk.Sparsifier(other, torch.optim.Adam(other.parameters()), sk.methods.fixed())
    run.load_state_dict(saved["run"])
    train(whole, runs[0], 2)
    train(other, run, 2)
    for a, b in zip(whole.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
    assert "sparsity 0.5937" in str(run.report())


def test_a_copy_is_densified_without_a_warning(recwarn: pytest.WarningsRecorder) -> None:
    model = sk.sparsify(with_zeros(), masks="nonzero")
    recwarn.clear()
    sk.densify(copy.deepcopy(model))
    assert not recwarn.list


def same(model: nn.Module, x: Tensor, **options: Any) -> nn.Module:
    """Takes the zeros of a model, whose outputs have to stay."""
    before = model(x).detach()
    model = sk.sparsify(model, masks="nonzero", **options)
    assert (model(x) - before).abs().max() < 1e-5
    return model


def zeros_after_training(weight: Any, model: nn.Module, x: Tensor) -> float:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(x).square().mean().backward()
    optimizer.step()
    model(x)  # whose mask computes the weight
    return float((weight() == 0).float().mean())


def test_a_mask_on_a_weight_that_others_share_stays() -> None:
    model = network()
    model.insert(5, nn.Linear(4, 32))
    model.insert(6, nn.Linear(32, 4))
    model[6].weight = model[4].weight
    for layer in (model[3], model[6]):
        prune.l1_unstructured(layer, "weight", amount=0.5)
    whole = model[4].weight.detach().clone()
    x = batch()[0]
    with pytest.warns(UserWarning, match="6 stays dense under its mask: shares a parameter"):
        model = same(model, x)
    assert isinstance(model[3], PatternLayer)
    assert torch.equal(model[4].weight, whole)
    assert zeros_after_training(lambda: model[6].weight, model, x) == 0.5


def test_a_model_with_nothing_but_such_a_mask_is_left_alone() -> None:
    model: Any = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    prune.l1_unstructured(model[1], "weight", amount=0.5)
    with pytest.warns(UserWarning, match="under its mask"), pytest.raises(ValueError, match="1: shares a parameter"):
        sk.sparsify(model, masks="nonzero")
    assert prune.is_pruned(model[1])


def test_a_masked_embedding_keeps_its_mask() -> None:
    model: Any = nn.Sequential(nn.Embedding(16, 8), nn.Linear(8, 4))
    for layer in model:
        prune.l1_unstructured(layer, "weight", amount=0.5)
    x = torch.arange(16)
    with pytest.warns(UserWarning, match="0 stays dense under its mask: left dense by default"):
        model = same(model, x)
    assert isinstance(model[1], PatternLayer)
    assert zeros_after_training(lambda: model[0].weight, model, x) == 0.5


@pytest.mark.parametrize("exclude", [(), ("self_attn",)], ids=["split", "excluded"])
def test_masks_within_attention(exclude: tuple[str, ...]) -> None:
    torch.manual_seed(0)
    layer: Any = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
    masked = [(layer.self_attn, "in_proj_weight"), (layer.self_attn.out_proj, "weight"), (layer.linear1, "weight")]
    for module, name in masked:
        prune.l1_unstructured(module, name, amount=0.5)
    kept = layer.self_attn.out_proj.weight_orig.detach().clone()
    layer = same(layer, torch.randn(2, 3, 16), exclude=exclude)
    assert isinstance(layer.linear1, PatternLayer)
    assert isinstance(layer.self_attn.out_proj, PatternLayer) == (not exclude)
    if exclude:
        assert prune.is_pruned(layer.self_attn)
        assert torch.equal(layer.self_attn.out_proj.weight_orig, kept)
        assert float((layer.self_attn.in_proj_weight == 0).float().mean()) == 0.5
    else:
        assert (
            sum(part.topology.nnz for part in layer.self_attn.modules() if isinstance(part, PatternLayer))
            == 2 * 16 * 16
        )


@pytest.mark.parametrize("name", ["out_proj", "self"])
def test_masks_within_attention_stay_where_it_is_refused(name: str) -> None:
    attention: Any = nn.MultiheadAttention(16, 2)
    module = attention.out_proj if name == "out_proj" else attention
    prune.l1_unstructured(attention.out_proj, "weight", amount=0.5)
    prune.l1_unstructured(module, "bias" if name == "out_proj" else "in_proj_bias", amount=2)
    model = nn.ModuleDict({"a": attention, "b": nn.Linear(4, 4)})
    prune.l1_unstructured(model["b"], "weight", amount=0.5)
    with pytest.warns(UserWarning, match="MultiheadAttention"):
        model = sk.sparsify(model, masks="nonzero")  # type: ignore[assignment]
    assert model["a"] is attention
    assert isinstance(model["b"], PatternLayer)
    assert prune.is_pruned(attention.out_proj)
