"""Imports go one way, from component to component (`support/components.py`), and the package needs little."""

import subprocess
import sys
from pathlib import Path

import pytest
from support.components import FILES, PACKAGE, PICTURE, dotted, draw, imported, rank


@pytest.mark.parametrize("path", FILES, ids=dotted)
def test_imports_go_one_way(path: Path) -> None:
    own = rank(dotted(path))
    assert own is not None, f"{dotted(path)} has no place in the import order: list it in support/components.py"
    for name in imported(path):
        other = rank(name)
        assert other is None or other <= own, f"{dotted(path)} must not import {name}"


def test_the_picture_of_the_components_shows_them_as_they_are() -> None:
    assert PICTURE.read_text() == draw(), "draw it anew: python tests/support/components.py"


def test_needs_torch_and_numpy_only() -> None:
    """The package imports without what only the command line needs."""
    optional = ["torchvision", "sklearn", "scipy", "pandas", "matplotlib", "tqdm", "safetensors"]
    code = f"import sys; sys.modules.update(dict.fromkeys({optional})); import sparsekern"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent)
    assert result.returncode == 0, result.stderr


def test_converting_a_model_imports_no_symbolic_algebra() -> None:
    """PyTorch imports it, in half a second, as soon as a tensor on the meta device is made empty."""
    code = (
        "import sys, torch; before = 'sympy' in sys.modules; import sparsekern as sk; from torch import nn; "
        "model = nn.Sequential(nn.Linear(8, 8), nn.Conv2d(2, 2, 3), nn.MultiheadAttention(8, 2)); "
        "sk.sparsify(model, 0.5); assert before or 'sympy' not in sys.modules"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent)
    assert result.returncode == 0, result.stderr
