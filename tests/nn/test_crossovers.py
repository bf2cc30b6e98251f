"""Which table of measured crossovers is in use: this machine's, its family's, or the nearest one's."""

import json
import warnings
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.kernels import choose, choose_conv

import sparsekern as sk
from sparsekern import __version__
from sparsekern.bench import calibrate
from sparsekern.bench.calibrate import KERNELS
from sparsekern.bench.convolutions import Conv, ConvProblem
from sparsekern.bench.linear import Linear
from sparsekern.bench.problem import Problem
from sparsekern.bench.report import write
from sparsekern.nn import crossovers, processor
from sparsekern.nn.crossovers import Table
from sparsekern.nn.planned import Workload
from sparsekern.nn.processor import Processor

ZEN4 = Processor("AMD", "amd", "avx512", 512, "avx512", 32 << 10, 1 << 20, 32 << 20)
ICELAKE = Processor("Intel", "intel", "avx512", 1024, "fp32", 48 << 10, 5 << 18, 48 << 20)
SAPPHIRE = replace(ICELAKE, bf16="amx", l2=2 << 20)
AVX2 = replace(ICELAKE, isa="avx2", fma=512)
ZEN2 = replace(ZEN4, isa="avx2", bf16="fp32", l2=1 << 19)
GRAVITON = Processor("arm", "arm", "neon", 256, "fp32", 64 << 10, 1 << 20, 32 << 20)
LINEAR = {"rows": 1024, "cols": 1024, "batch": 128, "dtype": "float32"}
CONV = {"out": 64, "in": 64, "kernel": 3, "stride": 1, "size": 32, "batch": 64, "dtype": "float32"}


def table(where: Processor, tiled: float = 0.5, dtypes: tuple[str, ...] = ("float32",)) -> dict[str, Any]:
    """A report of one row for each dtype, in which tiles are faster above a density."""
    return {
        "sparsekern": __version__,
        "processor": asdict(where),
        "linear": [{**LINEAR, "dtype": dtype, "above": {"csr": 0.0, "tiled": tiled}} for dtype in dtypes],
        "convolutions": [{**CONV, "above": {"csr": 0.0, "dense": 0.7}}],
    }


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """`here(processor, families)` is a machine with these committed tables and an empty cache directory."""
    monkeypatch.setenv("SPARSEKERN_CACHE", str(tmp_path))

    def set_up(where: Processor, families: dict[str, dict]) -> None:
        tables = {name: crossovers.parsed(report, name) for name, report in families.items()}
        monkeypatch.setattr(processor, "here", lambda: where)
        monkeypatch.setattr(crossovers, "families", lambda: tables)
        crossovers.clear_cache()

    yield set_up
    crossovers.clear_cache()


FAMILIES = {"zen4": table(ZEN4), "icelake": table(ICELAKE), "avx2": table(AVX2)}


@pytest.mark.parametrize(
    ("where", "name", "how"),
    [
        (ZEN4, "zen4", "on a processor of this family"),
        (replace(ZEN4, name="another", l3=0), "zen4", "on a processor of this family"),
        (ICELAKE, "icelake", "on a processor of this family"),
        (SAPPHIRE, "icelake", "on the nearest of other"),
        (replace(ICELAKE, l1=32 << 10, l2=1 << 20), "icelake", "on the nearest of other"),  # Cascade Lake
        (replace(ICELAKE, fma=512), "zen4", "on the nearest of other"),  # one unit of 512 bits
        (ZEN2, "avx2", "on the nearest of other"),
        (GRAVITON, "avx2", "on the nearest of other"),
        (Processor("", "", "generic", 256, "fp32", 0, 0, 0), "avx2", "on the nearest of other"),
    ],
)
def test_the_nearest_family_is_in_use(where: Processor, name: str, how: str, here: Any) -> None:
    here(where, FAMILIES)
    found = crossovers.table()
    assert found.name == name
    assert how in found.origin


def test_a_dtype_has_a_nearest_family_of_its_own(here: Any) -> None:
    both = ("float32", "bfloat16")
    here(SAPPHIRE, {"icelake": table(ICELAKE, 0.1, both), "amx": table(replace(SAPPHIRE, fma=512), 0.2, both)})
    assert choose(1024, 1024, 0.12).kernel == "tiled"
    assert choose(1024, 1024, 0.12, dtype=torch.bfloat16).kernel == "csr"
    here(SAPPHIRE, {"icelake": table(ICELAKE, 0.1), "zen4": table(ZEN4, 0.2, both)})
    assert choose(1024, 1024, 0.12, dtype=torch.bfloat16).kernel == "csr"  # by the only one that measured it
    assert choose(1024, 1024, 0.12, dtype=torch.float64).kernel == "tiled"  # by fp32
    assert choose_conv(64, 64, (3, 3), (1, 1), 0.8, dtype=torch.bfloat16).kernel == "dense"


def test_fast_bf16_says_nothing_about_bf16_that_is_computed_in_fp32(here: Any) -> None:
    fast = table(SAPPHIRE)
    fast["convolutions"].append({**CONV, "dtype": "bfloat16", "above": {"csr": 0.0, "dense": 0.3}})
    for where, kernel in ((ICELAKE, "csr"), (ZEN2, "csr"), (SAPPHIRE, "dense"), (ZEN4, "dense")):
        here(where, {"icelake": table(ICELAKE), "amx": fast})
        assert choose_conv(64, 64, (3, 3), (1, 1), 0.5, dtype=torch.bfloat16).kernel == kernel
        assert choose_conv(64, 64, (3, 3), (1, 1), 0.5).kernel == "csr"


# ---- this machine's


def test_what_was_measured_here_goes_first(here: Any) -> None:
    here(ICELAKE, FAMILIES)
    threads = torch.get_num_threads()
    write(crossovers.cache_file(threads), table(ICELAKE, 0.1))
    write(crossovers.cache_file(threads + 1), table(ICELAKE, 0.2))
    assert crossovers.table().name == str(crossovers.cache_file(threads))
    assert "on this machine" in crossovers.table().origin
    assert choose(1024, 1024, 0.15).kernel == "tiled"
    torch.set_num_threads(threads + 1)
    assert choose(1024, 1024, 0.15).kernel == "csr"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "Expecting value"),
        ("[1]", "not a table"),
        (json.dumps({}), "not a table"),
        (json.dumps(table(ICELAKE) | {"linear": [LINEAR]}), "above"),
        (json.dumps(table(ICELAKE) | {"linear": [{**LINEAR, "above": {"csr": 0.0, "tiled": 2}}]}), "up to 1"),
        (json.dumps(table(ICELAKE) | {"linear": [{**LINEAR, "above": {"tiled": 0.0}}]}), "csr from density 0"),
        (json.dumps(table(ICELAKE) | {"linear": [{**LINEAR, "above": {}}]}), "csr from density 0"),
        (json.dumps(table(ICELAKE) | {"linear": [{**LINEAR, "rows": 0, "above": {"csr": 0.0}}]}), "positive rows"),
        (json.dumps(table(ICELAKE) | {"linear": []}), "no row of linear in float32"),
        (json.dumps(table(ICELAKE) | {"sparsekern": "0.0.1"}), "of version 0.0.1"),
        (json.dumps(table(SAPPHIRE)), "of another processor"),
    ],
)
def test_a_damaged_or_outdated_file_is_ignored_with_one_warning(content: str, why: str, here: Any) -> None:
    here(ICELAKE, FAMILIES)
    crossovers.cache_file(1).parent.mkdir(exist_ok=True)
    crossovers.cache_file(1).write_text(content)
    with pytest.warns(UserWarning, match=f"is ignored: .*{why}.*sparsekern calibrate"):
        assert crossovers.table().name == "icelake"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert choose(1024, 1024, 0.6).kernel == "tiled"


@pytest.mark.parametrize(
    ("system", "environment", "folder"),
    [
        ("linux", {}, "~/.cache/sparsekern"),
        ("linux", {"XDG_CACHE_HOME": "/caches"}, "/caches/sparsekern"),
        ("darwin", {"XDG_CACHE_HOME": "/caches"}, "~/Library/Caches/sparsekern"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/sparsekern"),
        ("win32", {}, "~/AppData/Local/sparsekern"),
        ("linux", {"XDG_CACHE_HOME": "/caches", "SPARSEKERN_CACHE": "/own"}, "/own"),
    ],
)
def test_the_folder_is_where_the_system_keeps_caches(
    system: str, environment: dict[str, str], folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crossovers.sys, "platform", system)
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA", "SPARSEKERN_CACHE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert crossovers.cache_folder() == Path(folder).expanduser()


# ---- the tables


def test_every_row_of_the_committed_tables_decides_for_its_layer(here: Any) -> None:
    files = sorted((Path(crossovers.__file__).parent / "tables").glob("*.json"))
    assert [path.stem for path in files] == sorted(crossovers.families())
    for path in files:
        report = json.loads(path.read_text())
        here(Processor(**report["processor"]), {path.stem: report})
        for row in report["linear"]:
            options = {"batch": row["batch"], "dtype": getattr(torch, row["dtype"])}
            assert choose(row["rows"], row["cols"], 1.0, **options).kernel == "dense"  # the values are the matrix
            assert choose(row["rows"], row["cols"], 0.95, **options).kernel == "dense"  # others would be larger
            for density in (0.01, 0.1):
                chosen = choose(row["rows"], row["cols"], density, **options).kernel
                assert chosen == _expected(row["above"], density), row
        for row in report["convolutions"]:
            shape = (row["out"], row["in"], (row["kernel"],) * 2, (row["stride"],) * 2)
            options = {"size": row["size"], "batch": row["batch"], "dtype": getattr(torch, row["dtype"])}
            assert choose_conv(*shape, 1.0, **options).kernel == "dense"
            for density in (0.01, 0.5, 0.95):
                chosen = choose_conv(*shape, density, **options).kernel
                assert chosen == _expected(row["above"], density), row


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_no_index_makes_a_layer_larger_than_its_dense_twin(here: Any, dtype: torch.dtype) -> None:
    """Measured on layers, whatever the committed tables say is fastest."""
    for path in sorted((Path(crossovers.__file__).parent / "tables").glob("*.json")):
        report = json.loads(path.read_text())
        here(Processor(**report["processor"]), {path.stem: report})
        for sparsity in (0.08, 0.3, 0.5, 0.55, 0.65, 0.7, 0.75, 0.8, 0.86, 0.9):
            layer = sk.SparseLinear(256, 256, bias=False, sparsity=sparsity, dtype=dtype)
            for batch in (1, 8, 32, 128, 512):
                kernel, reason = layer.new_plan(Workload(batch, None, dtype), None).at(1 - layer.topology.sparsity)
                layer._install(layer.topology, kernel, reason)
                held = layer.values.nbytes + sum(part.nbytes for part in layer.index)
                assert held <= 1.01 * 256 * 256 * dtype.itemsize, (path.stem, sparsity, batch, reason)


def _expected(above: dict[str, float], density: float) -> str:
    """The last kernel whose density is exceeded; weights are never expanded below 5 %."""
    return [k for k, a in above.items() if a < density and (k, density <= 0.05) != ("dense", True)][-1]


def test_calibration_finds_the_density_from_which_on_another_kernel_is_faster() -> None:
    densities = (0.1, 0.2, 0.4)
    assert calibrate.crossing(densities, [2, 1, 1], [1, 2, 4]) == pytest.approx(0.15)
    assert calibrate.crossing(densities, [1, 1, 1], [2, 2, 2]) == 0.0
    assert calibrate.crossing(densities, [1, 1, 3], [2, 2, 2]) == 1.0


TINY = calibrate.Effort(
    linear=[((48, 32, 8), "float32"), ((48, 32, 8), "bfloat16")],
    convolutions=[((16, 8, 3, 2, 6, 4), "float32")],
    densities=(0.1, 0.5),
    conv_densities=(0.1, 0.5),
    budget=0.005,
)


def test_a_calibration_is_a_table_by_which_layers_choose(here: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    here(ICELAKE, FAMILIES)
    told: list[str] = []
    path = calibrate.calibrate(1, effort=TINY, progress=told.append)
    assert path == crossovers.cache_file(1)
    assert [line.partition(": ")[0] for line in told] == [
        "32->48, batch 8, float32",
        "8->16, 3x3, stride 2, batch 4, float32",
        "32->48, batch 8, bfloat16",
    ]
    found = crossovers.table()
    assert isinstance(found, Table)
    assert found.calibrated
    assert list(found.linear[0]["above"])[:2] == ["csr", "tiled"]
    assert {"rows": 48, "cols": 32, "batch": 8, "dtype": "float32"}.items() <= found.linear[0].items()


def test_a_slow_machine_measures_less(here: Any) -> None:
    """One layer of each kind, whatever the time."""
    here(ICELAKE, FAMILIES)
    report = calibrate.run(threads=1, effort=replace(TINY, seconds=0.0))
    assert [len(report[kind]) for kind in crossovers.SHAPES] == [1, 1]
    assert all(effort.count == len(list(effort.layers())) for effort in (TINY, calibrate.QUICK, calibrate.THOROUGH))
    for effort in (calibrate.QUICK, calibrate.THOROUGH):  # which of them that is, and that no layer is there twice
        first = [next(shape for kind, shape, _ in effort.layers() if kind == wanted) for wanted in crossovers.SHAPES]
        assert [shape["dtype"] for shape in first] == ["float32", "float32"]
        assert len({str(layer) for layer in effort.layers()}) == effort.count


def test_an_interrupted_measurement_goes_on(here: Any) -> None:
    here(ICELAKE, FAMILIES)
    rows: list[str] = []

    def stop(report: dict) -> None:
        rows.append(json.dumps(report))
        if len(rows) == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        calibrate.run(threads=1, effort=TINY, save=stop)
    told: list[str] = []
    report = calibrate.run(threads=1, effort=TINY, report=json.loads(rows[0]), progress=told.append)
    assert len(told) == 2
    assert (len(report["linear"]), len(report["convolutions"])) == (2, 1)


def test_an_interrupted_calibration_leaves_what_was_there(here: Any) -> None:
    here(ICELAKE, FAMILIES)

    def stop(row: str) -> None:
        raise KeyboardInterrupt

    for before in ([], [crossovers.cache_file(1)]):
        with pytest.raises(KeyboardInterrupt):
            calibrate.calibrate(1, effort=TINY, progress=stop)
        assert sorted(crossovers.cache_folder().iterdir()) == before
        if not before:
            calibrate.calibrate(1, effort=TINY)


def test_kernels_are_measured_on_the_index_that_layers_hold() -> None:
    linear, conv = Problem(Linear(70, 40, 1, 0.5)), ConvProblem(Conv(8, 4, 6, 1, 0.5))
    cases = [(linear, sk.SparseLinear(70, 40, topology=linear.topology), "linear", kernel) for kernel in KERNELS]
    cases.append((conv, sk.SparseConv2d(8, 4, 3, topology=conv.topology), "convolutions", "dense"))
    for problem, layer, kind, kernel in cases:
        layer.set_kernel(kernel, "asked for")
        held = calibrate._ours(kind, "float32")[kernel].build(problem, "forward").bytes
        assert held == sum(t.numel() * t.element_size() for t in (layer.values, *layer.index)), (kind, kernel)
