"""Peak resident memory, measured in processes of its own."""

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

PROCESSES = 3


def median(module: str, *arguments: str) -> dict:
    """What `python -m module` prints as JSON: of `PROCESSES` processes, the one with the median `bytes`.

    Raises:
        RuntimeError: one of them failed.
    """
    package = str(Path(__file__).resolve().parents[2])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([package, os.environ.get("PYTHONPATH", "")])}
    results = []
    for _ in range(PROCESSES):
        command = [sys.executable, "-m", module, *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"measuring {' '.join(arguments)} failed: {done.stderr.strip().splitlines()[-1]}")
        results.append(json.loads(done.stdout))
    return sorted(results, key=lambda result: result["bytes"])[PROCESSES // 2] | {"n": PROCESSES}


def status(field: str) -> int:
    """A field of /proc/self/status, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


def reset_peak() -> None:
    """Sets VmHWM to the resident memory of this moment; without the right to, a peak of the imports may remain."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
