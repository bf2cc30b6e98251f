"""The pictures of the experiments."""

from pathlib import Path


def draw(path: Path, experiment, runs) -> None:
    """Draws."""
