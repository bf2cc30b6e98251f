"""`sparsekern bench train`: whole training steps of networks: time, its parts, peak memory."""

from __future__ import annotations

import argparse
import gc
import json
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch

from ..errors import UsageError
from . import peak_memory
from .linear_peers import PEERS
from .network_step import BATCH, SHAPE, Pattern, Step, error
from .peak_memory import median
from .report import card, header
from .step_parts import parts
from .timing import interleave, pinned, strict

MODELS = ("vgg16", "resnet20")
VARIANTS = (
    "dense",
    "dense-channels-last",
    "dense-channels-last-bf16",
    "masked",
    "sparseprop",
    "sparsekern",
    "sparsekern-bf16",
)
CPU_ONLY = ("dense-channels-last-bf16", "sparseprop", "sparsekern-bf16")  # on a GPU, every variant comes in bf16, too
# What a careful user has, measured on request: `torch.compile` takes minutes.
FURTHER = (
    "dense-compiled",
    "dense-channels-last-compiled",
    "dense-channels-last-bf16-compiled",
    "sparsekern-channels-last",
    "sparsekern-compiled",
    "sparsekern-channels-last-compiled",
    "sparsekern-channels-last-bf16-compiled",
)
SPARSEPROP = next(peer for peer in PEERS if peer.name == "sparseprop")
BUDGET = 60.0  # seconds of samples per network
TOLERANCE = 1e-3


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
        UsageError: a folder holds no finished run, or that of another network.
        RuntimeError: the memory of a process cannot be read.
    """
    patterns = [Pattern.of_run(folder) for folder in runs]
    if absent := {model for model, _ in patterns} - set(models):
        raise UsageError(
            f"the runs are of {', '.join(sorted(absent))}, but measured are {', '.join(models)}; see --model"
        )
    threads = torch.get_num_threads() if threads is None else threads
    batch, budget = (4, 0.5) if quick else (BATCH, BUDGET)
    report = header("train", threads, [peer for peer in PEERS if peer.name in VARIANTS], device) | {"rows": []}
    for model, dtype in product(models, ("float32",) if device == "cpu" else ("bfloat16", "float32")):
        variants = [name for name in VARIANTS if device == "cpu" or name not in CPU_ONLY]
        cells = [(variant, Pattern()) for variant in (*variants, *(FURTHER if compiled else ()))]
        cells += [("sparsekern", pattern) for owner, pattern in patterns if owner == model]
        with pinned(threads), strict():
            rows = _measure(model, cells, batch, budget, device, dtype)
        for row, (variant, pattern) in zip(rows, cells, strict=True):
            where = [] if pattern.folder is None else [str(pattern.folder)]
            child = [model, variant, str(batch), str(threads), device, dtype, pattern.name, *where]
            row["threads"] = threads
            if not variant.endswith("compiled") and "missing" not in row:
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
    torch.compiler.reset()  # or else a limit of recompilations would end in eager mode
    make = partial(Step, model, batch=batch, device=device, dtype=dtype)
    rows, steps = [], {}
    for number, (variant, pattern) in enumerate(cells):
        row = {"case": f"step {model}/{SHAPE[1]}x{SHAPE[2]}", "impl": variant, "device": card(device), "dtype": dtype}
        row |= {"sparsity": 0.0, "batch": batch, "pattern": ""}
        row |= {"ms": None, "ratio_to_dense": None, "bytes": None, "bytes_ratio": None}
        rows.append(row)
        kind, _, how = variant.partition("-")
        if kind == "sparseprop" and (reason := SPARSEPROP.missing()):
            row["missing"] = reason
            continue
        step = make(variant, pattern)
        if step.sparsity:
            row |= {"sparsity": round(step.sparsity, 6), "pattern": pattern.name}
        if kind in ("sparseprop", "sparsekern"):
            exact = make("masked", pattern).double().gradients()
            twin = make("-".join(filter(None, ("masked", how))), pattern)
            row["error"], allowed = error(step, exact), max(TOLERANCE, 2 * error(twin, exact))
            if not row["error"] <= allowed:
                row["missing"] = f"wrong: relative error {row['error']:.1e}, allowed {allowed:.1e}"
                continue
        steps[number] = step
    timings = interleave({str(number): step for number, step in steps.items()}, budget=budget)
    base = timings["0"].median
    for number, step in steps.items():
        rows[number] |= timings[str(number)].columns(base)
        if device == "cpu" and not rows[number]["impl"].endswith("compiled"):
            rows[number]["parts"] = parts(step)
    return rows


def peak(model: str, variant: str, batch: int, pattern: Pattern, device: str = "cpu", dtype: str = "float32") -> int:
    """Peak memory of three steps in this process, above what it had after one of a narrow network."""
    Step(model, variant, Pattern(), 8, 1 / 8, device, dtype)()  # torch imports and loads more at the first step
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
