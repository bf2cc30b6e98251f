"""torch.compile and live graphs across changes of pattern."""

import pytest
import torch
import torch._dynamo.testing
from torch import nn

import sparsekern as sk
from sparsekern.nn import crossovers
from sparsekern.sparsity.parts.schedules import Cadence


def _model() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (2, 3, 4)),
        nn.Conv2d(2, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 8, 2, groups=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(48, 32),
        nn.ReLU(),
        nn.Linear(32, 4),
    )


def _setup(total_steps: int) -> tuple[nn.Module, sk.Sparsifier]:
    method = sk.methods.gse_grabo(sparsity=0.8, total_steps=total_steps, every=2, stop=1.0, rate=0.4)
    model = sk.sparsify(_model(), method)
    return model, sk.Sparsifier(model, torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9), method)


@pytest.mark.parametrize(("name", "batches"), [("gse_synflow", 1), ("gse_graest", 2)])
def test_growth_looks_at_a_compiled_model(name: str, batches: int) -> None:
    """The Sparsifier is given the compiled model, and runs it eagerly."""
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    method = sk.methods.get(name)(sparsity=0.8, total_steps=10, every=2, stop=1.0, batches=batches)
    model = torch.compile(sk.sparsify(_model(), method), backend=counter, fullgraph=True)
    x, y = torch.randn(16, 24), torch.randint(4, (16,))
    inner = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    optimizer = sk.Sparsifier(model, inner, method, batches=[(x, y)] * 2, loss=nn.functional.cross_entropy)
    changes = 0
    for _ in range(10):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        changes += optimizer.rewired
    assert changes >= 3
    assert counter.frame_count <= 2


@pytest.fixture
def _one_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table in which no density is where another kernel begins: a layer that takes another one is compiled anew."""
    shapes = {"linear": ("rows", "cols", "batch"), "convolutions": ("out", "in", "kernel", "stride", "size", "batch")}
    rows = {kind: [{**dict.fromkeys(names, 1), "above": {"csr": 0.0}}] for kind, names in shapes.items()}
    monkeypatch.setattr(crossovers, "rows", lambda kind, dtype: rows[kind])


@pytest.mark.usefixtures("_one_kernel")
def test_twelve_changes_compile_at_most_twice() -> None:
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    model, optimizer = _setup(26)
    compiled = torch.compile(model, backend=counter, fullgraph=True)
    x, y = torch.randn(16, 24), torch.randint(4, (16,))
    nnz = [[site.nnz for site in optimizer.sites]]
    changes = 0
    for _ in range(26):
        optimizer.zero_grad()
        nn.functional.cross_entropy(compiled(x), y).backward()
        optimizer.step()
        changes += optimizer.rewired
        nnz.append([site.nnz for site in optimizer.sites])
    assert changes >= 12
    assert all(len(set(layer)) > 6 for layer in zip(*nnz, strict=True)), "every layer's count has to move"
    assert not optimizer.reallocated
    assert counter.frame_count <= 2
    torch.testing.assert_close(compiled(x), model(x))


def test_ten_changes_with_the_last_loss_alive() -> None:
    model, optimizer = _setup(22)
    x, y = torch.randn(16, 24), torch.randint(4, (16,))
    losses, changes = [], 0
    for _ in range(22):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        changes += optimizer.rewired
        losses.append(loss)
    assert changes >= 10
    assert losses[-1].item() < losses[0].item()


def test_stale_graph_does_not_give_a_wrong_gradient() -> None:
    model, optimizer = _setup(4)
    x, y = torch.randn(16, 24), torch.randint(4, (16,))
    stale = nn.functional.cross_entropy(model(x), y)
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        stale.backward()


def test_cadence_counts_what_it_fires() -> None:
    for cadence in (Cadence(3), Cadence(2, start=3, stop=9), Cadence(5, stop=4)):
        assert cadence.count(20) == sum(cadence.fires(t) for t in range(20))
    assert not Cadence(3).fires(0)


def test_the_stance_of_the_user_comes_back() -> None:
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    with torch.compiler.set_stance("eager_on_recompile"):
        model, optimizer = _setup(4)
        compiled = torch.compile(model, backend=counter)
        for number in (16, 16, 16, 8):
            optimizer.zero_grad()
            compiled(torch.randn(number, 24)).square().mean().backward()
            optimizer.step()
    assert optimizer.rewired or optimizer.steps == 4
    assert not counter.frame_count, "nothing is compiled under this stance"
