"""Files hold exactly the nonzeros, for every method, and give the same network back."""

import copy
import io
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_model
from support.networks import convnet
from support.trajectories import OPTIMIZERS, SPARSE, batches, network, prepare, step
from torch import Tensor, nn

import sparsekern as sk
from sparsekern import export
from sparsekern.errors import RunError, UsageError
from sparsekern.nn import MaskedLayer, PatternLayer

CASES = [("linear", name) for name in SPARSE] + [("conv", "gse_grabo"), ("conv", "dpf")]


def size(state: Any) -> int:
    file = io.BytesIO()
    torch.save(state, file)
    return len(file.getvalue())


def check_nonzeros_only(model: nn.Module, file: Path) -> None:
    state = model.state_dict()
    for name, layer in model.named_modules():
        if isinstance(layer, PatternLayer):
            nnz = layer.topology.nnz
            assert state[f"{name}.col"].shape == (nnz,)
            assert isinstance(layer, MaskedLayer) or state[f"{name}.values"].shape == (nnz,)
    own = {name: tensor.clone() for name, tensor in state.items()}
    assert size(dict(state)) == size(own)
    save_model(model, str(file))
    assert file.stat().st_size < sum(tensor.nbytes for tensor in own.values()) + 200 * len(own)


@cache
def trained(kind: str, name: str) -> tuple[nn.Module, nn.Module, Tensor]:
    """A model that was trained with a method for some steps, a plain network for it, and an input."""
    model, sparsifier = prepare(kind, name, OPTIMIZERS["momentum"])
    data = batches(kind, 12)
    for batch in data:
        step(model, sparsifier, batch)
    return model.eval(), network(kind).eval(), data[0][0]


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_files_hold_the_nonzeros_only(kind: str, name: str, tmp_path: Path) -> None:
    model, _, x = trained(kind, name)
    check_nonzeros_only(model, tmp_path / "model.safetensors")
    bare = export.nonzeros(model)
    assert not any(isinstance(layer, MaskedLayer) for layer in bare.modules())
    check_nonzeros_only(bare, tmp_path / "bare.safetensors")
    torch.testing.assert_close(bare(x), model(x))


@pytest.mark.parametrize("file", ["nonzeros.safetensors", "csr.pt", "dense.pt", "dense.safetensors"])
@pytest.mark.parametrize(
    ("kind", "name"), [case for case in CASES if case[1] in ("gse_grabo", "dpf", "str", "lottery")]
)
def test_every_format_comes_back(kind: str, name: str, file: str, tmp_path: Path) -> None:
    model, plain, x = trained(kind, name)
    expected, path = model(x), tmp_path / file
    before = copy.deepcopy(model.state_dict())
    format = "safetensors" if file == "nonzeros.safetensors" else path.stem
    export.save(model, path, format)
    again = export.load(copy.deepcopy(plain), path)
    torch.testing.assert_close(again(x), expected)
    assert any(isinstance(layer, PatternLayer) for layer in again.modules()) == (format != "dense")
    if format != "dense":  # and into layers with other patterns
        dense = [name for name, layer in again.named_modules() if type(layer) in (nn.Linear, nn.Conv2d)]
        other = sk.sparsify(copy.deepcopy(plain), 0.5, include="*", exclude=dense)
        torch.testing.assert_close(export.load(other, path)(x), expected)
    if file == "dense.pt":
        copied = copy.deepcopy(plain)
        copied.load_state_dict(torch.load(path, weights_only=True))
        torch.testing.assert_close(copied(x), expected)
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())
    with pytest.raises(UsageError, match="exists already"):
        export.save(model, path, format)
    export.save(model, path, format, overwrite=True)
    assert [entry.name for entry in tmp_path.iterdir()] == [file]


def test_a_copy_goes_its_own_way() -> None:
    """A change of pattern does not take it for an average; no random number is drawn for it."""
    method = sk.methods.set(sparsity=0.7, total_steps=20, every=1)
    model = sk.sparsify(convnet(), method)
    optimizer = sk.Sparsifier(model, torch.optim.SGD(model.parameters(), lr=0.1), method)
    x, random = torch.randn(8, 3, 6, 6), torch.get_rng_state()
    copied, expected = export.nonzeros(model).eval(), model.eval()(x)
    export.csr_state(model)
    assert torch.equal(torch.get_rng_state(), random)
    while not optimizer.rewired:
        optimizer.zero_grad()
        model.train()(x).square().mean().backward()
        optimizer.step()
    torch.testing.assert_close(copied(x), expected)


def test_averages_hold_the_nonzeros_only(tmp_path: Path) -> None:
    method = sk.methods.gse_grabo(sparsity=0.8, total_steps=20, every=2)
    model = sk.sparsify(convnet(), method)
    average = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9))
    optimizer = sk.Sparsifier(model, torch.optim.SGD(model.parameters(), lr=0.1), method, followers=[average])
    for _ in range(6):
        optimizer.zero_grad()
        model(torch.randn(8, 3, 6, 6)).square().mean().backward()
        optimizer.step()
        average.update_parameters(model)
    patterns = [layer.topology for layer in model.modules() if isinstance(layer, PatternLayer)]
    assert any(pattern.capacity > pattern.nnz for pattern in patterns)
    check_nonzeros_only(model, tmp_path / "model.safetensors")
    check_nonzeros_only(average, tmp_path / "average.safetensors")


def test_csr_tensors_of_pytorch() -> None:
    weight = torch.randn(20, 12, 3, 3)
    for layer in (sk.SparseConv2d(12, 20, 3, sparsity=0.7), sk.MaskedConv2d(12, 20, 3, sparsity=0.7)):
        layer.weight.data.copy_(weight)
        csr = layer.sparse_weight.to_sparse_csr()
        assert csr.layout == torch.sparse_csr
        assert torch.equal(csr.to_dense().reshape(weight.shape), weight * layer.topology.mask())
        csr.to_dense().square().sum().backward()
        torch.testing.assert_close(layer.dense_gradient(), 2 * weight * layer.topology.mask())
        other = type(layer)(12, 20, 3, sparsity=0.5)
        wide = torch.sparse_csr_tensor(csr.crow_indices().long(), csr.col_indices().long(), csr.values(), csr.shape)
        other.load_state_dict({"weight": wide.detach(), "bias": layer.bias})
        assert isinstance(other, sk.SparseConv2d)  # nothing is known of the weights under the mask
        assert other.topology.same_pattern(layer.topology)
        assert torch.equal(other.dense_weight(), weight * layer.topology.mask())
    wrong = torch.zeros(20, 109).to_sparse_csr()
    with pytest.raises(RuntimeError, match=r"expected a CSR tensor of shape \(20, 108\), got \(20, 109\)"):
        other.load_state_dict({"weight": wrong, "bias": layer.bias})


def test_files_of_other_models(tmp_path: Path) -> None:
    model = sk.sparsify(nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 4)), 0.5, include="*")
    export.save(model, tmp_path / "model.safetensors", "safetensors")
    for other, message in (
        (nn.Sequential(nn.Linear(8, 7), nn.ReLU(), nn.Linear(7, 4)), "0: row_ptr must have 8 elements, got 7"),
        (nn.Sequential(nn.Linear(8, 6), nn.Linear(6, 4)), "2 has a sparsity pattern in the saved state, but does not"),
        (nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Bilinear(6, 6, 4)), "but is a Bilinear in the model"),
    ):
        with pytest.raises(ValueError, match=message):
            export.load(other, tmp_path / "model.safetensors")
    (tmp_path / "damaged.pt").write_bytes(b"PK damaged")
    for name in ("nothing.pt", "damaged.pt", "nothing.safetensors"):
        with pytest.raises(UsageError, match=f"cannot read .*{name}"):
            export.load(model, tmp_path / name)


def test_wrong_calls(tmp_path: Path) -> None:
    model = sk.SparseLinear(8, 6, sparsity=0.5)
    for path, format, message in (
        (tmp_path / "a", "scr", "unknown format 'scr'; did you mean csr"),
        (tmp_path, "csr", "is a folder"),
        (tmp_path / "nowhere" / "a", "csr", "there is no folder"),
        (tmp_path / "a", "onnx", "needs example="),
    ):
        with pytest.raises(UsageError, match=message):
            export.save(model, path, format)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("format", ["dense", "csr", "safetensors"])
def test_a_full_disk_leaves_the_old_file(format: str, tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    (tmp_path / "file").write_text("old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**14, before[1]))
    try:
        with pytest.raises(RunError, match=r"cannot write .*file"):
            export.save(sk.SparseLinear(128, 128, sparsity=0.1), tmp_path / "file", format, overwrite=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [entry.read_text() for entry in tmp_path.iterdir()] == ["old"]
