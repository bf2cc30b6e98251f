"""What other programs make of sparse models: onnxruntime, torchao, TensorBoard."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from support.networks import convnet
from torch import Tensor, nn

import sparsekern as sk
from sparsekern import export
from sparsekern.cli import main
from sparsekern.nn import PatternLayer
from sparsekern.training.trained import trained

onnxruntime = pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")

METHODS = ["gse_grabo", "dpf", "str"]


def model_of(name: str) -> nn.Module:
    torch.manual_seed(0)
    options = {"initial": -4.0} if name == "str" else {}
    method = sk.methods.get(name)(sparsity=0.8, total_steps=20, steps_per_epoch=5, **options)
    return sk.sparsify(convnet(), method, include="*").eval()


def run(path: Path, *inputs: Tensor) -> Tensor:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]
    return torch.from_numpy(session.run(None, dict(zip(names, [x.numpy() for x in inputs], strict=True)))[0])


# ---- ONNX


@pytest.mark.parametrize("name", METHODS)
def test_onnxruntime_computes_the_same(name: str, tmp_path: Path) -> None:
    model = model_of(name)
    export.save(model, tmp_path / "model.onnx", "onnx", example=torch.randn(2, 3, 6, 6))
    onnx.checker.check_model(str(tmp_path / "model.onnx"))
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    for batch in (1, 7):
        x = torch.randn(batch, 3, 6, 6)
        torch.testing.assert_close(run(tmp_path / "model.onnx", x), model(x).detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", METHODS)
def test_a_sparse_model_is_exported_as_any_other(name: str, tmp_path: Path) -> None:
    model, x = model_of(name), torch.randn(3, 3, 6, 6)
    torch.onnx.export(model, (x,), tmp_path / "model.onnx", dynamo=True, external_data=False, verbose=False)
    torch.testing.assert_close(run(tmp_path / "model.onnx", x), model(x).detach(), rtol=1e-4, atol=1e-5)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x))


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: nn.Sequential(nn.Conv1d(4, 8, 3, padding=1), nn.ReLU(), nn.Conv1d(8, 4, 3, groups=2)), (4, 10)),
        (lambda: nn.Sequential(nn.ConvTranspose2d(4, 8, 3, stride=2, output_padding=1)), (4, 5, 5)),
        (lambda: nn.Sequential(nn.Conv3d(4, 8, 3, padding="same")), (4, 5, 5, 5)),
        (Attention, (5, 16)),
    ],
)
def test_other_layers(make: Any, shape: tuple[int, ...], tmp_path: Path) -> None:
    plain = make().eval()
    model = sk.sparsify(copy.deepcopy(plain), 0.8, include="*").eval()
    export.save(model, tmp_path / "model.onnx", "onnx", example=torch.randn(2, *shape))
    x = torch.randn(3, *shape)
    torch.testing.assert_close(run(tmp_path / "model.onnx", x), model(x).detach(), rtol=1e-4, atol=1e-5)
    for format in ("csr", "safetensors", "dense"):
        file = tmp_path / f"{format}.{'safetensors' if format == 'safetensors' else 'pt'}"
        export.save(model, file, format)
        torch.testing.assert_close(export.load(copy.deepcopy(plain), file)(x), model(x))


def test_the_file_holds_the_nonzeros_and_the_weight_is_scattered_once(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(1000, 900), nn.ReLU(), nn.Linear(900, 10))
    model = sk.sparsify(model, 0.95, include="*").eval()
    x = torch.randn(4, 1000)
    export.save(model, tmp_path / "model.onnx", "onnx", example=x)
    nnz = sum(layer.topology.nnz for layer in model.modules() if isinstance(layer, PatternLayer))
    assert (tmp_path / "model.onnx").stat().st_size < 1.1 * 8 * nnz + 4 * 910 + 10_000
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "loaded.onnx")
    onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), options, providers=["CPUExecutionProvider"])
    assert "ScatterElements" not in {node.op_type for node in onnx.load(tmp_path / "loaded.onnx").graph.node}
    torch.testing.assert_close(run(tmp_path / "model.onnx", x), model(x).detach(), rtol=1e-4, atol=1e-5)


def test_a_weight_that_is_hardly_sparse_is_dense_in_the_graph(tmp_path: Path) -> None:
    model, x = sk.sparsify(nn.Sequential(nn.Linear(1000, 900)), 0.2, include="*").eval(), torch.randn(4, 1000)
    export.save(model, tmp_path / "model.onnx", "onnx", example=x)
    assert (tmp_path / "model.onnx").stat().st_size < 4 * 900 * 1001 + 10_000
    torch.testing.assert_close(run(tmp_path / "model.onnx", x), model(x).detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "flags", [["--model", "smallcnn", "--method", "rigl"], ["--model", "lenet300", "--method", "dnw"]]
)
def test_the_command(flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "run"
    line = ["train", *flags, "--width", "0.5", "--sparsity", "0.8", "--epochs", "1", "--threads", "1"]
    assert main([*line, "--out", str(out)]) == 0
    assert main(["export", str(out), "--format", "onnx"]) == 0
    assert f"{out / 'model.onnx'}: onnx, " in capsys.readouterr().out
    found = trained(out)
    x = torch.randn(5, *found.shape)
    torch.testing.assert_close(run(out / "model.onnx", x), found.model(x).detach(), rtol=1e-4, atol=1e-5)


# ---- torchao, TensorBoard


def test_torchao_keeps_the_zeros() -> None:
    quantization = pytest.importorskip("torchao.quantization")
    model = sk.sparsify(nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 32)), 0.8, include="*").eval()
    x, masks = torch.randn(8, 64), [layer.topology.mask() for layer in model if isinstance(layer, PatternLayer)]
    expected = model(x)
    quantization.quantize_(sk.densify(model), quantization.Int8WeightOnlyConfig())
    torch.testing.assert_close(model(x), expected, rtol=0.05, atol=0.05)
    layers = [layer for layer in model if isinstance(layer, nn.Linear)]
    for layer, mask in zip(layers, masks, strict=True):
        weight: Any = layer.weight
        assert not weight.dequantize()[~mask].any()
        assert bool(weight.dequantize()[mask].any())


@pytest.mark.filterwarnings("ignore")
def test_tensorboard_draws_the_graph(tmp_path: Path) -> None:
    tensorboard = pytest.importorskip("torch.utils.tensorboard")
    model = model_of("gse_grabo")
    with tensorboard.SummaryWriter(str(tmp_path)) as writer:
        writer.add_graph(model, torch.randn(2, 3, 6, 6))
    (events,) = tmp_path.iterdir()
    assert b"sparsekern::" in events.read_bytes()


@pytest.mark.parametrize("storage", ["nonzeros", "master"])
@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM, nn.RNN])
def test_recurrent_layers(kind: type[nn.RNNBase], storage: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    method: Any = 0.8 if storage == "nonzeros" else sk.methods.dnw(sparsity=0.8, total_steps=9, steps_per_epoch=3)
    model = sk.sparsify(nn.Sequential(kind(16, 32, batch_first=True)), method, include=[kind]).eval()
    x = torch.randn(2, 3, 16)
    torch.onnx.export(model, (x,), tmp_path / "model.onnx", dynamo=True, external_data=False, verbose=False)
    torch.testing.assert_close(run(tmp_path / "model.onnx", x), model(x)[0].detach(), rtol=1e-4, atol=1e-5)
