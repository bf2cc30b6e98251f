"""`sparsekern bench train`: whole training steps of networks: time, its parts, peak memory."""

from __future__ import annotations

import argparse
import gc
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..models import build
from ..nn import prunable_layers
from ..sparsity import sparsify
from ..topology import Topology, kept
from . import peak_memory
from .linear_peers import PEERS
from .peak_memory import median
from .report import card, header
from .step_parts import parts
from .timing import interleave, pinned, strict, synchronize

MODELS = ("vgg16", "resnet20")
VARIANTS = ("dense", "dense-channels-last", "masked", "sparsekern")
# What a careful user has, measured on request: `torch.compile` takes minutes.
FURTHER = (
    "dense-compiled",
    "dense-channels-last-compiled",
    "sparsekern-channels-last",
    "sparsekern-compiled",
    "sparsekern-channels-last-compiled",
)
SHAPE, CLASSES, BATCH, SPARSITY = (3, 32, 32), 10, 128, 0.95
BUDGET = 60.0  # seconds of samples per network
TOLERANCE = 1e-3

Masks = dict[str, Tensor]


@dataclass(frozen=True)
class Pattern:
    """The pattern of a sparse network: uniformly random, or as a run of `sparsekern train` left them."""

    name: str = "uniform"
    folder: Path | None = None

    @classmethod
    def of_run(cls, folder: Path) -> tuple[str, Pattern]:
        """The network of the run in this folder, and the pattern it ended with, named by its method.

        Raises:
            RuntimeError: the folder holds no finished run.
        """
        try:
            config = json.loads((folder / "config.json").read_text())
            (folder / "model.safetensors").stat()
            model, method = str(config["model"]), str(config["method"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RuntimeError(f"{folder} does not hold a finished run: {error!r}") from error
        return model, cls(method, folder)

    def masks(self, network: nn.Module) -> Masks:
        """Bool masks of the network's layers: every layer at `SPARSITY`, or the ones of the run's model.safetensors."""
        layers: dict[str, Any] = prunable_layers(network)
        shapes: dict[str, torch.Size] = {name: layer.weight.shape for name, layer in layers.items()}
        if self.folder is None:
            generator = torch.Generator().manual_seed(0)
            return {
                name: Topology.random(shape, kept(SPARSITY, shape.numel()), generator=generator).mask()
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


class Step:
    """Training steps of one variant of a network with SGD and momentum, on a batch of noise; `dtype` is that of
    autocast, if not "float32". A variant is dense, masked or sparsekern; its name says whether images are in
    channels_last and whether the step is compiled."""

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
        self.network: nn.Module = build(model, SHAPE, CLASSES, width)
        kind = variant.partition("-")[0]
        if kind in ("masked", "sparsekern"):
            masks = pattern.masks(self.network)
            self.sparsity = 1 - sum(int(m.sum()) for m in masks.values()) / sum(m.numel() for m in masks.values())
            if kind == "sparsekern":
                self.network = sparsify(self.network, SPARSITY, masks=masks)
            for name, mask in masks.items() if kind == "masked" else ():
                parametrize.register_parametrization(self.network.get_submodule(name), "weight", _Mask(mask))
        else:
            self.sparsity = 0.0
        layout = torch.channels_last if "channels-last" in variant else torch.contiguous_format
        self.network = self.network.to(device, memory_format=layout).train()  # type: ignore[call-overload]
        self.device, self.narrow = torch.device(device), getattr(torch, dtype) if dtype != "float32" else None
        self.forward: Any = torch.compile(self.network) if variant.endswith("compiled") else self.network
        self.optimizer = torch.optim.SGD(self.network.parameters(), lr=1e-3, momentum=0.9)
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(batch, *SHAPE, generator=generator).to(device).contiguous(memory_format=layout)
        self.y = torch.randint(CLASSES, (batch,), generator=generator).to(device)

    def __call__(self) -> None:
        self.optimizer.zero_grad()
        with torch.autocast(self.device.type, self.narrow, enabled=self.narrow is not None):
            loss = nn.functional.cross_entropy(self.forward(self.x), self.y)
        loss.backward()
        self.optimizer.step()
        synchronize(self.device)

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
        if last == "original" and name not in ours:
            topology: Any = step.network.get_submodule(layer).topology
            name, exact = f"{layer}.values", topology.gather(exact)
        distance = float((ours[name] - exact).norm()) / max(least, float(exact.norm()))
        worst = max(worst, distance if distance == distance else float("inf"))
    return worst


def run(
    *,
    threads: int | None = None,
    quick: bool = False,
    models: Sequence[str] = MODELS,
    runs: Sequence[Path] = (),
    compiled: bool = False,
    device: str = "cpu",
    progress: Callable[[str], Any] = lambda text: None,
    save: Callable[[dict], Any] = lambda report: None,
) -> dict:
    """A row per network, variant and pattern: a step with batch 128, 95 % of every layer's weights absent.

    `ms` are interleaved medians; `bytes` the peak memory of a process during training steps above that of the imported
    packages, resident or, on a GPU, allocated there; `parts` the milliseconds of a profiled step, by what they were
    spent on. On a GPU in bf16 by autocast, and in strict fp32. Compiled steps have times only, as compiling takes
    memory, too.

    Args:
        models: names of `--model`, for images of 32 x 32.
        runs: folders of `sparsekern train` whose final patterns are measured in the same rounds.
        compiled: also the dense and the sparse network under `torch.compile`, and in channels_last.

    Raises:
        RuntimeError: a folder without a run of one of the networks, or no memory to read.
    """
    patterns = [Pattern.of_run(folder) for folder in runs]
    if absent := {model for model, _ in patterns} - set(models):
        raise RuntimeError(f"the runs are of {', '.join(sorted(absent))}, but measured are {', '.join(models)}")
    threads = torch.get_num_threads() if threads is None else threads
    batch, budget = (4, 0.5) if quick else (BATCH, BUDGET)
    report = header("train", threads, [peer for peer in PEERS if peer.name in VARIANTS], device) | {"rows": []}
    for model, dtype in product(models, ("float32",) if device == "cpu" else ("bfloat16", "float32")):
        cells = [(variant, Pattern()) for variant in (*VARIANTS, *(FURTHER if compiled else ()))]
        cells += [("sparsekern", pattern) for owner, pattern in patterns if owner == model]
        with pinned(threads), strict():
            rows = _measure(model, cells, batch, budget, device, dtype)
        for row, (variant, pattern) in zip(rows, cells, strict=True):
            where = [] if pattern.folder is None else [str(pattern.folder)]
            child = [model, variant, str(batch), str(threads), device, dtype, pattern.name, *where]
            row["threads"] = threads
            if not variant.endswith("compiled"):
                row["bytes"] = median("sparsekern.bench.training_step", *child)["bytes"]
                row["bytes_ratio"] = round(row["bytes"] / rows[0]["bytes"], 4)
            progress(f"{row['case']} {dtype} {variant} {pattern.name}: {row['ms']} ms, {row['bytes']} bytes")
        report["rows"] += rows
        save(report)
    return report


def _measure(
    model: str, cells: list[tuple[str, Pattern]], batch: int, budget: float, device: str, dtype: str
) -> list[dict]:
    """The rows of one network, without memory. A sparse network gets a time only if it agrees with its masked twin in
    fp64, to `TOLERANCE` or to twice what rounding costs the masked twin in fp32, of the same layout and compiled or not
    as it is: the deep gradients of VGG-16 lose three digits."""
    make = partial(Step, model, batch=batch, device=device, dtype=dtype)
    steps = {f"{variant} {pattern.name}": make(variant, pattern) for variant, pattern in cells}
    rows = []
    for (variant, pattern), step in zip(cells, steps.values(), strict=True):
        row = {"case": f"step {model}/{SHAPE[1]}x{SHAPE[2]}", "impl": variant, "device": card(device), "dtype": dtype}
        row |= {"sparsity": round(step.sparsity, 6), "batch": batch, "pattern": pattern.name if step.sparsity else ""}
        row |= {"ms": None, "ratio_to_dense": None, "bytes": None, "bytes_ratio": None}
        if variant.startswith("sparsekern"):
            exact = make("masked", pattern).double().gradients()
            twin = make(variant.replace("sparsekern", "masked"), pattern)
            row["error"], allowed = error(step, exact), max(TOLERANCE, 2 * error(twin, exact))
            if not row["error"] <= allowed:
                row["missing"] = f"wrong: relative error {row['error']:.1e}, allowed {allowed:.1e}"
        rows.append(row)
    right = {name: step for (name, step), row in zip(steps.items(), rows, strict=True) if "missing" not in row}
    timings = interleave(dict(right), budget=budget)
    base = timings[f"dense {Pattern().name}"].median
    for name, row in zip(steps, rows, strict=True):
        if name in timings:
            row |= timings[name].columns(base)
            if device == "cpu" and not row["impl"].endswith("compiled"):
                row["parts"] = parts(right[name])
    return rows


def peak(model: str, variant: str, batch: int, pattern: Pattern, device: str = "cpu", dtype: str = "float32") -> int:
    """Peak memory of three steps in this process, above what it had after one of a narrow network."""
    Step(model, variant, Pattern(), 2, 1 / 8, device, dtype)()  # torch imports and loads more at the first step
    gc.collect()
    base = peak_memory.held(device)
    step = Step(model, variant, pattern, batch, 1.0, device, dtype)
    peak_memory.reset_peak(device)
    for _ in range(3):
        step()
    return peak_memory.peak(device) - base


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("variant", choices=[*VARIANTS, *FURTHER])
    parser.add_argument("batch", type=int)
    parser.add_argument("threads", type=int)
    parser.add_argument("device")
    parser.add_argument("dtype")
    parser.add_argument("pattern")
    parser.add_argument("folder", type=Path, nargs="?")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    of = (arguments.model, arguments.variant, arguments.batch, Pattern(arguments.pattern, arguments.folder))
    with strict():
        print(json.dumps({"bytes": peak(*of, arguments.device, arguments.dtype)}))
