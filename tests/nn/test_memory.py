"""Peak resident memory, in a process of its own; what reports count."""

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from torch import nn

import sparsekern as sk
from sparsekern.nn.memory import COLUMNS
from sparsekern.ops import extension

SUPPORT = Path(__file__).parents[1] / "support"


def added_bytes(workload: str) -> int:
    """The peak resident bytes that a workload of `memory_probe` adds to the imported package."""
    command = [sys.executable, "-W", "ignore", str(SUPPORT / "memory_probe.py"), workload]
    result = subprocess.run(command, capture_output=True, text=True, cwd=SUPPORT.parents[1], env={"PYTHONPATH": "."})
    assert result.returncode == 0, result.stderr
    return int(result.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.skipif(extension is None, reason="the references expand the weight")
def test_a_layer_of_four_billion_weights_trains_within_three_quarters_of_a_gibibyte() -> None:
    assert added_bytes("huge_layer") <= 0.75 * 2**30


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.skipif(extension is None, reason="the references expand the weight")
@pytest.mark.parametrize("workload", ["huge_convolution", "gse_synflow", "gse_graest"])
def test_a_convolution_of_150_million_weights_trains_within_64_mebibytes(workload: str) -> None:
    assert added_bytes(workload) <= 64 * 2**20


@pytest.mark.parametrize(
    ("name", "numbers"), [("dpf", 0), ("optg", 2), ("snr", 1), ("snr_frozen", 1 + 2)]
)  # fp32, beside the optimizer's: momentum and score; ratio; ratio, stashed weight and its momentum
def test_what_a_method_keeps_beside_the_optimizer_is_counted(name: str, numbers: int) -> None:
    torch.manual_seed(0)
    method = sk.methods.get(name)(sparsity=0.5, total_steps=8, steps_per_epoch=1)
    model = sk.sparsify(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(32, 5)), method, exclude=["2"])
    optimizer = sk.Sparsifier(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), method)
    for _ in range(8):
        optimizer.zero_grad()
        model(torch.randn(4, 3, 4, 4)).square().mean().backward()
        optimizer.step()
        optimizer.epoch_end(1.0)
    site = optimizer.sites[0]
    assert site.nnz < site.size == 216
    kept = numbers * 4 * 216 + ("snr" in name) * 8  # a counter
    assert optimizer.kept_bytes(model[0]) == kept
    own, alone = (sk.memory_report(model, o).rows[0] for o in (optimizer, optimizer.optimizer))
    assert own["optimizer"] == alone["optimizer"] + kept
    assert own["dense_optimizer"] == alone["dense_optimizer"]
    assert own["gradients"] == 4 * (site.nnz if name == "snr_frozen" else 216 * (1 + (name == "snr"))) + 8 * 4


def test_a_report_has_full_names_aligned_columns_and_a_page() -> None:
    names = [f"encoder_layer_{i}_attention_self_query_of_the_text_model" for i in (0, 10)]
    model = nn.Module()
    for name in names:
        model.register_module(name, nn.Linear(40, 40))
    sk.sparsify(model, 0.9)
    report = sk.memory_report(model)
    head, *lines = str(report).splitlines()
    assert [line.split()[0] for line in lines] == [*names, "total"]
    end = head.index("values") + len("values")
    assert all(line[:end].endswith(f" {size} B") for line, size in zip(lines[:2], (160 * 4 + 40 * 4,) * 2, strict=True))
    assert len({len(line) for line in lines}) == 1
    table = ElementTree.fromstring(report._repr_html_())
    rows = [[cell.text for cell in row] for row in table.iter("tr")]
    assert [row[0] for row in rows] == ["layer", *names, "total"]
    total = report.total
    ours, dense = (sum(total[prefix + column] for column in COLUMNS) for prefix in ("", "dense_"))
    assert rows[-1][-1] == f"{ours / dense:.3f}"


@pytest.mark.skipif(extension is None, reason="the kernels are not compiled")
def test_a_block_of_the_weight_is_expanded_at_a_time() -> None:
    layer = sk.SparseLinear(1024, 1024, bias=False, sparsity=0.1, backend="dense")
    total = sk.memory_report(layer).total
    assert 0 < total["scratch"] <= torch.get_num_threads() * (400 << 10)
    assert total["values"] + total["indices"] < total["dense_values"]
    assert total["values"] + total["indices"] + total["scratch"] < 1.15 * total["dense_values"]


def test_layers_take_turns_with_the_workspace_of_expanded_weights() -> None:
    """What each keeps for its gradient is its own: transposed convolutions are expanded as a whole."""
    model = nn.Sequential(*(sk.SparseLinear(n, 200, sparsity=0.5, backend="dense") for n in (100, 200, 100)))
    scratch = [row["scratch"] for row in sk.memory_report(model).rows]
    assert scratch == [0, 4 * 200 * 200, 0]
    whole = sk.sparsify(nn.Sequential(*(nn.ConvTranspose2d(8, 8, 3) for _ in range(2))), 0.5)
    assert [row["scratch"] for row in sk.memory_report(whole).rows] == [4 * 8 * 8 * 9] * 2
