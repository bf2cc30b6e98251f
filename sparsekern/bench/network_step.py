"""A training step of a network, dense, masked or sparse, for benchmarks."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..errors import UsageError
from ..models import build
from ..nn import prunable_layers
from ..sparsity import sparsify
from ..topology import Topology, nnz_at
from ..training.files import read_json
from .timing import synchronize

SHAPE, CLASSES, BATCH, SPARSITY = (3, 32, 32), 10, 128, 0.95

Masks = dict[str, Tensor]


@dataclass(frozen=True)
class Pattern:
    """The pattern of a sparse network: uniformly random, or as a run of `sparsekern train` left them."""

    name: str = "uniform"
    folder: Path | None = None
    sparsity: float = SPARSITY  # of every layer, where it is uniform

    @classmethod
    def of_run(cls, folder: Path) -> tuple[str, Pattern]:
        """The network of the run in this folder, and the pattern it ended with, named by its method.

        Raises:
            UsageError: the folder holds no finished run.
        """
        if not (folder / "model.safetensors").is_file():
            raise UsageError(f"{folder} holds no finished run: there is no model.safetensors in it")
        config = read_json(folder / "config.json", {"model": str, "method": str})
        return config["model"], cls(config["method"], folder)

    def masks(self, network: nn.Module) -> Masks:
        """Bool masks of the network's layers: every layer at `sparsity`, or the ones of the run's model.safetensors."""
        layers: dict[str, Any] = prunable_layers(network)
        shapes: dict[str, torch.Size] = {name: layer.weight.shape for name, layer in layers.items()}
        if self.folder is None:
            generator = torch.Generator().manual_seed(0)
            return {
                name: Topology.random(shape, nnz_at(self.sparsity, shape.numel()), generator=generator).mask()
                for name, shape in shapes.items()
            }
        state = load(self.folder)
        if absent := [name for name in shapes if f"{name}.col" not in state or f"{name}.row_ptr" not in state]:
            raise RuntimeError(f"{self.folder} holds no sparse layer {absent[0]}")
        return {n: Topology(tuple(shapes[n]), state[f"{n}.row_ptr"], state[f"{n}.col"]).mask() for n in shapes}


def load(folder: Path) -> dict[str, Tensor]:
    """The model.safetensors of a run."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(folder / "model.safetensors")
    except (OSError, SafetensorError) as error:
        raise RuntimeError(f"{folder / 'model.safetensors'} is damaged: {error}") from error


class _Mask(nn.Module):
    """A dense weight times its mask: what most pruning code does."""

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask.float())

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.mask


def _sparseprop(network: nn.Module, masks: Masks, batch: int) -> nn.Module:
    """Returns the network with those layers by SparseProp that are faster so, as its own function finds them."""
    from sparseprop.utils import swap_modules_with_sparse  # type: ignore[import-not-found]

    with torch.no_grad():
        for name, mask in masks.items():
            weight: Any = network.get_submodule(name).weight
            weight.mul_(mask)
    with contextlib.redirect_stdout(io.StringIO()):
        return swap_modules_with_sparse(network, (batch, *SHAPE))


class Training:
    """Training steps of a network, one a call.

    Attributes:
        device: where `network` and its input are.
    """

    network: nn.Module
    optimizer: torch.optim.Optimizer
    device: torch.device

    def loss(self) -> Tensor:
        """Returns the loss of a forward pass."""
        raise NotImplementedError

    def __call__(self) -> None:
        self.optimizer.zero_grad()
        self.loss().backward()
        self.optimizer.step()
        synchronize(self.device)


class Step(Training):
    """Training steps of one variant of a network with SGD and momentum, on a batch of noise; `dtype` is that of
    autocast, if not "float32". A variant is dense, masked, sparseprop or sparsekern; its name says whether images are
    in channels_last, whether autocast is to bf16, and whether the step is compiled.

    Raises:
        RuntimeError: SparseProp cannot make such a network.
    """

    def __init__(
        self,
        model: str,
        variant: str,
        pattern: Pattern,
        batch: int = BATCH,
        width: float = 1.0,
        device: str = "cpu",
        dtype: str = "float32",
    ) -> None:
        torch.manual_seed(0)
        self.network = build(model, SHAPE, CLASSES, width)
        self.masks: Masks = {}
        kind = variant.partition("-")[0]
        if kind != "dense":
            masks = self.masks = pattern.masks(self.network)
            self.sparsity = 1 - sum(int(m.sum()) for m in masks.values()) / sum(m.numel() for m in masks.values())
            if kind == "sparsekern":
                self.network = sparsify(self.network, SPARSITY, masks=masks)
            if kind == "sparseprop":
                self.network = _sparseprop(self.network, masks, batch)
            for name, mask in masks.items() if kind == "masked" else ():
                parametrize.register_parametrization(self.network.get_submodule(name), "weight", _Mask(mask))
        else:
            self.sparsity = 0.0
        layout = torch.channels_last if "channels-last" in variant else torch.contiguous_format
        self.network = self.network.to(device, memory_format=layout).train()  # type: ignore[call-overload]
        dtype = "bfloat16" if "bf16" in variant else dtype
        self.device, self.narrow = torch.device(device), getattr(torch, dtype) if dtype != "float32" else None
        self.forward: Any = torch.compile(self.network) if variant.endswith("compiled") else self.network
        self.optimizer = torch.optim.SGD(self.network.parameters(), lr=1e-3, momentum=0.9)
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(batch, *SHAPE, generator=generator).to(device).contiguous(memory_format=layout)
        self.y = torch.randint(CLASSES, (batch,), generator=generator).to(device)

    def loss(self) -> Tensor:
        with torch.autocast(self.device.type, self.narrow, enabled=self.narrow is not None):
            return nn.functional.cross_entropy(self.forward(self.x), self.y)

    def double(self) -> Step:
        """Goes on in fp64, from the same weights and images."""
        self.network, self.x = self.network.double(), self.x.double()
        return self

    def gradients(self) -> dict[str, Tensor]:
        """The output and the gradient of every Parameter by its name, of the weights at hand."""
        self.network.zero_grad()
        output = self.forward(self.x)
        nn.functional.cross_entropy(output, self.y).backward()
        found = {name: p.grad.detach().clone() for name, p in self.network.named_parameters() if p.grad is not None}
        self.network.zero_grad()
        return {"output": output.detach(), **found}


def error(step: Step, masked: dict[str, Tensor]) -> float:
    """The largest distance of a network's output and gradients from those of the masked one, relative to the norm of
    each tensor, or to a tenth of the largest of all: the gradient of a bias before batch norm is zero but for
    rounding."""
    ours, worst = step.gradients(), 0.0
    least = 0.1 * max(float(exact.norm()) for exact in masked.values())
    for name, exact in masked.items():
        layer, _, last = name.rpartition(".parametrizations.weight.")
        if name not in ours and last == "original":
            found, exact = _of_layer(step, layer, ours, exact)
        else:
            found = ours[name]
        distance = float((found - exact).norm()) / max(least, float(exact.norm()))
        worst = max(worst, distance if distance == distance else float("inf"))
    return worst


def _of_layer(step: Step, name: str, ours: dict[str, Tensor], exact: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the gradient of a layer's weight, and the part of the masked weight's that the layer has."""
    layer: Any = step.network.get_submodule(name)
    if hasattr(layer, "topology"):
        return ours[f"{name}.values"], layer.topology.gather(exact)
    mask = step.masks[name]
    if hasattr(layer, "W_val"):  # of SparseProp, row by row
        return ours[f"{name}.W_val"], exact[mask]
    return ours[f"{name}.weight"] * mask, exact
