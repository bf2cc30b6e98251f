"""The processor that the kernels run on: the facts that decide which of them is fastest."""

from __future__ import annotations

import platform
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from math import log2
from pathlib import Path

import torch

from ..ops import extension

CPUINFO = Path("/proc/cpuinfo")
CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
ISAS = ("generic", "neon", "avx2", "avx512")
VENDORS = {"GenuineIntel": "intel", "AuthenticAMD": "amd", "0x41": "arm", "0x61": "apple"}
SERVERS = {85, 106, 108, 143, 173, 174, 207}  # Intel models with two 512-bit units: Skylake-SP to Granite Rapids
WIDE_ARM = {"0xd40", "0xd4f", "0xd84"}  # Neoverse V1, V2, V3: four 128-bit units
UNITS = {"k": 1024, "m": 1024**2, "g": 1024**3}


@dataclass(frozen=True)
class Processor:
    """Facts of a processor, those of one core.

    Attributes:
        name: what the system calls it.
        vendor: "intel", "amd", "arm", "apple", or "" if it is another one.
        isa: the instruction set of the kernels: "avx512", "avx2", "neon" or "generic".
        fma: bits that its units for multiply-adds take in a cycle; 1024 are two units of 512 bits.
        bf16: how it multiplies bfloat16: in "amx" tiles, in "avx512" vectors, or by "fp32".
        l1, l2, l3: bytes of its data caches, 0 if unknown; the last one is shared by cores.
    """

    name: str
    vendor: str
    isa: str
    fma: int
    bf16: str
    l1: int
    l2: int
    l3: int

    @property
    def family(self) -> tuple[object, ...]:
        """The properties that processors of one family share."""
        return self.vendor, self.isa, self.fma, self.bf16, self.l1, self.l2

    def distance(self, other: Processor, dtype: str) -> float:
        """Returns how far another processor is from this one: first by instruction set and by how it multiplies
        `dtype`, then by the width of its multiply-adds, then by caches and vendor."""
        return (
            100 * abs(ISAS.index(self.isa) - ISAS.index(other.isa))
            + 50 * (dtype == "bfloat16" and self.bf16 != other.bf16)
            + 4 * _octaves(self.fma, other.fma)
            + 2 * _octaves(self.l1, other.l1)
            + _octaves(self.l2, other.l2)
            + 0.1 * _octaves(self.l3, other.l3)
            + (self.vendor != other.vendor)
        )

    def __str__(self) -> str:
        caches = [
            f"{level} {_bytes(size)}" for level, size in (("L1", self.l1), ("L2", self.l2), ("L3", self.l3)) if size
        ]
        bf16 = "no bf16" if self.bf16 == "fp32" else f"bf16 by {self.bf16}"
        return ", ".join([self.name or "unknown", self.isa, f"{self.fma} bits of FMA a cycle", bf16, *caches])


@cache
def here() -> Processor:
    """Returns the facts of this processor, with the instruction set in use."""
    if sys.platform == "darwin":
        return _mac()
    try:
        cpuinfo = CPUINFO.read_text()
    except OSError:
        cpuinfo = ""
    return described(cpuinfo, CACHES, instruction_set())


def instruction_set() -> str:
    """Returns the instruction set in use: that of the compiled kernels or, without them, PyTorch's."""
    if extension is not None:
        return extension.isa() if extension.isa() in ISAS else "generic"
    arm = platform.machine().lower() in ("aarch64", "arm64")
    capability = torch.backends.cpu.get_cpu_capability().lower()
    return "neon" if arm else capability if capability in ISAS else "generic"


def described(cpuinfo: str, caches: Path, isa: str) -> Processor:
    """Returns the facts of a processor as Linux tells them.

    Args:
        cpuinfo: contents of /proc/cpuinfo.
        caches: the folder `cache` of a core in /sys.
        isa: the instruction set in use, which may be less than the processor has.
    """
    lines = (line.partition(":") for line in cpuinfo.partition("\n\n")[0].splitlines())
    told = {key.strip().lower(): value.strip() for key, _, value in lines}
    flags = set(told.get("flags", told.get("features", "")).split())
    code = told.get("vendor_id", told.get("cpu implementer", ""))
    vendor, part = VENDORS.get(code, ""), told.get("cpu part", "")
    name = told.get("model name", " ".join(filter(None, (vendor, part))) or platform.processor() or platform.machine())
    fma = _fma(isa, vendor, _number(told.get("cpu family", "")), _number(told.get("model", "")), part)
    bf16 = "fp32"
    if isa == "avx512":
        bf16 = "amx" if "amx_bf16" in flags else "avx512" if "avx512_bf16" in flags else "fp32"
    return Processor(name, vendor, isa, fma, bf16, *_caches(caches))


def _fma(isa: str, vendor: str, family: int, model: int, part: str) -> int:
    """Returns the bits of multiply-adds a cycle. Nothing tells them, but who built the processor, and when, does."""
    if isa == "avx512":
        wide = family >= 26 if vendor == "amd" else model in SERVERS  # Zen 4 executes 512 bits in halves
        return 1024 if wide else 512
    if isa == "avx2" or vendor == "apple" or part in WIDE_ARM:
        return 512
    return 256


def _caches(folder: Path) -> tuple[int, int, int]:
    """Returns the bytes of the data caches of each level."""
    sizes = {1: 0, 2: 0, 3: 0}
    for index in sorted(folder.glob("index*")):
        try:
            level, kind, size = ((index / name).read_text().strip() for name in ("level", "type", "size"))
        except OSError:
            continue
        if kind != "Instruction" and _number(level) in sizes:
            sizes[_number(level)] = _number(size[:-1]) * UNITS.get(size[-1:].lower(), 1)
    return sizes[1], sizes[2], sizes[3]


def _mac() -> Processor:
    name, isa = _sysctl("machdep.cpu.brand_string"), instruction_set()
    vendor = "apple" if name.startswith("Apple") else "intel"
    sizes = []
    for level in ("l1d", "l2", "l3"):
        of_fast_cores = _sysctl(f"hw.perflevel0.{level}cachesize")
        sizes.append(_number(of_fast_cores or _sysctl(f"hw.{level}cachesize")))
    return Processor(name, vendor, isa, _fma(isa, vendor, 0, 0, ""), "fp32", *sizes)


def _sysctl(key: str) -> str:
    try:
        return subprocess.run(["sysctl", "-n", key], capture_output=True, text=True, timeout=5).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def _number(text: str) -> int:
    return int(text) if text.isdecimal() else 0


def _octaves(a: int, b: int) -> float:
    """Returns how often one number must be doubled to reach the other; 0 if one of them is unknown."""
    return abs(log2(a / b)) if a and b else 0.0


def _bytes(size: int) -> str:
    return f"{size / 1024**2:g} MiB" if size >= 1024**2 else f"{size / 1024:g} KiB"
