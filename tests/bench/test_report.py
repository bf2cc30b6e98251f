"""Folders of machines, and the pictures of them."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import cpu, machine_tables, tables
from sparsekern.bench import machines, pictures, report
from sparsekern.bench.analysis import break_even
from sparsekern.bench.memory_lines import LINES
from sparsekern.bench.pictures import break_evens, ratios, steps
from sparsekern.bench.pictures.machine import load
from sparsekern.bench.step_parts import PARTS, PYTHON, REST
from sparsekern.cli import commands, main
from sparsekern.errors import UsageError

HEADER = {"cpu": "A processor", "threads": 3, "date": "2026-01-01T00:00:00+00:00"}


def write(folder: Path, benchmark: str, rows: list[dict], **more: Any) -> None:
    report.write(folder / f"{benchmark}.json", {"benchmark": benchmark, **HEADER, **more, "rows": rows})


def step(impl: str, sparsity: float, ratio: float | None, case: str = "step 64x64", batch: int = 8) -> dict:
    row = {"case": case, "impl": impl, "dtype": "float32", "sparsity": sparsity, "batch": batch}
    return row | {"ms": ratio, "ratio_to_dense": ratio}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Results of a machine, all that pictures are made of."""
    kernels, crossovers = [], []
    for sparsity, ours, peer in ((0.5, 1.5, 1.2), (0.7, 0.5, 0.9), (0.9, 0.2, None)):
        kernels += [step("dense", sparsity, 1.0), step("peer", sparsity, peer), step("sparsekern", sparsity, ours)]
        crossovers += [step("dense", sparsity, 1.0), step("sparsekern", sparsity, ours)]
        crossovers += [step("sparsekern", sparsity, 0.1, "step 128x128")]
    write(tmp_path, "kernels", kernels)
    write(tmp_path, "convolutions", [row | {"case": "step conv3x3s2/8-16/4x4"} for row in kernels])
    write(tmp_path, "crossovers", crossovers)
    parts = dict.fromkeys((*PARTS, REST, PYTHON), 1.0)
    network = step("sparsekern", 0.95, 20.0, "step net/32x32") | {"pattern": "uniform", "parts": parts}
    write(tmp_path, "train", [network])
    lines = dict.fromkeys(LINES, 2**20)
    write(tmp_path, "memory", [step("dense", 0.0, 1.0) | {"bytes": 2**23, "lines": lines}])
    scale = [
        step("sparsekern", 0.9, ms) | {"axis": "batch", "size": size, "bytes": size} for size, ms in ((1, 1), (8, 9))
    ]
    fit = {"axis": "batch", "impl": "sparsekern", "slope": 1.06, "ideal": 1, "from": 1, "to": 8}
    write(tmp_path, "scaling", scale, fits=[fit | {"cost": cost} for cost in ("ms", "bytes")])
    return tmp_path


def test_a_picture_of_everything(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "new"
    assert main(["bench", "report", "--out", str(out), str(folder), str(folder)]) == 0
    drawn = [str(out / f"{name}.png") for name in pictures.PICTURES]
    assert capsys.readouterr().out.split() == drawn
    assert all(Path(path).read_bytes().startswith(b"\x89PNG") for path in drawn)


def test_folders_stand_before_or_behind_the_flags() -> None:
    first, second = (
        commands.parser().parse_args(["bench", "report", *words.split()]) for words in ("a b --out x", "--out x a b")
    )
    assert first == second
    assert (first.folders, first.out) == ([Path("a"), Path("b")], Path("x"))


def test_what_pictures_show(folder: Path) -> None:
    (machine,) = load([folder])
    assert machine.title == "A processor, 3 threads"
    ours, others = ratios.curves(machine, "kernels")["64x64", 8, "float32"]
    assert ours == [(0.5, 1.5), (0.7, 0.5), (0.9, 0.2)]
    assert others == [(0.5, 1.0), (0.7, 0.9), (0.9, 1.0)]  # dense, the peer, dense
    points = break_evens.crossovers(machine)
    assert {cell: break_even(found) for cell, found in points.items()} == {
        (64, 8): pytest.approx(0.6),
        (128, 8): float("-inf"),
    }
    spent = steps.spent(machine.rows("train")[0])
    assert sum(spent.values()) == pytest.approx(20)  # the median, whatever the profiled steps took
    small = set(PARTS) - set(steps.SHOWN)
    assert spent[REST] == pytest.approx((1 + len(small)) * spent["convolution"])


def test_the_committed_results_can_be_drawn(tmp_path: Path) -> None:
    drawn = pictures.draw(tables.folders(), tmp_path)
    committed = {path.name for path in tables.PICTURES.glob("*.png")}
    assert committed == {path.name for path in drawn}, "draw them anew: python -m benchmarks.tables --pictures"


def test_folders_that_hold_nothing_to_draw(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["bench", "report"]) == 2
    assert main(["bench", "report", str(tmp_path)]) == 2
    assert "holds no results" in capsys.readouterr().err
    write(tmp_path, "threshold", [])
    assert main(["bench", "report", str(tmp_path), "--out", str(tmp_path)]) == 2
    assert "there is no picture" in capsys.readouterr().err
    assert main(["bench", "report", *[str(tmp_path)] * 11]) == 2
    (tmp_path / "kernels.json").write_text("[]")
    with pytest.raises(UsageError, match=r"kernels\.json is damaged"):
        machines.read(tmp_path)
    assert main(["bench", "kernels", str(tmp_path)]) == 2


def test_a_machine_has_a_name_of_its_own_and_known_families_their_usual_one() -> None:
    assert machines.name(2).endswith("-2t")
    assert machines.title(Path("amd-zen4-avx512-2t"), HEADER) == "AMD Zen 4, 3 threads"


def test_one_command_writes_a_file_of_the_machines_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def fail(**options: Any) -> dict:
        raise RuntimeError("4 GiB are not free")

    monkeypatch.setitem(cpu.BENCHMARKS, "largest", fail)
    other = tmp_path / "other-2t"
    write(other, "threshold", [])
    before = (other / "threshold.json").read_text()
    assert cpu.main(["largest", "threshold", "--quick", "--threads", "1", "--out", str(tmp_path)]) == 1
    assert "largest: 4 GiB are not free" in capsys.readouterr().err
    own = tmp_path / machines.name(1)
    assert {path.name for path in own.iterdir()} == {"threshold.json", "tables.md"}
    assert machines.read(own)["threshold"]["threads"] == 1
    assert "| torch.kthvalue |" in (own / "tables.md").read_text()
    assert (other / "threshold.json").read_text() == before


def test_every_report_tells_the_revision(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = report.header("kernels", 1)["commit"]
    assert found is None or len(found.removesuffix("-dirty")) == 12
    monkeypatch.setattr(report, "PACKAGE", str(tmp_path))
    assert report.commit() is None


def test_the_table_names_who_wins() -> None:
    rows = []
    for sparsity, ours, bf16, csr in (
        (0.3, 1.2, 1.1, 3.0),
        (0.4, 1.1, 1.1, 3.0),
        (0.5, 0.9, 0.8, 2.0),
        (0.9, 0.3, 0.5, 0.2),
    ):
        for impl, ratio in (("dense", 1.0), ("dense-bf16", bf16), ("torch-csr", csr), ("sparsekern", ours)):
            rows.append(step(impl, sparsity, ratio))
    assert machine_tables.elsewhere(rows, "64x64", 8) == "30 to 40 %: dense; 50 %: bf16 0.80; 90 %: CSR 0.20"
    assert machine_tables.elsewhere(rows, "64x64", 9) == ""


def test_the_fastest_of_a_column_and_of_a_network_is_bold() -> None:
    rows = []
    for sparsity in (0.8, 0.9, 0.95, 0.98, 0.99):
        rows += [step("dense", sparsity, 1.0, "step 1024x1024", 128)]
        rows += [step("sparseprop", sparsity, 0.25, "step 1024x1024", 128)]
        rows += [step("sparsekern", sparsity, 1.1 - sparsity, "step 1024x1024", 128)]
    table = machine_tables.peers(rows).splitlines()
    assert table[3] == "| SparseProp | **0.25** | 0.25 | 0.25 | 0.25 | 0.25 |"
    assert table[4] == "| **sparsekern** | 0.30 | **0.20** | **0.15** | **0.12** | **0.11** |"
    network = {"pattern": "", "bytes": None, "sparsity": 0.0}
    runs = [step(impl, 0, ms, "step vgg16/32x32") | network for impl, ms in (("dense", 9.0), ("dense-compiled", 7.0))]
    runs += [step("sparsekern-bf16", 0, 8.0, "step vgg16/32x32") | network]
    assert "| vgg16, dense, compiled | **7** |" in machine_tables.training(runs)


def test_tables_of_scaling_and_of_the_largest_networks() -> None:
    rows = [step("sparsekern", 0.9, 1.0) | {"axis": "batch", "size": size} for size in (1, 4096)]
    fit = {"axis": "batch", "impl": "sparsekern", "ideal": 1, "slope": 0.75}
    fits = [fit | {"cost": "ms", "from": 64, "to": 4096}, fit | {"cost": "bytes", "from": None, "to": None}]
    last = machine_tables.scaling(rows, fits).splitlines()[-1]
    assert last == "| batch, sparsekern | 1 to 4,096 | 0.75 | 1 | 64 to 4,096 | 0.75 | 1 | nowhere |"
    widths = [{"kind": "dense", "gib": gib, "width": 1000 * gib} for gib in (4, 1)]
    assert machine_tables.largest(widths).splitlines()[-1] == "| dense | 1,000 | 4,000 |"


def test_a_new_machine_gets_a_table_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "other-1t"
    write(folder, "largest", [{"kind": "dense", "gib": 1, "width": 64}])
    (tmp_path / "digits").mkdir()
    (tmp_path / "digits" / "results.json").write_text(json.dumps({}))
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    assert tables.folders() == [folder]
    found = tables.of_machines({folder: machines.read(folder)})
    assert found["largest"].startswith("A processor, 3 threads, measured on 2026-01-01:\n\n| width |")
    assert found["linear"] == "Not measured yet."
