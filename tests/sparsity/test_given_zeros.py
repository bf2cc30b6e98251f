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
        (None, {"masks": "nonzero", "exclude": ["0", "3"]}, "no layer has zeros: of 4 at most 1%"),
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
