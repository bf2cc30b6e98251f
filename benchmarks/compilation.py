"""Compiles the Triton kernels for cards that need not be there, and tells what they use of them.

python -m benchmarks.compilation                  the default configuration of every kernel
python -m benchmarks.compilation --all --out DIR  every configuration, into DIR/gpu-compilation.{json,md}
"""

import argparse
import importlib.metadata
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.launches import LAUNCHES
from sparsekern.bench.report import write
from sparsekern.text import columns

# Bytes of shared memory that a program can have, by compute capability.
SHARED = {80: 163 << 10, 90: 227 << 10, 100: 227 << 10}
MATRIX_UNITS = {80: r"\bmma\.sync", 90: r"\bwgmma\.|\bmma\.sync", 100: r"\btcgen05\.mma|\bmma\.sync"}


class Task(NamedTuple):
    """A kernel that a call launches, on a card."""

    case: str
    dtype: torch.dtype
    arch: int
    every: bool


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.compilation", description=__doc__)
    parser.add_argument("--arch", default="80,90,100", metavar="N,N", help="compute capabilities (default 80,90,100)")
    parser.add_argument("--only", default="*", metavar="GLOB", help="cases by name")
    parser.add_argument("--all", action="store_true", help="every configuration instead of the default one")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="processes (default 2)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where the report goes")
    arguments = parser.parse_args(argv)
    names = [name for name in LAUNCHES if fnmatch(name, arguments.only)]
    if not names:
        parser.error(f"no case matches {arguments.only!r}; there are {', '.join(LAUNCHES)}")
    tasks = [
        Task(name, dtype, int(arch), arguments.all)
        for name in names
        for dtype in LAUNCHES[name].dtypes
        for arch in arguments.arch.split(",")
    ]
    with ProcessPoolExecutor(arguments.jobs) as pool:
        rows = [row for found in pool.map(compiled, tasks) for row in found]
    report = columns([list(rows[0]), *([str(value) for value in row.values()] for row in rows)])
    print(report)
    if arguments.out is not None:
        arguments.out.mkdir(parents=True, exist_ok=True)
        versions = {"triton": importlib.metadata.version("triton"), "torch": torch.__version__}
        write(arguments.out / "gpu-compilation.json", {"benchmark": "compilation", **versions, "rows": rows})
        (arguments.out / "gpu-compilation.md").write_text(f"```\n{report}\n```\n")
    wrong = [row for row in rows if row["fault"]]
    for row in wrong:
        print(f"{row['case']} {row['kernel']} {row['dtype']} sm_{row['arch']}: {row['fault']}", file=sys.stderr)
    return 1 if wrong else 0


def compiled(task: Task) -> list[dict[str, Any]]:
    """A row for every kernel that the case launches."""
    from sparsekern.ops.triton.launch import recorded

    case = LAUNCHES[task.case]
    with recorded() as launches:
        case.call(task.dtype)
    rows = []
    for launch in launches:
        for config in launch.configs if task.every else launch.configs[:1]:
            built = compile_for(task.arch, launch, config)
            strict = task.dtype == torch.float32 and "ieee" in launch.constants.values()
            rows.append(
                {
                    "case": task.case,
                    "kernel": launch.kernel.fn.__name__,
                    "dtype": str(task.dtype).removeprefix("torch."),
                    "arch": task.arch,
                    "config": " ".join(f"{k}={v}" for k, v in config.blocks.items())
                    + f" warps={config.warps} stages={config.stages}",
                    **resources(built.asm["cubin"]),
                    "shared": built.metadata.shared,
                    "matrix_units": bool(re.search(MATRIX_UNITS[task.arch], built.asm["ptx"])),
                }
            )
            rows[-1]["fault"] = fault(rows[-1], launch.kernel.fn.__name__ in case.matrix, strict)
    return rows


def compile_for(arch: int, launch: Any, config: Any) -> Any:
    """The kernel of a recorded launch, compiled as a launch on a card of this compute capability would."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile, make_backend
    from triton.runtime.jit import create_function_from_signature

    target, kernel = GPUTarget("cuda", arch, 32), launch.kernel
    backend = make_backend(target)
    given = {**launch.constants, **config.blocks, "num_warps": config.warps, "num_stages": config.stages}
    bind = create_function_from_signature(kernel.signature, kernel.params, backend)
    bound, specialization, options = bind(*launch.arguments, **given, debug=False)
    options, signature, constants, attributes = kernel._pack_args(backend, given, bound, specialization, options)
    return compile(ASTSource(kernel, signature, constants, attributes), target=target, options=options.__dict__)


def resources(cubin: bytes) -> dict[str, int]:
    """Registers and spilled bytes of a thread."""
    from triton import knobs

    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [knobs.nvidia.cuobjdump.path, "--dump-resource-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {"registers": _number("REG", text), "spilled": _number("STACK", text) + _number("LOCAL", text)}


def _number(name: str, text: str) -> int:
    found = re.findall(rf"\b{name}:(\d+)", text)
    return max(int(number) for number in found)


def fault(row: dict[str, Any], matrix: bool, strict: bool = False) -> str:
    """What is wrong with a compiled kernel, if anything: one that is meant to use matrix units, or one whose products
    of fp32 are strict, so that it must not."""
    faults: Iterable[tuple[bool, str]] = (
        (row["shared"] > SHARED[row["arch"]], f"{row['shared']} bytes of shared memory are more than the card has"),
        (row["spilled"] > 0, f"{row['spilled']} bytes of registers are spilled"),
        (matrix and not strict and not row["matrix_units"], "no matrix units are used"),
        (strict and row["matrix_units"], "strict products of fp32 are made by matrix units"),
    )
    return "; ".join(text for wrong, text in faults if wrong)


if __name__ == "__main__":
    sys.exit(main())
