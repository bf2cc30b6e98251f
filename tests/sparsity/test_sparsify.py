"""The first pattern."""

import copy
from typing import Any

import pytest
import torch
from support.networks import layers, network
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import prune
from torch.testing._internal.two_tensor import TwoTensor

import sparsekern as sk
from sparsekern.nn import PatternLayer
from sparsekern.sparsity.scoring.network import mean_gradient
from sparsekern.topology import nnz_at


def rescaled(weight: Tensor, mask: Tensor) -> Tensor:
    """The masked weight, each row times sqrt(dense fan-in / fan-in)."""
    rows = mask.flatten(1)
    growth = (rows.shape[1] / rows.sum(1).clamp(min=1)).sqrt()
    return weight * mask * growth.view(-1, *[1] * (weight.dim() - 1))


def test_a_float_gives_an_exact_static_random_pattern_on_the_weights() -> None:
    model = network()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    assert sk.sparsify(model, 0.9) is model
    assert sum(m.topology.nnz for m in layers(model)) == nnz_at(0.9, 1200 + 800 + 100)
    for index in (0, 2, 4):
        layer = model[index]
        torch.testing.assert_close(layer.weight.detach(), before[f"{index}.weight"] * layer.topology.mask())
        torch.testing.assert_close(layer.bias.detach(), before[f"{index}.bias"])


RANDOM = ["random", "set", "deepr", "dsr", "snfs", "rigl", "granet"]


@pytest.mark.parametrize("name", [*RANDOM, "random_channel"])
def test_a_random_first_pattern_keeps_the_scale_unless_told(name: str) -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 40), nn.ReLU(), nn.Linear(40, 5))
    batch = [(torch.randn(2, 3, 6, 6), torch.zeros(2).long())]
    for options, scale in (({}, rescaled), ({"initialize": "keep"}, torch.mul)):
        method = sk.methods.get(name)(sparsity=0.8, total_steps=60, steps_per_epoch=10, **options)
        model = sk.sparsify(copy.deepcopy(net), method, batches=batch, loss=cross_entropy)
        sparse = [n for n, m in model.named_modules() if isinstance(m, PatternLayer)]
        assert len(sparse) == (2 if name == "dsr" else 3)
        for layer, dense in ((model.get_submodule(n), net.get_submodule(n)) for n in sparse):
            torch.testing.assert_close(layer.weight.detach(), scale(dense.weight.detach(), layer.topology.mask()))


def test_weights_that_were_scored_or_given_stay_as_they_are() -> None:
    net, batch = network(), [(torch.randn(4, 30), torch.zeros(4).long())]
    masks = {name: torch.rand(net.get_submodule(name).weight.shape) < 0.5 for name in ("0", "2", "4")}
    for method, options in (
        (sk.methods.snip(0.8), {"batches": batch, "loss": cross_entropy}),
        (sk.methods.magnitude_init(0.8), {}),
        (sk.methods.rigl(0.5, 100), {"masks": masks}),
        (sk.methods.gmp(0.8, 100, 10), {}),
    ):
        model = sk.sparsify(copy.deepcopy(net), method, **options)  # type: ignore[arg-type]
        for name in ("0", "2", "4"):
            layer, dense = model.get_submodule(name), net.get_submodule(name)
            assert torch.equal(layer.weight.detach(), dense.weight.detach() * layer.topology.mask())


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("gse_grabo", {}),
        ("gse_graest", {"initialize": "evci"}),
        ("random", {"initialize": "fan_in"}),
        ("set", {"initialize": "fan_in", "every": 1, "share": "uniform"}),
        ("rigl", {"initialize": "fan_in"}),
    ],
)
def test_weights_drawn_for_the_fan_in(name: str, options: dict) -> None:
    torch.manual_seed(0)
    model = sk.sparsify(nn.Linear(500, 400), sk.methods.get(name)(sparsity=0.9, total_steps=100, **options))
    fan_in = model.row_ptr.diff().repeat_interleave(model.row_ptr.diff())
    assert fan_in.numel() == 20000
    drawn = model.values.detach()[: fan_in.numel()] * fan_in.sqrt()
    variance = 2 if options.get("initialize") == "evci" else 1
    assert float(drawn.var()) == pytest.approx(variance, rel=0.03)
    assert float(drawn.abs().max()) == pytest.approx((3 * variance) ** 0.5, rel=0.01)  # uniform
    with pytest.raises(ValueError, match="initialize must be"):
        sk.methods.get(name)(sparsity=0.9, total_steps=100, **options | {"initialize": "orthogonal"})


@pytest.mark.parametrize("name", ["dpf", "snr"])
def test_the_classifier_is_the_last_layer_of_the_network_not_of_those_left(name: str) -> None:
    method = sk.methods.get(name)(sparsity=0.5, total_steps=8, steps_per_epoch=2)
    for exclude, left in ((["2"], [0, 1]), (["0"], [1])):
        model = sk.sparsify(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)), method, exclude=exclude)
        assert [i for i, layer in enumerate(model) if isinstance(layer, sk.MaskedLinear)] == left
    with pytest.raises(ValueError, match=f"exclude leaves none of the layers that {name} prunes: 0"):
        sk.sparsify(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)), method, exclude=["0"])


def test_exclude_takes_names_and_globs() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
            self.head = nn.Linear(4, 2)

    assert len(layers(sk.sparsify(Net(), 0.5, exclude=["head"]))) == 2
    assert len(layers(sk.sparsify(Net(), 0.5, exclude="body.*"))) == 1
    with pytest.raises(ValueError, match=r"'tail' matches none of the layers body.0, body.1, head"):
        sk.sparsify(Net(), 0.5, exclude=["tail"])
    with pytest.raises(ValueError, match="exclude leaves no linear layer or convolution"):
        sk.sparsify(Net(), 0.5, exclude=["*"])


def test_include_takes_what_the_method_leaves_out() -> None:
    def vit() -> nn.Module:
        parts = {"patches": nn.Conv2d(3, 8, 2, 2), "blocks": nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 8))}
        return nn.ModuleDict({**parts, "head": nn.Linear(8, 2)})

    method = sk.methods.dpf(0.5, 30, 3)
    for options, expected in (
        ({}, ["patches"]),
        ({"include": "blocks.*"}, ["patches", "blocks.0", "blocks.1"]),
        ({"include": ["*"], "exclude": "blocks.0"}, ["patches", "blocks.1", "head"]),
    ):
        model = sk.sparsify(vit(), method, **options)  # type: ignore[arg-type]
        assert [name for name, m in model.named_modules() if isinstance(m, PatternLayer)] == expected
    with pytest.raises(ValueError, match=r"include pattern 'bloks' matches none of the layers patches"):
        sk.sparsify(vit(), method, include=["bloks"])
    with pytest.raises(ValueError, match="include adds nothing"):
        sk.sparsify(vit(), 0.5, include="*", masks={"head": torch.ones(2, 8, dtype=torch.bool)})


def test_masks_and_their_errors() -> None:
    model, mask = network(), torch.rand(40, 30) < 0.5
    sk.sparsify(model, 0.0, masks={"0": mask})
    assert torch.equal(model[0].topology.mask(), mask)
    assert type(model[2]) is nn.Linear
    with pytest.raises(ValueError, match=r"mask of 0 must be a bool tensor of shape \(40, 30\)"):
        sk.sparsify(network(), 0.0, masks={"0": mask.t()})
    with pytest.raises(ValueError, match="masks name 7"):
        sk.sparsify(network(), 0.0, masks={"7": mask})


def test_shared_modules_and_shared_weights() -> None:
    shared = nn.Linear(8, 8)
    model = sk.sparsify(nn.Sequential(shared, nn.ReLU(), shared), 0.5)
    assert model[0] is model[2]
    assert isinstance(model[0], sk.SparseLinear)
    tied = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8))
    tied[1].weight = tied[0].weight
    with pytest.warns(UserWarning, match=r"2 Linear with 50.0% \(0, 1\): shares a parameter"):
        sk.sparsify(tied, 0.5)
    assert [type(m) for m in tied] == [nn.Linear, nn.Linear, sk.SparseLinear]


def test_weights_that_are_computed_stay_dense() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 3)))
    model.append(prune.random_unstructured(nn.Conv2d(4, 4, 3), "weight", 0.5))
    with pytest.warns(UserWarning, match=r"1 Conv2d with 36.0% \(2\): computes its weight"):
        sk.sparsify(model, 0.5)
    assert [isinstance(m, sk.SparseConv2d) for m in model] == [True, False, False]
    model(torch.randn(1, 3, 8, 8)).sum().backward()


class Conv1D(nn.Module):
    """A linear layer of transformers' GPT-2: the weight lies the other way round."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(8, 8)), nn.Parameter(torch.zeros(8))


class ScaledConv(nn.Conv2d):
    """A subclass that does something else."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(input)


class Experts(nn.Module):
    """Stacked weights of several linear layers, and embeddings of positions."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.randn(4, 8, 8))
        self.pos_embed = nn.Parameter(torch.randn(100, 100))


OTHERS = [
    (Conv1D, 64, "no sparse layer"), (lambda: nn.Bilinear(2, 3, 4), 24, "no sparse layer"),
    (lambda: nn.ConvTranspose2d(2, 2, 3, groups=2), 18, "no sparse layer of transposed convolutions in groups"),
    (lambda: nn.GRU(4, 4), 96, "left dense unless"), (lambda: ScaledConv(2, 2, 3), 36, "a subclass"),
    (Experts, 256, "no sparse layer"), (lambda: nn.utils.spectral_norm(nn.Linear(8, 8)), 64, "computes its weight"),
    (lambda: nn.utils.parametrizations.orthogonal(nn.Linear(8, 8)), 64, "computes its weight"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "size", "why"), OTHERS)
def test_what_stays_dense_is_said(
    make: Any, size: int, why: str, caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    """Once, aloud where it is more than a tenth; always in the log and in the report. Embeddings do not count."""
    for width in (2, 200):
        model = nn.Sequential(nn.Embedding(1000, 8), nn.Linear(10, width), make())
        share = size / (size + 10 * width)
        line = f"of the model's {size + 10 * width} weights are in sparse layers; dense: 1 {type(model[2]).__name__}"
        recwarn.clear()
        with caplog.at_level("INFO", "sparsekern"):
            caplog.clear()
            sk.sparsify(model, 0.5)
        said = [record.getMessage() for record in caplog.records]
        assert len(said) == 1
        assert said[0].startswith(f"{1 - share:.1%} {line} with {share:.1%} (2): {why}")
        assert [str(w.message) for w in recwarn] == (said if share > 0.1 else [])
        optimizer = sk.Sparsifier(model, torch.optim.SGD(model.parameters(), lr=0.1), sk.methods.random(0.5))
        assert said[0] in str(optimizer.report())
    with pytest.raises(ValueError, match=rf"the model has no linear layer or convolution.* 100.0% \(0\): {why}"):
        sk.sparsify(nn.Sequential(make()), 0.5)


def test_what_was_excluded_needs_no_warning(recwarn: pytest.WarningsRecorder) -> None:
    sk.sparsify(network(), 0.5, exclude=["0"])
    sk.sparsify(network(), 0.5, masks={"0": torch.rand(40, 30) < 0.5})
    assert not recwarn.list
    with pytest.warns(UserWarning, match=r"1 Linear with 25.0% \(1\): not in the scope of dpf \(include= takes it\)"):
        sk.sparsify(nn.Sequential(nn.Linear(6, 2), nn.Linear(2, 2)), sk.methods.dpf(0.5, 30, 3))


def test_layers_without_a_shape() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.LazyLinear(3))
    with pytest.raises(ValueError, match=r"1 \(LazyLinear\) has no shape yet: run one batch first"):
        sk.sparsify(model, 0.5)
    model(torch.randn(2, 4))
    assert len(layers(sk.sparsify(model, 0.5))) == 2


@pytest.mark.parametrize("form", ["float", "random", "set", "masks"])
def test_a_first_pattern_that_empties_a_layer_warns(form: str, recwarn: pytest.WarningsRecorder) -> None:
    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(60, 60), nn.Linear(60, 1), nn.Linear(1, 2))

    if form == "masks":
        off = {"0": torch.ones(60, 60, dtype=torch.bool), "1": torch.zeros(1, 60, dtype=torch.bool)}
        sk.sparsify(model(), 0.5, masks=off)
        assert [str(w.message).partition(";")[0] for w in recwarn] == ["layer collapse: 1 has no weight left"]
        return
    method: Any = 0.97 if form == "float" else sk.methods.get(form)(0.97, 30, 3, share="uniform")
    recwarn.clear()
    sk.sparsify(model(), method, distribution="uniform")
    assert [str(w.message).partition(";")[0] for w in recwarn] == ["layer collapse: 2 has no weight left"]
    assert 'distribution="erk"' in str(recwarn[0].message)
    recwarn.clear()
    sparse = sk.sparsify(model(), method, distribution="erk")
    assert not recwarn.list
    assert all(layer.topology.nnz for layer in layers(sparse))


def test_an_attention_layer_keeps_working() -> None:
    model = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0.0)
    sk.sparsify(model, 0.5)
    assert isinstance(model.linear1, sk.SparseLinear)
    x = torch.randn(2, 5, 16)
    output = model(x)
    output.sum().backward()
    with torch.no_grad():  # now it reads the weights of its layers
        torch.testing.assert_close(model.eval()(x), output)


def test_scoring_leaves_the_model_untouched() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3)).eval()
    model[0].weight.requires_grad_(False)
    model[1].eval()
    before = copy.deepcopy(model.state_dict())
    data = [(torch.randn(4, 6), torch.randint(3, (4,)))] * 2
    random = torch.random.get_rng_state()
    gradients = mean_gradient(model, [model[0].weight, model[3].weight], data, cross_entropy)
    assert torch.equal(torch.random.get_rng_state(), random)
    assert [tuple(g.shape) for g in gradients] == [(8, 6), (3, 8)]
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())
    assert not any(m.training for m in model.modules())
    assert not model[0].weight.requires_grad
    assert all(p.grad is None for p in model.parameters())


def test_scoring_methods_ask_for_data() -> None:
    with pytest.raises(ValueError, match=r"pass batches=.*loss="):
        sk.sparsify(network(), sk.methods.snip(sparsity=0.5))
    with pytest.raises(ValueError, match="1 or more batches"):
        sk.sparsify(network(), sk.methods.snip(sparsity=0.5), batches=[], loss=cross_entropy)


@pytest.mark.parametrize(
    ("name", "minimum", "expected"), [("dpf", 6, "keeps 12 of 32"), ("dpf_filter", -1, "at least 0")]
)
def test_a_minimum_that_the_sparsity_does_not_leave(name: str, minimum: int, expected: str) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    with pytest.raises(ValueError, match=expected):
        sk.sparsify(model, sk.methods.get(name)(0.7, 8, 4, min_per_layer=minimum))
    sk.sparsify(model, sk.methods.dpf(0.7, 8, 4, min_per_layer=5))


@pytest.mark.parametrize("name", ["dpf", "synflow", "prospr"])
def test_a_distribution_that_a_method_does_not_use(name: str) -> None:
    options = {"batches": [(torch.rand(4, 4), torch.rand(4, 2))] * 4, "loss": nn.functional.mse_loss}
    with pytest.warns(UserWarning, match="distribution is not used"):
        sk.sparsify(nn.Sequential(nn.Linear(4, 2)), sk.methods.get(name)(0.5, 8, 4), distribution="erk", **options)


def test_weights_that_no_kernel_takes_stay_dense() -> None:
    model: Any = nn.ModuleDict({name: nn.Linear(8, 8) for name in ("integers", "narrow", "quantized", "usual")})
    model["complex"] = nn.Linear(8, 8, dtype=torch.complex64)
    weights = {
        "integers": torch.ones(8, 8, dtype=torch.int8),
        "narrow": torch.ones(8, 8).to(torch.float8_e4m3fn),
        "quantized": TwoTensor(torch.ones(8, 8), torch.ones(8, 8)),
    }
    for name, weight in weights.items():
        model[name].weight = nn.Parameter(weight, requires_grad=False)
    with pytest.warns(UserWarning, match=r"its weight is of torch\.int8") as told:
        sk.sparsify(model, 0.5)
    text = "".join(str(warning.message) for warning in told)
    assert all(part in text for part in ("of torch.float8_e4m3fn", "a TwoTensor (quantized?)", "of torch.complex64"))
    assert [name for name, layer in model.items() if isinstance(layer, sk.SparseLinear)] == ["usual"]
