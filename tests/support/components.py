"""The components of the package, from the ground up, and their picture: `python tests/support/components.py` draws it.

A component may import those above it in this list, and itself; `tests/test_imports.py` holds it to that.
"""

from __future__ import annotations

import ast
import sys
from functools import cache
from html import escape
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "sparsekern"
PICTURE = ROOT / "docs" / "components.svg"


class Component(NamedTuple):
    """Some modules of the package, by dotted names; a name stands for all modules below it that no component names."""

    title: str
    modules: frozenset[str]
    sentence: str


def _component(title: str, sentence: str, *modules: str) -> Component:
    return Component(title, frozenset(modules or (title,)), sentence)


COMPONENTS = [
    _component(
        "ground",
        "processes, errors, settings, text, old names: no PyTorch",
        "process",
        "errors",
        "settings",
        "text",
        "moved",
        "integrations",
    ),
    _component("private_torch", "the private names of PyTorch in use, each with its reason"),
    _component("ops", "operators on flat tensors: CPU, CUDA, Triton and plain PyTorch"),
    _component(
        "topology", "a sparsity pattern as a frozen value; sharded tensors", "topology", "sparse_weight", "shards"
    ),
    _component(
        "nn: a layer",
        "what layers with a pattern share: kernel choice, weight access",
        *(f"nn.{name}" for name in ("processor", "crossovers", "kernel_choice", "marks", "copies", "effective")),
        *(f"nn.{name}" for name in ("facts", "live_states", "weight_slice")),
        *(f"nn.{name}" for name in ("planned", "probe", "product", "weight_storage")),
        *(f"nn.{name}" for name in ("layer", "saved", "plain")),
    ),
    _component(
        "nn: the layers",
        "linear layers, convolutions, attention: nonzeros, or a dense weight and a mask",
        *(
            f"nn.{name}"
            for name in (
                "sparse",
                "linear",
                "conv",
                "conv1d",
                "expanded",
                "moment",
                "masked",
                "attention",
                "embedding",
                "recurrent",
            )
        ),
    ),
    _component("nn.conversion", "layers are found in a model and exchanged"),
    _component("nn.channels", "channels that are one, constant, or pruned as a whole"),
    _component("nn", "reports of memory and floating-point operations"),
    _component(
        "sparsity: parts",
        "schedules, scores, views, distributions; the model and its ranks",
        "sparsity.parallel",
        "sparsity.model",
        "sparsity.parts",
    ),
    _component("sparsity.change", "a change comes whole or not at all; optimizer state moves along"),
    _component("sparsity.scoring", "first patterns, scored on the dense network"),
    _component("sparsity.sites", "a layer as methods see it, one class for each storage"),
    _component("sparsity.growth", "which absent weights may grow, and their gradients"),
    _component(
        "sparsity: method",
        "what a method is made of",
        *(f"sparsity.{name}" for name in ("rule", "old_fields", "composition", "method")),
    ),
    _component("sparsity.methods", "forty published methods"),
    _component(
        "sparsity.engine",
        "carries out a method, step by step",
        "sparsity.sparsify",
        "sparsity.selection",
        "sparsity.first_pattern",
        "sparsity.engine",
    ),
    _component("sparsity", "sparsify, Sparsifier; the public names", "sparsity.sparsifier", "sparsity", "api"),
    _component(
        "integrations",
        "what transformers, Lightning, peft and timm are told; distributed checkpoints",
        *(f"integrations.{name}" for name in ("optimizers", "conv1d", "transformers", "trainer", "lightning")),
        *(f"integrations.{name}" for name in ("peft", "timm")),
        "integrations.checkpoint",
    ),
    _component("models, data", "networks and data sets of the papers", "models", "data"),
    _component("training", "a training run: its configuration, its folder; many runs at a time"),
    _component("export", "files for other programs: dense, CSR, nonzeros, ONNX"),
    _component("bench", "measures beside every peer that is installed"),
    _component("cli", "the command line"),
]
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE or not path.name.startswith("__"))


def dotted(path: Path) -> str:
    """The name of a module below the package."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


def rank(module: str) -> int | None:
    """The number of the component of a module, or of the longest prefix of its name that a component has."""
    names = module.split(".")
    for length in range(len(names), 0, -1):
        for number, component in enumerate(COMPONENTS):
            if ".".join(names[:length]) in component.modules:
                return number
    return None


@cache
def imported(path: Path) -> frozenset[str]:
    """The modules of this package that a file imports, by their names below the package."""
    here = ["sparsekern", *path.relative_to(PACKAGE).with_suffix("").parts][:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1] if node.level else []
            base = ".".join([*base, *(node.module or "").split(".")]).rstrip(".")
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return frozenset(name.removeprefix("sparsekern.") for name in found if name.startswith("sparsekern."))


def arrows() -> set[tuple[int, int]]:
    """The pairs of different components of which the first imports the second."""
    pairs = {(rank(dotted(path)), rank(name)) for path in FILES for name in imported(path)}
    return {(own, other) for own, other in pairs if own is not None and other is not None and own != other}


# ---- the picture

HEIGHT, GAP, LEFT, WIDTH, DOTS = 30, 4, 20, 600, 22
STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #1f2933 }
  .title { font-weight: 600 } .small { font-size: 11px; fill: #52606d }
  .room { stroke: #9aa5b1 } .line { stroke: #e4e7eb } .dot { fill: #2f6f9f }
"""
COLOURS = {"ops": "#f5e6c8", "topology": "#f5e6c8", "nn": "#d9ead3", "sparsity": "#d6e4f0"}


def draw() -> str:
    """The picture as SVG: the components, the lowest at the bottom; a dot where a row imports a column."""
    count, step = len(COMPONENTS), HEIGHT + GAP
    top, matrix = 70, LEFT + WIDTH + 30
    width, height = matrix + count * DOTS + 20, top + count * step + 50
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'role="img" aria-label="The components of sparsekern and what each imports">',
        f"<style>{STYLE}</style>",
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="{LEFT}" y="28" class="title">The components of sparsekern</text>',
        f'<text x="{LEFT}" y="48" class="small">Each stands on those below it; csrc/ holds the compiled kernels of ops.'
        "</text>",
        f'<text x="{matrix}" y="28" class="small">a dot: the component of the row imports that of the column</text>',
    ]
    for number, component in enumerate(COMPONENTS):
        y = top + (count - 1 - number) * step
        middle = y + HEIGHT / 2 + 4
        colour = COLOURS.get(component.title.split(".")[0].split(":")[0], "#eef0f2")
        parts += [
            f'<rect x="{LEFT}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="4" fill="{colour}" class="room"/>',
            f'<text x="{LEFT + 10}" y="{middle}" class="title">{escape(component.title)}</text>',
            f'<text x="{LEFT + 150}" y="{middle}">{escape(component.sentence)}</text>',
            f'<line x1="{matrix}" x2="{matrix + count * DOTS}" y1="{y + HEIGHT / 2}" y2="{y + HEIGHT / 2}" '
            'class="line"/>',
            f'<text x="{matrix + number * DOTS + DOTS / 2}" y="{top + count * step + 16}" text-anchor="middle" '
            f'class="small">{count - number}</text>',
            f'<text x="{matrix - 8}" y="{middle}" text-anchor="end" class="small">{count - number}</text>',
        ]
    for own, other in sorted(arrows()):
        x, y = matrix + other * DOTS + DOTS / 2, top + (count - 1 - own) * step + HEIGHT / 2
        parts.append(f'<circle cx="{x}" cy="{y}" r="5" class="dot"/>')
    return "\n".join([*parts, "</svg>"]) + "\n"


if __name__ == "__main__":
    PICTURE.write_text(draw())
    sys.stdout.write(
        f"{PICTURE.relative_to(ROOT)}: {len(COMPONENTS)} components, {len(arrows())} imports between them\n"
    )
