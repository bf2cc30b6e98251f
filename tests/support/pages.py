"""Pages of the documentation: their blocks of code, and the names that a reader has when coming to them."""

import re
import shlex
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torchvision
from torch import nn

import sparsekern as sk

ROOT = Path(__file__).parents[2]
PAGES = sorted(path for glob in ("*.md", "docs/*.md", "csrc/*/*.md", "benchmarks/*.md") for path in ROOT.glob(glob))
STEPS = 96
# Packages that `make test-integrations` has; blocks that speak of one are run there.
OTHERS = re.compile(r"\b(accelerate|lightning|onnx|peft|timm|torchao|transformers|Trainer)\b")


class Block(NamedTuple):
    """A block of code: its page, the line of its first line there, what it is written in, and its text."""

    page: Path
    line: int
    language: str
    text: str

    @property
    def here(self) -> bool:
        """Whether no other package is needed."""
        return OTHERS.search(self.text) is None

    def run(self, names: dict[str, Any]) -> None:
        exec(compile("\n" * (self.line - 1) + self.text, str(self.page), "exec"), names)

    def commands(self) -> list[list[str]]:
        """The words of every command line of a shell."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [words for line in lines if (words := shlex.split(line, comments=True))]


def blocks(page: Path, text: str | None = None) -> list[Block]:
    """The blocks of code of a page, of its file or of `text`, in their order."""
    text = page.read_text() if text is None else text
    found = re.finditer(r"^ *```([^\n]*)\n(.*?)^ *```$", text, re.DOTALL | re.MULTILINE)
    return [Block(page, text.count("\n", 0, block.start(2)) + 1, block[1].strip(), block[2]) for block in found]


def snippets(page: str) -> list[str]:
    """Returns the blocks of Python of a page, by its path in the repository."""
    return [block.text for block in blocks(ROOT / page) if block.language == "python"]


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def reader() -> dict[str, Any]:
    """What stands before the ten lines of the README, and what they leave behind."""
    torch.manual_seed(0)
    batches = [(x, x[:, :10].argmax(1)) for x in torch.randn(STEPS, 32, 20)]
    model = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 10))
    return {
        "__name__": "page",
        "torch": torch,
        "torchvision": torchvision,
        "nn": nn,
        "sk": sk,
        "steps": STEPS,
        "total_steps": STEPS,
        "epochs": 10,
        "loader": batches,
        "batches": batches[:40],
        "x": batches[0][0],
        "y": batches[0][1],
        "model": model,
        "method": sk.methods.set(sparsity=0.9, total_steps=STEPS, every=32),
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
        "loss_fn": nn.CrossEntropyLoss(),
    }
