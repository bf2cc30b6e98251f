"""Imports go one way: ops know tensors, topology knows indices, layers know topology, methods know layers as sites."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import sparsekern

PACKAGE = Path(sparsekern.__file__).parent

# The rooms of the house from the ground up: each may import what stands above it here, and within itself.
ROOMS = [
    {"process", "errors"},
    {"ops"},
    {"topology"},
    {"nn.kernel_choice", "nn.marks", "nn.copies", "nn.effective", "nn.probe", "nn.layer"},
    {"nn.sparse", "nn.linear", "nn.conv", "nn.masked"},
    {"nn.conversion"},
    {"nn.channels"},
    {"nn"},
    {"sparsity.parallel", "sparsity.model", "sparsity.parts"},
    {"sparsity.change"},
    {"sparsity.scoring"},
    {"sparsity.sites"},
    {"sparsity.growth"},
    {"sparsity.rule"},
    {"sparsity.method"},
    {"sparsity.methods"},
    {"sparsity.sparsify", "sparsity.engine"},
    {"sparsity.sparsifier"},
    {"sparsity"},
    {"models", "data"},
    {"bench"},
    {"cli"},
]
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE or not path.name.startswith("__"))


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


def rank(module: str) -> int | None:
    """Number of the room that a module, or the longest prefix of its name, belongs to."""
    names = module.split(".")
    for length in range(len(names), 0, -1):
        for number, room in enumerate(ROOMS):
            if ".".join(names[:length]) in room:
                return number
    return None


def imported(path: Path) -> set[str]:
    """Modules of this package that a file imports, as dotted names below the package."""
    here = ["sparsekern", *path.relative_to(PACKAGE).with_suffix("").parts][:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1] if node.level else []
            base = ".".join([*base, *(node.module or "").split(".")]).rstrip(".")
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return {name.removeprefix("sparsekern.") for name in found if name.startswith("sparsekern.")}


@pytest.mark.parametrize("path", FILES, ids=dotted)
def test_imports_go_one_way(path: Path) -> None:
    own = rank(dotted(path))
    assert own is not None, f"{dotted(path)} has no place in the import order: give it one in ROOMS"
    for name in imported(path):
        other = rank(name)
        assert other is None or other <= own, f"{dotted(path)} must not import {name}"


def test_needs_torch_and_numpy_only() -> None:
    """The package imports without what only the command line needs."""
    optional = ["torchvision", "sklearn", "scipy", "pandas", "matplotlib", "tqdm", "safetensors"]
    code = f"import sys; sys.modules.update(dict.fromkeys({optional})); import sparsekern"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent)
    assert result.returncode == 0, result.stderr
