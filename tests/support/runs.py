"""Runs of the command line: interrupting them, comparing what they leave."""

from pathlib import Path

import pytest
import torch

from sparsekern.training import Run

# Flags of a run of digits that takes a second; those that follow them take precedence.
SMALL = ["--model", "lenet300", "--width", "0.1", "--threads", "1", "--batch-size", "128"]


def load(folder: Path) -> dict:
    return torch.load(folder / "checkpoint.pt", weights_only=True)


def same(a: object, b: object, path: str = "") -> None:
    """Compares nested states exactly, but for times and the sums of files that hold them."""
    if isinstance(a, dict):
        assert isinstance(b, dict)
        assert a.keys() == b.keys(), path
        for key in a.keys() - {"seconds", "seconds_per_step", "cpu_seconds_per_step", "train_seconds", "checksum"}:
            same(a[key], b[key], f"{path}.{key}")
    elif isinstance(a, list | tuple):
        assert isinstance(b, list | tuple)
        assert len(a) == len(b), path
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            same(x, y, f"{path}[{i}]")
    elif isinstance(a, torch.Tensor):
        assert isinstance(b, torch.Tensor)
        assert a.dtype == b.dtype, path
        assert torch.equal(a, b), path
    else:
        assert a == b, path


def interrupt_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Presses Ctrl-C once, after `step` steps."""
    original = Run.train_epoch

    def train_epoch(self: Run, tick):
        def pressed() -> None:
            tick()
            if self.step == step:
                raise KeyboardInterrupt

        return original(self, pressed)

    monkeypatch.setattr(Run, "train_epoch", train_epoch)
