"""The choice of a kernel: by what was measured on the processor or on the card, of which a command makes the table."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.kernels import choose, choose_conv
from torch import nn

import sparsekern as sk
from benchmarks import cards
from sparsekern.bench.suites import SUITES
from sparsekern.cli import info, main
from sparsekern.nn import crossovers, planned, processor
from sparsekern.nn import kernel_choice as choice

CARD = "A card"
SHAPE = {"out": 64, "in": 64, "kernel": 3, "stride": 1, "size": 32, "batch": 128}
ENTRY: dict[str, list[dict]] = {
    "linear": [
        {"rows": 4096, "cols": 4096, "batch": 16, "bits_below": 0.2, "masked_below": 0.1},
        {"rows": 4096, "cols": 4096, "batch": 128, "bits_below": 0.05, "masked_below": 0.02},
        {"rows": 512, "cols": 512, "batch": 128, "bits_below": 0.0, "masked_below": 0.0},
    ],
    "convolutions": [
        {**SHAPE, "bits_below": 0.1, "masked_below": 0.02},
        {**SHAPE, "kernel": 1, "bits_below": 0.02, "masked_below": 0.05},
    ],
}


# ---- on a CPU


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[dict]]:
    """What was measured, by kind, to be filled in."""
    measured: dict[str, list[dict]] = {"linear": [], "convolutions": []}
    monkeypatch.setattr(choice.crossovers, "rows", lambda kind, dtype: measured[kind])
    return measured


def test_a_kernel_is_taken_above_its_density(rows: dict[str, list[dict]]) -> None:
    shape = {"rows": 1024, "cols": 1024}
    rows["linear"] += [
        {**shape, "batch": 128, "above": {"csr": 0.0, "tiled": 0.1, "bits": 0.3, "dense": 0.7}},
        {**shape, "batch": 1, "above": {"csr": 0.0, "tiled": 1.0, "dense": 0.2}},
        {**shape, "batch": 512, "above": {"csr": 0.0, "tiled": 0.4, "bits": 0.0, "dense": 0.01}},
    ]

    def kernels(*densities: float, **options: Any) -> list[str]:
        return [choose(1024, 1024, density, **options).kernel for density in densities]

    edges = (0.0, 0.1, 0.11, 0.3, 0.31, 0.7, 0.71, 1.0)
    assert kernels(*edges) == ["csr", "csr", "tiled", "tiled", "bits", "bits", "dense", "dense"]
    assert kernels(0.2, 0.21, batch=1) == ["csr", "dense"]  # tiles never are faster there
    rows["linear"].append({**shape, "batch": 32, "above": {"csr": 0.0, "tiled": 0.0}})
    for backend in ("auto", "sparse"):  # nothing was measured where tiles are nearly empty
        assert kernels(1e-5, 0.006, 0.0061, batch=32, backend=backend) == ["csr", "csr", "tiled"]
    assert kernels(0.0, 0.01, 0.011, batch=512) == ["bits", "bits", "dense"]
    assert kernels(0.1, 0.11, 1.0, backend="sparse") == ["csr", "tiled", "tiled"]
    assert kernels(0.3, 0.3, backend="dense") == ["dense", "dense"]
    assert choose(2**14, 2**14, 0.71).kernel == "dense"  # of any size: nothing is expanded as a whole
    assert [choose(1024, 1024, density).reason for density in (0.05, 0.2)] == [
        "density 0.05 is at most 0.1, up to which csr is fastest at 1024->1024, batch 128",
        "density 0.2 is above 0.1, where tiled is fastest at 1024->1024, batch 128",
    ]


def test_convolutions_go_by_the_nearest_one(rows: dict[str, list[dict]]) -> None:
    for size, kernel, above in ((64, 3, 0.6), (256, 3, 1.0), (64, 1, 0.0)):
        shape = {"out": size, "in": size, "kernel": kernel, "stride": 1, "size": 8, "batch": 64}
        rows["convolutions"].append({**shape, "above": {"csr": 0.0, "dense": above}})

    def conv(density: float, channels: int = 64, kernel: int = 3, groups: int = 1, **options: Any) -> tuple[str, str]:
        shape = (channels * groups, channels, (kernel, kernel), (1, 1))
        return choose_conv(*shape, density, groups=groups, **options)

    nearest = "64->64, 3x3, stride 1, batch 64"
    assert conv(0.6) == ("csr", f"density 0.6 is at most 0.6, up to which csr is fastest at {nearest}")
    assert conv(0.61) == ("dense", f"density 0.61 is above 0.6, where dense is fastest at {nearest}")
    assert conv(0.9, 200) == ("csr", "fastest at every density measured at 256->256, 3x3, stride 1, batch 64")
    assert [conv(density, kernel=1)[0] for density in (0.05, 0.06)] == ["csr", "dense"]  # never expanded below 5 %
    assert conv(1.0, 1, groups=64)[0] == "csr"
    assert [conv(1.0, backend=name)[0] for name in ("sparse", "dense", "masked")] == ["csr", "dense", "masked"]
    assert conv(0.99, 2**14)[0] == "csr"  # the expanded weight would not fit
    with pytest.raises(ValueError, match="backend must be one of"):
        conv(0.5, backend="quick")


# ---- on a GPU


@pytest.fixture
def _measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "cards", lambda: {CARD: ENTRY})


def test_a_card_that_was_not_measured_expands() -> None:
    for chosen in (choose(1024, 1024, 0.001, card=CARD), choose_conv(64, 64, (3, 3), (1, 1), 0.001, card=CARD)):
        assert chosen == ("dense", "the expanded weight: no other kernel was measured on A card")
    assert choose(1024, 1024, 0.5, backend="sparse", card=CARD).kernel == "bits"
    assert choose_conv(64, 64, (3, 3), (1, 1), 0.5, groups=2, backend="sparse", card=CARD).kernel == "bits"


@pytest.mark.usefixtures("_measured")
def test_the_nearest_line_decides() -> None:
    def linear(size: int, density: float, **options: Any) -> str:
        return choose(size, size, density, card=CARD, **options).kernel

    assert [linear(4096, density, batch=16) for density in (0.2, 0.21)] == ["bits", "dense"]
    assert [linear(4096, density) for density in (0.05, 0.06)] == ["bits", "dense"]
    assert linear(3000, 0.05) == "bits"
    assert [linear(600, density) for density in (0.001, 0.0)] == ["dense", "dense"]
    assert choose(4096, 4096, 0.06, card=CARD).reason == (
        "density 0.06 is above 0.05, up to which bits are faster at 4096->4096, batch 128, on A card"
    )
    assert "at every density measured" in choose(512, 512, 0.01, card=CARD).reason

    def conv(kernel: int, density: float, **options: Any) -> str:
        return choose_conv(80, 60, (kernel, kernel), (1, 1), density, card=CARD, **options).kernel

    assert [conv(3, density) for density in (0.1, 0.11)] == ["bits", "dense"]
    assert [conv(1, density) for density in (0.02, 0.03)] == ["bits", "dense"]
    assert conv(3, 0.01, groups=2) == "dense"


@pytest.mark.usefixtures("_measured")
def test_masked_layers_go_by_what_they_run() -> None:
    """Bits of a dense weight, or, where its entries are transformed first, of nonzeros."""
    kernels = [choose(4096, 4096, density, batch=16, card=CARD, master=True).kernel for density in (0.1, 0.11)]
    assert kernels == ["bits", "dense"]
    for size in (1, 3):
        kernels = [choose_conv(64, 64, (size,) * 2, (1, 1), d, card=CARD, master=True).kernel for d in (0.02, 0.03)]
        assert kernels == ["bits", "dense"]


@pytest.mark.usefixtures("_measured")
def test_layers_ask_for_their_card_and_their_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planned, "card_of", lambda device: CARD)
    sparse, masked = (kind(64, 64, 3, sparsity=0.95) for kind in (sk.SparseConv2d, sk.MaskedConv2d))
    assert (sparse.kernel, masked.kernel) == ("bits", "dense")
    assert [kind(4096, 4096, sparsity=0.97).kernel for kind in (sk.SparseLinear, sk.MaskedLinear)] == ["bits", "dense"]
    assert sk.sparsify(nn.Sequential(nn.Linear(512, 512)), 0.99)[0].kernel == "dense"


@pytest.mark.usefixtures("_measured")
def test_info_says_why(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(planned, "card_of", lambda device: CARD)
    assert main(["info", "--model", "smallcnn", "--sparsity", "0.9", "--data", "cifar10"]) == 0
    out = capsys.readouterr().out
    assert "is at most 0.1, up to which bits are faster at 64->64, 3x3, stride 1, batch 128, on A card" in out
    assert "at every density measured at 512->512, batch 128, on A card" in out


def test_info_says_where_the_table_is_from(capsys: pytest.CaptureFixture) -> None:
    assert main(["info"]) == 0
    told = dict(line.split(None, 1) for line in capsys.readouterr().out.splitlines())
    assert told["processor"] == str(processor.here())
    assert told["table"] == crossovers.table().origin


def test_info_knows_the_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *arguments: CARD)
    assert info.facts().splitlines()[-1].endswith("A card, not measured: layers expand their weights")
    monkeypatch.setattr(info, "cards", lambda: {CARD: ENTRY})
    assert info.facts().endswith("A card, measured")


# ---- the table


def test_the_committed_table_can_be_read() -> None:
    for card, entry in choice.cards().items():
        for row in entry["linear"]:
            below, options = row["bits_below"], {"batch": row["batch"], "card": card}
            assert choose(row["rows"], row["cols"], below, **options).kernel == ("bits" if below else "dense")


Ms = Callable[[str, float, str], float | None]  # of an implementation, at a density, in a dtype


def _results(path: Path, ms: Ms, shapes: tuple[str, ...] = ("4096x1024",), **changes: Any) -> Path:
    rows = [
        {
            "benchmark": "convolutions" if shape.startswith("conv") else "kernels",
            "case": f"{op} {shape}",
            "impl": impl,
            "dtype": dtype,
            "sparsity": sparsity,
            "batch": 64,
            "ms": ms(impl, round(1 - sparsity, 6), dtype),
        }
        for shape in shapes
        for op in cards.PRODUCTS
        for dtype in ("bfloat16", "float32")
        for sparsity in (0.8, 0.9, 0.95, 0.98)
        for impl in ("dense", "sparsekern-expanded", "sparsekern-bits", "sparsekern-fused")
    ]
    rows.append({**rows[0], "benchmark": "threshold", "case": "topk_mask 10,000"})
    path.write_text(json.dumps({"card": CARD, "quick": False, "rows": rows} | changes))
    return path


def _ms(impl: str, density: float, dtype: str) -> float | None:
    """Bits are faster up to 10 %, in fp32 up to 5 %; of a dense weight never."""
    if impl == "sparsekern-bits":
        return 0.5 if density <= (0.1 if dtype == "bfloat16" else 0.05) else 2.0
    return 1.0


def test_an_entry_is_made_of_results(tmp_path: Path) -> None:
    (tmp_path / "nn").mkdir()
    (tmp_path / "nn" / "cards.json").write_text('{"Another": {"linear": [], "convolutions": []}}')
    shapes = ("4096x1024", "conv3x3s2/64-128/32x32")
    results = _results(tmp_path / "gpu.json", _ms, shapes, configurations={"_kernel": {"float32-12": 1}})
    assert cards.main([str(results), "--out", str(tmp_path)]) == 0
    table = json.loads((tmp_path / "nn" / "cards.json").read_text())
    below = {"batch": 64, "bits_below": 0.05, "masked_below": 0.0}
    assert table == {
        CARD: {
            "linear": [{"rows": 1024, "cols": 4096} | below],
            "convolutions": [{"out": 128, "in": 64, "kernel": 3, "stride": 2, "size": 32} | below],
        },
        "Another": {"linear": [], "convolutions": []},
    }
    tuned = json.loads((tmp_path / "ops" / "triton" / "configurations.json").read_text())
    assert tuned == {CARD: {"_kernel": {"float32-12": 1}}}


def _slow_once(impl: str, density: float, dtype: str) -> float | None:
    return 3.0 if impl == "sparsekern-bits" and density == 0.05 else 0.5 if impl == "sparsekern-bits" else 1.0


def _fails_once(impl: str, density: float, dtype: str) -> float | None:
    return None if impl == "sparsekern-bits" and density == 0.1 else _ms(impl, density, "bfloat16")


@pytest.mark.parametrize(("ms", "below"), [(_slow_once, 0.02), (_fails_once, 0.05)])
def test_below_the_break_even_it_was_always_faster(ms: Ms, below: float, tmp_path: Path) -> None:
    rows = json.loads(_results(tmp_path / "gpu.json", ms).read_text())["rows"]
    (line,) = cards.entry(rows)["linear"]
    assert line["bits_below"] == below


def test_the_three_products_count_together(tmp_path: Path) -> None:
    rows = json.loads(_results(tmp_path / "gpu.json", _ms).read_text())["rows"]
    for row in rows:
        if row["impl"] == "sparsekern-bits" and row["case"].startswith("weight_gradient"):
            row["ms"] = 1.9 if row["sparsity"] >= 0.95 else 2.1
    assert cards.entry(rows)["linear"][0]["bits_below"] == 0.05
    assert cards.entry([row for row in rows if not row["case"].startswith("forward")])["linear"] == []
    assert cards.entry([row for row in rows if row["dtype"] == "float32"])["linear"] == []


@pytest.mark.parametrize("changes", [{"card": "cpu"}, {"quick": True}, {"rows": []}])
def test_a_trial_is_no_measurement(changes: dict, tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        cards.main([str(_results(tmp_path / "gpu.json", _ms, **changes)), "--out", str(tmp_path)])
    assert not (tmp_path / "cards.json").exists()


@pytest.mark.filterwarnings("ignore:Sparse")
def test_names_of_the_benchmark_are_understood() -> None:
    found = {kind: SUITES["cuda"][kind].cases(True)[0].name.partition(" ")[2] for kind in ("kernels", "convolutions")}
    assert cards._layer(found["kernels"]) == {"rows": 160, "cols": 96}
    assert cards._layer(found["convolutions"]) == {"out": 8, "in": 8, "kernel": 3, "stride": 1, "size": 6}
