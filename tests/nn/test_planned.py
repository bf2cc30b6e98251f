"""The plan of a layer's kernels: refined once by the first input, kept by copies and checkpoints."""

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import nn

import sparsekern as sk
from sparsekern.nn import crossovers, planned
from sparsekern.nn.planned import EVALUATED, TRAINED, UNSEEN, Workload
from sparsekern.sparsity.model.overrides import Assignment

LINEAR = {"rows": 24, "cols": 32, "dtype": "float32"}
CONV = {"out": 8, "in": 4, "kernel": 3, "stride": 1, "dtype": "float32"}
# Tiles for a batch of 128, dense products for one of 8 and for images of 8 x 8, tiles at any density for a batch of 1.
ROWS = {
    "linear": [
        {**LINEAR, "batch": 128, "above": {"csr": 0.0, "tiled": 0.3}},
        {**LINEAR, "batch": 8, "above": {"csr": 0.0, "dense": 0.2}},
        {**LINEAR, "batch": 1, "above": {"csr": 0.0, "tiled": 0.0}},
    ],
    "convolutions": [
        {**CONV, "size": 32, "batch": 64, "above": {"csr": 0.0}},
        {**CONV, "size": 8, "batch": 64, "above": {"csr": 0.0, "dense": 0.3}},
    ],
}
BF16 = {"linear": [{**LINEAR, "batch": 128, "above": {"csr": 0.0}}], "convolutions": ROWS["convolutions"]}


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What layers have asked the tables for."""
    calls: list[tuple[str, str]] = []

    def rows(kind: str, dtype: str) -> list[dict[str, Any]]:
        calls.append((kind, dtype))
        return (BF16 if dtype == "bfloat16" else ROWS)[kind]

    monkeypatch.setattr(crossovers, "rows", rows)
    return calls


@pytest.fixture(params=[sk.SparseLinear, sk.MaskedLinear])
def layer(request: pytest.FixtureRequest) -> Any:
    return request.param(32, 24, sparsity=0.25)


def test_the_first_batch_in_training_decides_once(layer: Any, asked: list) -> None:
    assert (layer.kernel, layer.refined, layer.workload) == ("tiled", UNSEEN, None)
    x = torch.randn(2, 4, 32)
    expected = x @ layer.dense_weight().detach().t() + layer.bias
    torch.testing.assert_close(layer(x), expected)
    assert (layer.kernel, layer.refined, layer.workload) == ("dense", TRAINED, Workload(8, None, torch.float32))
    assert layer.reason == "density 0.75 is above 0.2, where dense is fastest at 32->24, batch 8"
    count = len(asked)
    layer(torch.randn(128, 32))
    layer.eval()(torch.randn(128, 32))
    assert (layer.kernel, len(asked)) == ("dense", count)
    layer.set_topology(sk.Topology.random((24, 32), 24 * 4))  # an eighth of the weights
    assert (layer.kernel, len(asked)) == ("csr", count)


def test_training_has_the_last_word(layer: Any) -> None:
    layer.eval()
    for batch in (8, 128):  # the first one counts
        layer(torch.randn(batch, 32))
        assert (layer.kernel, layer.refined) == ("dense", EVALUATED)
    layer.train()
    with torch.no_grad():  # statistics of batch norm, say
        layer(torch.randn(128, 32))
    assert layer.kernel == "dense"
    layer(torch.randn(128, 32))
    assert (layer.kernel, layer.refined) == ("tiled", TRAINED)


def test_what_inference_chooses_can_be_trained() -> None:
    layer = sk.SparseLinear(32, 24, sparsity=0.75).eval()
    with torch.inference_mode():
        layer(torch.randn(1, 32))
    assert (layer.kernel, layer.refined) == ("tiled", EVALUATED)
    layer.train()(torch.randn(1, 32)).sum().backward()
    assert layer.values.grad is not None


def test_images_and_batches_of_convolutions(asked: list) -> None:
    for kind in (sk.SparseConv2d, sk.MaskedConv2d):
        layer = kind(4, 8, 3, padding=1, sparsity=0.5)
        assert layer.kernel == "csr"  # by the first row of its shape
        layer(torch.randn(4, 9, 9))
        assert (layer.kernel, layer.workload) == ("dense", Workload(1, 9, torch.float32))
        layer = kind(4, 8, 3, padding=1, sparsity=0.5)
        layer(torch.randn(2, 4, 30, 20))
        assert (layer.kernel, layer.workload) == ("csr", Workload(2, 30, torch.float32))


def test_autocast_decides_the_dtype(layer: Any, asked: list) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        layer(torch.randn(128, 32))
    assert (layer.kernel, asked[-1]) == ("csr", ("linear", "bfloat16"))


@pytest.mark.parametrize(
    "x", [torch.randn(0, 32), torch.randn(8, 31), torch.tensor(1.0)], ids=["empty", "wrong", "0-d"]
)
def test_an_input_without_a_batch_decides_nothing(x: torch.Tensor) -> None:
    layer = sk.SparseLinear(32, 24, sparsity=0.25)
    try:
        layer(x)
    except (ValueError, RuntimeError, IndexError):
        assert x.numel() != 0
    assert (layer.kernel, layer.refined) == ("tiled", UNSEEN)


def test_a_kernel_that_was_asked_for_stays(layer: Any) -> None:
    layer.set_kernel("csr", "a test")
    layer(torch.randn(8, 32))
    assert (layer.kernel, layer.reason) == ("csr", "a test")


def test_compiled_code_keeps_the_plan_that_it_finds(layer: Any) -> None:
    from torch._dynamo.testing import CompileCounter

    counter = CompileCounter()
    compiled = torch.compile(layer, backend=counter, fullgraph=True)
    for batch in (8, 8, 8):
        compiled(torch.randn(batch, 32)).sum().backward()
    assert (layer.kernel, layer.refined, counter.frame_count) == ("tiled", UNSEEN, 1)


def test_an_eager_call_between_compiled_ones_costs_no_compilation(layer: Any) -> None:
    from torch._dynamo.testing import CompileCounter

    counter = CompileCounter()
    compiled = torch.compile(layer, backend=counter, fullgraph=True)
    for call in (compiled, layer, compiled):
        call(torch.randn(128, 32))
    assert (layer.kernel, layer.refined, counter.frame_count) == ("tiled", TRAINED, 1)


def test_a_layer_that_records_keeps_the_plan(layer: Any) -> None:
    """It may be one of a compiled model that runs eagerly in this step."""
    layer.probe = layer.new_probe()
    layer(torch.randn(8, 32))
    assert (layer.kernel, layer.refined) == ("tiled", UNSEEN)


def test_copies_have_the_plan(layer: Any) -> None:
    layer(torch.randn(8, 32))
    for copied in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert (copied.plan, copied.workload, copied.refined, copied.kernel) == (
            layer.plan,
            layer.workload,
            TRAINED,
            "dense",
        )


OLDER = {
    b"Vworkload\n": b"Vuse\n",
    b"Vassignment\n": b"Vpart\n",
    b"planned\nWorkload\n": b"planned\nUse\n",
    b"kernel_choice\nKernelPlan\n": b"kernel_choice\nPlan\n",
    b"kernel_choice\nThreshold\n": b"kernel_choice\nStep\n",
    b"overrides\nAssignment\n": b"overrides\nPart\n",
}


def test_an_older_pickle_has_all_of_it(layer: Any) -> None:
    layer(torch.randn(8, 32))
    layer.assignment = Assignment("rigl", "0", 0.5)
    old = pickle.dumps(layer, protocol=0)
    for name, before in OLDER.items():
        assert name in old
        old = old.replace(name, before)
    again = pickle.loads(old)
    for name in ("plan", "workload", "assignment"):
        assert getattr(again, name) == getattr(layer, name)
    assert not {"use", "part"} & vars(again).keys()


# ---- checkpoints


def test_a_state_brings_the_plan(layer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    layer(torch.randn(8, 32))
    state = planned.state_of(layer)
    monkeypatch.setattr(crossovers, "rows", lambda kind, dtype: [{**LINEAR, "batch": 1, "above": {"csr": 0.0}}])
    other = type(layer)(32, 24, sparsity=0.25)
    assert other.kernel == "csr"
    planned.load(other, state)
    assert (other.kernel, other.plan, other.workload, other.refined) == ("dense", layer.plan, layer.workload, TRAINED)
    other(torch.randn(128, 32))
    other.set_topology(sk.Topology.random((24, 32), 24 * 28))
    assert other.kernel == "dense"


def test_a_state_of_version_01_brings_the_kernel_alone(layer: Any) -> None:
    planned.load(layer, {"kernel": "csr", "reason": "of before"})
    assert (layer.kernel, layer.reason) == ("csr", "of before")
    layer(torch.randn(8, 32))
    assert layer.kernel == "csr"
    layer.set_topology(sk.Topology.random((24, 32), 24 * 28))
    assert layer.kernel == "tiled"


def test_what_cannot_run_here_is_chosen_anew(layer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    state = planned.state_of(layer)
    gpu = {"card": "A card", "steps": [[0.0, "bits", "there"]]}
    unknown = {"card": None, "steps": [[0.0, "quantum", "later"]]}
    for plan in (gpu, unknown):
        planned.load(layer, state | {"kernel": plan["steps"][0][1], "plan": plan})
        assert (layer.kernel, layer.refined) == ("tiled", UNSEEN)
    monkeypatch.setattr(planned, "card_of", lambda device: "A card")
    planned.load(layer, {"kernel": "csr", "reason": "of a CPU"})
    planned.load(layer, state)
    assert layer.refined == UNSEEN
    planned.load(layer, state | {"kernel": "bits", "plan": gpu})
    assert (layer.kernel, layer.plan.card) == ("bits", "A card")


@pytest.mark.parametrize(
    "damage",
    [
        {"plan": {"card": None, "steps": []}},
        {"plan": {"card": None, "steps": [[0.0, "csr"]]}},
        {"plan": {"card": None, "steps": [["x", "csr", "why"]]}},
        {"plan": {"steps": [[0.0, "csr", "why"]]}},
        {"plan": 3},
        {"use": [8]},
        {"use": [8, None, "number"]},
        {"refined": None},
    ],
    ids=str,
)
def test_a_damaged_plan_is_refused(damage: dict[str, Any]) -> None:
    layer = sk.SparseLinear(32, 24, sparsity=0.25)
    with pytest.raises(ValueError, match="the plan of a layer's kernels is damaged"):
        planned.load(layer, planned.state_of(layer) | damage)


def test_a_layer_without_a_plan_is_refined_as_others_are() -> None:
    """As one from a pickle of version 0.1."""
    layer = sk.SparseLinear(32, 24, sparsity=0.25)
    for name in ("plan", "use", "refined"):
        layer.__dict__.pop(name, None)
    layer(torch.randn(8, 32))
    assert layer.kernel == "dense"


@pytest.mark.parametrize("method", ["rigl", "gmp", "dpf"])
def test_a_resumed_sparsifier_has_the_same_kernels_and_bits(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the tables say by then, also at later changes of pattern."""
    shape = {"rows": 24, "cols": 32, "batch": 8, "dtype": "float32"}
    before = [{**shape, "above": {"csr": 0.0, "tiled": 0.3, "dense": 0.8}}]
    after = [{**shape, "above": {"csr": 0.0, "dense": 0.1, "tiled": 0.5}}]

    def made() -> tuple[nn.Module, sk.Sparsifier]:
        torch.manual_seed(0)
        chosen = getattr(sk.methods, method)(sparsity=0.7, total_steps=16, steps_per_epoch=4, every=2)
        model = sk.sparsify(nn.Sequential(nn.Linear(32, 24), nn.ReLU(), nn.Linear(24, 32)), chosen)
        return model, sk.Sparsifier(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), chosen)

    def advance(model: nn.Module, optimizer: sk.Sparsifier, steps: range) -> list[list[str]]:
        kernels = []
        for step in steps:
            x = torch.randn(8, 32, generator=torch.Generator().manual_seed(step))
            optimizer.zero_grad()
            (model(x) - x).square().mean().backward()
            optimizer.step()
            kernels.append([site.module.kernel for site in optimizer.sites])
        return kernels

    monkeypatch.setattr(crossovers, "rows", lambda kind, dtype: before)
    whole, parts = made(), made()
    kernels = advance(*whole, range(16))
    first = advance(*parts, range(7))
    saved = copy.deepcopy((parts[0].state_dict(), parts[1].state_dict()))
    monkeypatch.setattr(crossovers, "rows", lambda kind, dtype: after)
    model, optimizer = made()
    model.load_state_dict(saved[0])
    optimizer.load_state_dict(saved[1])
    assert first + advance(model, optimizer, range(7, 16)) == kernels
    for name, tensor in whole[0].state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name
