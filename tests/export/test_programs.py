"""Graphs of models with sparse layers: by `torch.export`, by `torch.jit.trace`, and by operators of PyTorch alone."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.networks import convnet
from torch import Tensor, nn

import sparsekern as sk
from sparsekern.nn import MaskedLayer, PatternLayer
from sparsekern.nn.plain import plain_output
from sparsekern.sparsity.methods.soft_threshold import SoftThreshold

STORAGES = ["nonzeros", "master", "transform"]


def model_of(storage: str) -> nn.Module:
    """A convolutional network in evaluation mode, with slack in the layers that hold their nonzeros."""
    torch.manual_seed(0)
    method = sk.methods.gse_grabo(sparsity=0.7, total_steps=20)
    if storage != "nonzeros":
        method = sk.methods.dpf(sparsity=0.7, total_steps=20, steps_per_epoch=5)
    model = sk.sparsify(convnet(), method, include="*").eval()
    for layer in model.modules():
        if isinstance(layer, MaskedLayer) and storage == "transform":
            layer.transform = SoftThreshold(-3.0, layer.stored)
    return model


@pytest.mark.parametrize("storage", STORAGES)
def test_the_plain_product_is_the_layer(storage: str) -> None:
    model, x = model_of(storage), torch.randn(4, 3, 6, 6)
    expected, checked = model(x), 0
    seen: list[tuple[PatternLayer, Tensor, Tensor]] = []
    for layer in model.modules():
        if isinstance(layer, PatternLayer):
            layer.register_forward_hook(lambda layer, inputs, output: seen.append((layer, inputs[0], output)))
    assert torch.equal(model(x), expected)
    for layer, input, output in seen:
        torch.testing.assert_close(plain_output(layer, input), output)
        checked += 1
    assert checked == 5


def test_programs_run_without_the_layers(tmp_path: Path) -> None:
    models, x, other = [model_of(storage) for storage in STORAGES], torch.randn(4, 3, 6, 6), torch.randn(7, 3, 6, 6)
    for i, model in enumerate(models):
        program = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
        assert "sparsekern" in program.graph_module.code
        torch.testing.assert_close(program.module()(other), model(other))
        torch.export.save(program, tmp_path / f"{i}.pt2")
    torch.save(other, tmp_path / "input.pt")
    code = f"""
import torch
import sparsekern.ops
programs = [torch.export.load(f"{{i}}.pt2").module() for i in range({len(models)})]
torch.save([program(torch.load("input.pt")) for program in programs], "outputs.pt")
"""
    environment = os.environ | {"PYTHONPATH": str(Path(sk.__file__).parents[1])}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env=environment)
    for model, output in zip(models, torch.load(tmp_path / "outputs.pt"), strict=True):
        torch.testing.assert_close(output, model(other))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("storage", STORAGES)
def test_traces(storage: str, tmp_path: Path) -> None:
    model, x = model_of(storage).requires_grad_(False), torch.randn(4, 3, 6, 6)
    traced = torch.jit.trace(model, x)
    other = torch.randn(7, 3, 6, 6)
    torch.testing.assert_close(traced(other), model(other))
    torch.jit.save(traced, tmp_path / "traced.pt")
    torch.testing.assert_close(torch.jit.load(tmp_path / "traced.pt")(other), model(other))
