"""Peak memory, measured in processes of its own: on the CPU what is resident, on a GPU what is allocated."""

import json
import os
import subprocess
from contextlib import suppress
from pathlib import Path

import torch

from ..process import command

PROCESSES = 3
# The C library keeps what is freed, and how much of that has holes differs from process to process by up to 200 MiB.
# With a fixed threshold, blocks of 128 KiB and more are returned: what is resident is what is in use.
RETURNING = {"MALLOC_MMAP_THRESHOLD_": str(128 << 10)}


def median(module: str, *arguments: str, processes: int | None = None) -> dict:
    """Returns what `python -m module` prints as JSON: of several processes, `PROCESSES` by default, the one with the
    median `bytes`; `n` is their number, and `least` and `most` are the `bytes` of the extreme ones.

    Raises:
        RuntimeError: one of them failed.
    """
    results, processes = [], processes or PROCESSES
    for _ in range(processes):
        environment = {**RETURNING, **os.environ}
        done = subprocess.run(command(module, *arguments), capture_output=True, text=True, env=environment)
        if done.returncode:
            raise RuntimeError(f"measuring {' '.join(arguments)} failed: {done.stderr.strip().splitlines()[-1]}")
        results.append(json.loads(done.stdout))
    results.sort(key=lambda result: result["bytes"])
    spread = {"n": processes, "least": results[0]["bytes"], "most": results[-1]["bytes"]}
    return results[processes // 2] | spread


def held(device: str) -> int:
    """Bytes in use."""
    return status("VmRSS") if device == "cpu" else torch.cuda.memory_allocated(device)


def peak(device: str) -> int:
    """The most that were in use since `reset_peak`."""
    return status("VmHWM") if device == "cpu" else torch.cuda.max_memory_allocated(device)


def status(field: str) -> int:
    """A field of /proc/self/status, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


def reset_peak(device: str) -> None:
    """Peaks are those from this moment on; on the CPU, without the right to, one of the imports may remain."""
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
