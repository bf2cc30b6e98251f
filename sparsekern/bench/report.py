"""Describes the machine in every results file, and writes the file."""

import json
import os
import platform
import subprocess
from collections.abc import Iterable
from datetime import datetime, timezone
from pathlib import Path

import torch

from .. import __version__
from ..nn import processor
from ..ops import extension
from ..process import PACKAGE
from ..training.files import write_text
from .peer import Peer


def card(device: torch.device | str) -> str:
    """Returns the name of a device in rows: the name of a GPU, or "cpu"."""
    device = torch.device(device)
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def header(kind: str, threads: int, peers: Iterable[Peer] = (), device: torch.device | str = "cpu") -> dict:
    """Machine, versions, revision, date, and of every peer its version or why it is missing; of a GPU its name, too."""
    return {
        "benchmark": kind,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": commit(),
        "cpu": processor.here().name,
        "cores": os.cpu_count(),
        "threads": threads,
        "isa": extension.isa() if extension is not None else "plain PyTorch",
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "sparsekern": __version__,
        "peers": {peer.name: f"missing: {why}" if (why := peer.missing()) else peer.version() for peer in peers},
        **({"card": card(device), "cuda": torch.version.cuda} if torch.device(device).type == "cuda" else {}),
    }


def commit() -> str | None:
    """Returns the revision of the checkout that this package lies in, "-dirty" behind it if code was changed since;
    None outside of one."""

    def git(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["git", "-C", PACKAGE, *arguments], capture_output=True, text=True)

    try:
        if git("ls-files", "--error-unmatch", "__init__.py").returncode:
            return None
        changed = git("diff", "--quiet", "HEAD", "--", ".", "../csrc").returncode
        return git("rev-parse", "--short=12", "HEAD").stdout.strip() + "-dirty" * bool(changed)
    except OSError:  # no git
        return None


def write(path: Path, report: dict) -> None:
    """Writes the report whole or not at all: a row of a list on each line."""
    tables = {key: value for key, value in report.items() if isinstance(value, list)}
    text = json.dumps({key: value for key, value in report.items() if key not in tables}, indent=1)
    for name, rows in tables.items():
        lines = ",\n".join("  " + json.dumps(row) for row in rows)
        text = f'{text[:-2]},\n "{name}": [\n{lines}\n ]\n}}'
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text + "\n")
