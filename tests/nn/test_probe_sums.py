"""What a step is recorded for is kept as sums where these take less memory than inputs and output gradients."""

from typing import Any

import pytest
import torch
from torch import Tensor

import sparsekern as sk
from sparsekern.nn import PatternLayer
from sparsekern.nn.embedding import SparseEmbedding
from sparsekern.nn.probe import Needs, Probe
from sparsekern.nn.recurrent import SparseMatrix

LAYERS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "linear": (lambda: sk.SparseLinear(4, 3, sparsity=0.5), (6, 4)),
    "sequence": (lambda: sk.SparseLinear(4, 3, sparsity=0.5), (2, 5, 4)),
    "conv": (lambda: sk.SparseConv2d(4, 6, 3, groups=2, padding=1, sparsity=0.5), (3, 4, 5, 5)),
    "1-D": (lambda: sk.SparseConv1d(2, 3, 2, sparsity=0.5), (4, 2, 9)),
    "embedding": (lambda: SparseEmbedding(4, 3, sparsity=0.5), (2, 9)),
    "recurrent": (lambda: SparseMatrix(4, 3, sparsity=0.5), ()),
}
STATISTICS: dict[Needs, list[str]] = {
    "gradient": ["dense_gradient"],
    "bound": ["dense_gradient", "row_weight", "col_weight"],
    "moment": ["gradient_and_moment"],
}


def used(layer: Any, name: str, probe: Probe, passes: int, dtype: torch.dtype) -> Probe:
    """Records backward passes of the same inputs and output gradients, whatever the probe keeps of them."""
    shape, generator = LAYERS[name][1], torch.Generator().manual_seed(0)
    layer.probe = probe
    for _ in range(passes):
        if name == "recurrent":
            output = layer()
        elif name == "embedding":
            output = layer(torch.randint(4, shape, generator=generator))
        else:
            output = layer(torch.randn(shape, generator=generator).to(dtype))
        output.backward(torch.randn(output.shape, generator=generator).to(dtype))
    return probe


def tensors(probe: Probe, statistic: str) -> list[Any]:
    found = getattr(probe, statistic)()
    return list(found) if isinstance(found, tuple) else [found]


@pytest.mark.parametrize("dtype", [torch.double, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("needs", STATISTICS)
@pytest.mark.parametrize("name", LAYERS)
def test_sums_are_those_of_the_records(name: str, needs: Needs, dtype: torch.dtype) -> None:
    layer: PatternLayer = LAYERS[name][0]().to(dtype)
    if name == "recurrent" and needs != "gradient":
        probe = used(layer, name, layer.new_probe(), 3, dtype)
        with pytest.raises(NotImplementedError, match="recurrences of PyTorch"):
            tensors(probe, STATISTICS[needs][-1])
        return
    kept, summed = layer.new_probe(), layer.new_probe()
    summed.needs = needs
    used(layer, name, kept, 3, dtype)
    layer.zero_grad()
    used(layer, name, summed, 3, dtype)
    if name == "recurrent":  # its gradients are those of the weight, whatever is needed
        assert kept.read is not None
    else:
        assert (len(kept.records), len(kept.sums)) == (3, 0)
        assert (len(summed.records), bool(summed.sums)) == (0, True)
    assert all(total.dtype == (torch.double if dtype == torch.double else torch.float32) for total in summed.sums)
    for statistic in STATISTICS[needs]:
        for got, expected in zip(tensors(summed, statistic), tensors(kept, statistic), strict=True):
            torch.testing.assert_close(got, expected)
    some = torch.randperm(12)[:5]
    torch.testing.assert_close(summed.gradient_at(some), kept.gradient_at(some))


@pytest.mark.parametrize("needs", STATISTICS)
def test_records_are_kept_as_long_as_they_are_smaller(needs: Needs) -> None:
    """A 40 x 30 weight has 1,200 entries, each sample 70 numbers."""
    layer = sk.SparseLinear(40, 30, sparsity=0.5)
    probe = layer.probe = layer.new_probe()
    probe.needs = needs
    reference = torch.zeros(30, 40)
    for n, held in ((10, 1), (7, 2), (1, 0 if needs != "moment" else 3), (20, 0), (1, 0)):
        x, delta = torch.randn(n, 40), torch.randn(n, 30)
        layer(x).backward(delta)
        reference += delta.t() @ x
        assert len(probe.records) == held
    torch.testing.assert_close(
        probe.gradient_and_moment()[0] if needs == "moment" else probe.dense_gradient(), reference
    )
    layer.values.grad = None
    layer(torch.zeros(1, 40)).sum().backward()  # the first pass of another step
    assert (len(probe.records), len(probe.sums)) == (1, 0)
    assert probe.reached
    probe.forget()
    assert not probe.reached


def test_a_layer_that_is_used_twice_has_no_moment() -> None:
    layer = sk.SparseLinear(3, 3, sparsity=0.5)
    probe = layer.probe = layer.new_probe()
    probe.needs = "moment"
    layer(layer(torch.randn(50, 3))).sum().backward()
    assert probe.sums
    with pytest.raises(RuntimeError, match="used twice"):
        probe.gradient_and_moment()


@pytest.mark.parametrize("name", ["rigl", "gse_random", "gse_synflow", "gse_grabo", "gse_graest"])
def test_a_step_with_a_large_batch_keeps_sums(name: str) -> None:
    """Only signed sums ask for inputs and output gradients themselves."""
    torch.manual_seed(0)
    method = sk.methods.get(name)(sparsity=0.5, total_steps=30, every=2)
    model = sk.sparsify(torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 4)), method)
    optimizer = sk.Sparsifier(model, torch.optim.SGD(model.parameters(), lr=0.1), method)
    changed = False
    for _ in range(6):
        optimizer.zero_grad()
        model(torch.randn(64, 8)).square().mean().backward()
        recorded: list[Tensor | None] = [site.module.probe for site in optimizer.sites]  # type: ignore[misc]
        for probe in filter(None, recorded):
            assert bool(probe.records) == (name == "gse_graest")  # type: ignore[attr-defined]
        optimizer.step()
        changed |= optimizer.rewired
    assert changed
