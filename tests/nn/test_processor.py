"""The facts of a processor, read from made-up descriptions."""

from pathlib import Path

import pytest

from sparsekern.nn import processor
from sparsekern.nn.processor import Processor, described

X86 = """\
processor	: 0
vendor_id	: {vendor}
cpu family	: {family}
model		: {model}
model name	: A processor
flags		: fpu {flags}

processor	: 1
model name	: another one
"""
ARM = "processor\t: 0\nFeatures\t: fp asimd\nCPU implementer\t: 0x41\nCPU part\t: {part}\n"


@pytest.fixture
def caches(tmp_path: Path) -> Path:
    """The folder of a core's caches as Linux shows it, beside something that is none."""
    for number, (level, kind, size) in enumerate(
        [("1", "Data", "48K"), ("1", "Instruction", "32K"), ("2", "Unified", "2M"), ("3", "Unified", "32768K")]
    ):
        folder = tmp_path / f"index{number}"
        folder.mkdir()
        for name, text in (("level", level), ("type", kind), ("size", size)):
            (folder / name).write_text(f"{text}\n")
    (tmp_path / "index9").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("vendor", "family", "model", "flags", "isa", "expected"),
    [
        ("GenuineIntel", 6, 106, "avx512f", "avx512", ("intel", 1024, "fp32")),  # Ice Lake
        ("GenuineIntel", 6, 143, "avx512f avx512_bf16 amx_bf16", "avx512", ("intel", 1024, "amx")),  # Sapphire Rapids
        ("GenuineIntel", 6, 140, "avx512f", "avx512", ("intel", 512, "fp32")),  # Tiger Lake: one unit
        ("AuthenticAMD", 25, 17, "avx512f avx512_bf16", "avx512", ("amd", 512, "avx512")),  # Zen 4: in halves
        ("AuthenticAMD", 26, 2, "avx512f avx512_bf16", "avx512", ("amd", 1024, "avx512")),  # Zen 5
        ("AuthenticAMD", 25, 1, "avx2", "avx2", ("amd", 512, "fp32")),
        ("GenuineIntel", 6, 143, "avx512f amx_bf16", "avx2", ("intel", 512, "fp32")),  # limited to it
        ("Somebody", 1, 1, "", "generic", ("", 256, "fp32")),
    ],
)
def test_facts_of_x86(
    vendor: str, family: int, model: int, flags: str, isa: str, expected: tuple[str, int, str], caches: Path
) -> None:
    found = described(X86.format(vendor=vendor, family=family, model=model, flags=flags), caches, isa)
    sizes = (48 * 1024, 2 * 1024**2, 32 * 1024**2)
    assert found == Processor("A processor", expected[0], isa, expected[1], expected[2], *sizes)


def test_facts_of_arm(tmp_path: Path) -> None:
    assert described(ARM.format(part="0xd0c"), tmp_path, "neon") == Processor(
        "arm 0xd0c", "arm", "neon", 256, "fp32", 0, 0, 0
    )
    assert described(ARM.format(part="0xd40"), tmp_path, "neon").fma == 512


def test_a_mac_is_asked_by_sysctl(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {
        "machdep.cpu.brand_string": "Apple M1",
        "hw.perflevel0.l1dcachesize": "131072",
        "hw.perflevel0.l2cachesize": "12582912",
    }
    monkeypatch.setattr(processor, "instruction_set", lambda: "neon")
    monkeypatch.setattr(processor, "_sysctl", lambda key: told.get(key, ""))
    assert processor._mac() == Processor("Apple M1", "apple", "neon", 512, "fp32", 131072, 12582912, 0)


def test_nothing_is_needed(tmp_path: Path) -> None:
    """A machine that tells nothing has a name and an instruction set."""
    found = described("", tmp_path / "none", "generic")
    assert found.name
    assert (found.vendor, found.fma, found.l1) == ("", 256, 0)
    assert str(processor.here()).startswith(f"{processor.here().name}, {processor.instruction_set()}, ")
