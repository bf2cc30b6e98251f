"""The CUDA C++ operators, compiled to serial code on host memory, against a computation on dense masks.

What only a GPU can show is left to `test_ops.py` there: launches, shuffles, CUB.
"""

import os
import shlex
import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from support import samples
from support.expected import compare, run
from support.patterns import Pattern
from torch.utils.cpp_extension import include_paths, library_paths

from sparsekern.ops.library import OPERATORS

ROOT = Path(__file__).parents[2]
SOURCES = sorted(path for path in (ROOT / "csrc" / "cuda").glob("*.cu") if path.stem != "module")
NAMES = [path.stem for path in SOURCES if "SPARSEKERN_REGISTER" in path.read_text()]
COMPILER = shlex.split(os.environ.get("CXX", "c++"))
library = torch.library.Library("sparsekern_serial", "DEF")

pytestmark = pytest.mark.skipif(shutil.which(COMPILER[0]) is None, reason="needs a C++ compiler")


@pytest.fixture(scope="module")
def serial(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Callable]:
    """The operators by name."""
    folder = tmp_path_factory.mktemp("serial")
    flags = ["-std=c++20", "-O1", "-g1", "-fPIC", "-fvisibility=hidden"]
    sanitize = os.environ.get("SANITIZE")
    flags += [f"-fsanitize={sanitize}", "-fno-sanitize-recover"] if sanitize else []
    flags += [f"-I{ROOT / 'csrc'}", *(f"-isystem{path}" for path in include_paths())]

    def compiled(source: Path) -> str:
        target = str(folder / f"{source.stem}.o")
        execute([*COMPILER, *flags, "-x", "c++", "-c", str(source), "-o", target])
        return target

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compiled, SOURCES))
    (where,) = library_paths()[:1]
    target = folder / "serial.so"
    execute([*COMPILER, *flags, "-shared", *objects, f"-L{where}", f"-Wl,-rpath,{where}", "-ltorch_cpu", "-o", target])
    for name in NAMES:
        library.define(name + OPERATORS[name].schema)
    torch.ops.load_library(str(target))
    return lambda name: getattr(torch.ops.sparsekern_serial, name)


def execute(command: list) -> None:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


CASES = [pytest.param(*case, id=f"{case[0]}-{str(case[1])[6:]}") for case in samples.cases() if case[0] in NAMES]


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_against_dense(name: str, dtype: torch.dtype, serial: Callable[[str], Callable], poisoned: None) -> None:
    for sample in samples.SAMPLES[name](dtype):
        compare(run(serial(name), sample, name), name, sample, dtype)


def test_long_batches(serial: Callable[[str], Callable]) -> None:
    """More than are packed at a time."""
    delta, h = torch.randn(2500, 3), torch.randn(2500, 5)
    got = serial("sampled_gradient")(delta, h, torch.arange(15))
    torch.testing.assert_close(got.reshape(3, 5), delta.t() @ h, rtol=1e-4, atol=1e-4)


def test_gradient_at_no_place_of_the_weight(serial: Callable[[str], Callable]) -> None:
    delta, h = torch.randn(20, 3), torch.randn(20, 5)
    got = serial("sampled_gradient")(delta, h, torch.tensor([7, -1, 15, 2**40]))
    torch.testing.assert_close(got[0], (delta[:, 1] * h[:, 2]).sum())
    assert got[1:].isnan().all()


def _refused() -> dict[str, tuple[str, str, tuple]]:
    p = Pattern(torch.tensor([[True, False, True], [False, True, False]]), slack=1)
    keep, none, at = torch.ones(3, dtype=torch.bool), torch.empty(0, dtype=torch.int64), torch.tensor
    one, ones = torch.ones(2), torch.ones(3)
    delta, x = torch.randn(4, 2), torch.randn(4, 3)

    def rewire(*given: object, capacity: int = 9) -> tuple:
        return (p.row_ptr, p.col, *given, capacity, 3)

    def guided(row: torch.Tensor = one, col: torch.Tensor = ones, n: int = 1) -> tuple:
        return row, col, p.row_ptr, p.col, n, 0

    return {
        "range": ("compress", r"\[0, 6\), got 6", (at([1, 6]), 2, 3, 2)),
        "below": ("compress", r"\[0, 6\), got -1", (at([-1, 2]), 2, 3, 2)),
        "twice": ("compress", "distinct, got 4 twice", (at([4, 1, 4]), 2, 3, 3)),
        "capacity": ("compress", "at least nnz = 2", (at([4, 1]), 2, 3, 1)),
        "grow range": ("rewire", r"grow must lie in \[0, 6\), got 6", rewire(keep, at([1, 6]))),
        "grow order": ("rewire", "ascending and distinct, got 1 at position 1", rewire(keep, at([3, 1]))),
        "grow active": ("rewire", "must not hold active coordinates, got 2", rewire(keep, at([1, 2]))),
        "fit": ("rewire", "5 nonzeros do not fit the capacity 4", rewire(keep, at([1, 3]), capacity=4)),
        "keep": ("rewire", r"keep must be a bool tensor \[3\]", rewire(keep[:2], none)),
        "count": ("guided_sample", "between 0 and 3, the number of inactive", guided(n=4)),
        "negative": ("guided_sample", "row_weight must be finite and not negative, got -1", guided(at([1.0, -1.0]))),
        "nan": ("guided_sample", "col_weight must be finite", guided(col=at([1.0, float("nan"), 1.0]))),
        "infinite": ("guided_sample", "row_weight must be finite", guided(at([1.0, float("inf")]))),
        "subset": ("random_subset", "cannot choose 3 distinct integers below 2", (torch.zeros(3).long(), 2, 0)),
        "batch": ("sampled_gradient", "one batch size", (delta[:3], x, none)),
    }


@pytest.mark.parametrize("case", _refused())
def test_refuses(case: str, serial: Callable[[str], Callable]) -> None:
    name, message, arguments = _refused()[case]
    with pytest.raises(ValueError, match=message):
        serial(name)(*arguments)
