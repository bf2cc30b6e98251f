"""Writes and reads the files of the formats."""

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import RunError, UsageError, choose, first_line, require
from ..nn import densify
from ..nn.conversion.saved import patterned
from ..training.files import write, write_safetensors
from . import onnx
from .states import csr_state, nonzeros

FORMATS = {  # and the names of their files in the folder of a run
    "dense": "dense.pt",
    "csr": "csr.pt",
    "safetensors": "nonzeros.safetensors",
    "onnx": "model.onnx",
}


def check_free(path: Path, overwrite: bool) -> None:
    """Raises a `UsageError` if there is a file that is not to be overwritten, or no folder for it."""
    if path.is_dir():
        raise UsageError(f"{path} is a folder: expected the name of a file")
    if path.exists() and not overwrite:
        raise UsageError(f"{path} exists already: choose another file, or overwrite it")
    if not path.parent.is_dir():
        raise UsageError(f"cannot write {path}: there is no folder {path.parent}")


def save(
    model: nn.Module,
    path: str | Path,
    format: str,
    *,
    example: Tensor | tuple[Tensor, ...] | None = None,
    overwrite: bool = False,
) -> None:
    """Writes a model for other programs. The file appears whole or not at all; the model stays as it is.

    Args:
        format: "dense", the state dict of the network of plain PyTorch, zeros in place (`torch.save`, or safetensors if
            the path ends so); "csr", the same with CSR tensors of PyTorch; "safetensors", values, row pointers and
            columns; "onnx", a graph.
        example: for "onnx", an input or a tuple of several, whose first dimension is the batch.
        overwrite: replace the file that is there.

    Raises:
        UsageError: an unknown format, a file that exists, no folder for it, or a missing package.
        RunError: the file cannot be written.
    """
    path = Path(path)
    choose("format", format, list(FORMATS))
    check_free(path, overwrite)
    if format == "safetensors":
        write_safetensors(path, nonzeros(model))
    elif format == "onnx":
        if example is None:
            raise UsageError("an ONNX graph needs example=, an input of the model")
        graph = onnx.program(model, example)
        write(path, lambda file: graph.save(file, external_data=False))
    elif format == "csr":
        _write_state(path, csr_state(model))
    elif path.suffix == ".safetensors":
        write_safetensors(path, densify(copy.deepcopy(model)))
    else:
        _write_state(path, densify(copy.deepcopy(model)).state_dict())


def _write_state(path: Path, state: dict[str, Tensor]) -> None:
    try:
        write(path, lambda file: torch.save(state, file))
    except RunError:
        raise
    except RuntimeError as error:  # which torch makes of what the system says
        raise RunError(f"cannot write {path}: {first_line(error)}") from error


def load(model: nn.Module, path: str | Path) -> nn.Module:
    """Gives a model what a file of format "dense", "csr" or "safetensors" holds, or the `model.safetensors` of a
    run. Dense layers whose weights are sparse in the file are exchanged for sparse ones.

    Returns:
        The model; another one if it is itself such a layer.

    Raises:
        UsageError: there is no such file, or it is damaged.
        ValueError, RuntimeError: it is of another model.

    Examples:
        >>> save(sk.sparsify(model, 0.9), "nonzeros.safetensors", "safetensors")
        >>> model = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 10))
        >>> model = load(model, "nonzeros.safetensors")  # the same network
    """
    path = Path(path)
    try:
        state = _read(path)
    except Exception as error:  # what is no such file raises whatever its bytes happen to mean
        raise UsageError(f"cannot read {path}: {first_line(error)}") from error
    model = patterned(model, state)
    if path.suffix == ".safetensors":  # knows of tensors that it has left out, since two names share them
        require("safetensors.torch").load_model(model, path)
    else:
        model.load_state_dict(state)
    return model


def _read(path: Path) -> dict[str, Any]:
    if path.suffix == ".safetensors":
        return require("safetensors.torch").load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)
