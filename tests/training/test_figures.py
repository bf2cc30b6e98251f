"""The pictures of runs: which panels are drawn, and of what."""

from pathlib import Path
from typing import Any

import pytest

from sparsekern.training import figures
from sparsekern.training.figures import comparison, curves

CONFIG = {"method": "snr", "model": "smallcnn", "data": "mnist", "seed": 0}


def epoch(number: int, layers: list[dict]) -> dict:
    loss = 1 / number
    return {
        "epoch": number, "train_loss": loss, "test_loss": 1.1 * loss, "test_accuracy": 1 - 0.5 / number,
        "sparsity": 0.7, "layers": layers,
    }  # fmt: skip


def layer(name: str, number: int, **more: float) -> dict:
    """A layer of a masked method after `number` epochs."""
    late = 1 - 1 / (1 + number)
    return {
        "name": name, "sparsity": 0.7 * late, "nnz": 1000, "iou_first": 1 - 0.5 * late, "iou_last": 0.9 + 0.1 * late,
        "flips": 100 // number, **more,
    }  # fmt: skip


def snr(number: int, names: list[str]) -> dict:
    masks = {"magnitude_sparsity": 0.8, "snr_sparsity": 0.9}
    return epoch(number, [layer(name, number, error=0.1 / number, **masks) for name in names])


def dpf(number: int, names: list[str]) -> dict:
    return epoch(number, [layer(name, number, error=0.1 * i / number) for i, name in enumerate(names)])


def drawn(monkeypatch: pytest.MonkeyPatch, history: list[dict]) -> dict[str, Any]:
    """The visible axes of the picture by their titles."""
    kept = []
    monkeypatch.setattr(curves, "save", lambda drawing, path: kept.append(drawing))
    figures.draw_run(Path("report.png"), CONFIG, history)
    return {axis.get_title(loc="left").split(":")[0]: axis for axis in kept[0].axes if axis.get_visible()}


def test_picture_of_a_deep_network_names_some_of_its_layers(monkeypatch: pytest.MonkeyPatch):
    axes = drawn(monkeypatch, [epoch(1, [layer(f"layer{i}", 1 + i) for i in range(60)])])
    sparsity, change = axes["sparsity of each layer at the end (all"], axes["pattern change since the start"]
    assert len(sparsity.patches) == len(change.lines) == 60
    names = [label.get_text() for label in sparsity.get_yticklabels()]
    assert (len(names), names[0], names[-1]) == (24, "layer0", "layer59")
    assert [text.get_text() for text in change.get_legend().get_texts()][::5] == ["layer0", "layer59"]


NAMES = ["conv1", "conv2", "conv3"]


def test_snr_shows_both_masks_their_change_and_the_error(monkeypatch: pytest.MonkeyPatch):
    axes = drawn(monkeypatch, [snr(n, NAMES) for n in (1, 2, 3)])
    assert len(axes) == 6
    bars = axes["zeros by criterion at the end (both"].patches
    assert [round(bar.get_width()) for bar in bars] == [80] * 3 + [90] * 3 + [52] * 3
    (first, *_) = axes["change of the mask, last update of each epoch"].lines
    assert list(first.get_ydata()) == pytest.approx([0.1 - 0.1 * (1 - 1 / (1 + n)) for n in (1, 2, 3)])
    assert list(axes["error of pruning"].lines[0].get_ydata()) == pytest.approx([0.1, 0.05, 0.1 / 3])


def test_dpf_shows_flips_and_error(monkeypatch: pytest.MonkeyPatch):
    axes = drawn(monkeypatch, [dpf(n, NAMES) for n in (1, 2)])
    assert list(axes["mask flips, last update of each epoch"].lines[2].get_ydata()) == [100, 50]
    assert list(axes["error of pruning"].lines[2].get_ydata()) == pytest.approx([0.2, 0.1])
    assert "sparsity of each layer at the end (all" in axes


def test_a_number_that_is_not_reported_is_not_drawn(monkeypatch: pytest.MonkeyPatch):
    history = [dpf(n, NAMES) for n in (1, 2)]
    del history[-1]["layers"][1]["error"]
    assert list(drawn(monkeypatch, history)) == [
        "loss", "test accuracy", "sparsity of each layer at the end (all", "pattern change since the start",
    ]  # fmt: skip
    assert len(drawn(monkeypatch, [epoch(1, [])])) == 4


def test_layers_that_are_named_late_begin_at_zero(monkeypatch: pytest.MonkeyPatch):
    history = [dpf(1, NAMES[:2]), dpf(2, NAMES)]
    assert list(drawn(monkeypatch, history)["error of pruning"].lines[2].get_ydata()) == pytest.approx([0, 0.1])


def point(method: str, sparsity: float, accuracy: float) -> dict:
    return {"method": method, "backend": "auto", "sparsity": sparsity, "accuracy_mean": accuracy, "accuracy_std": None}


def test_comparison_of_forty_methods_can_be_read(monkeypatch: pytest.MonkeyPatch):
    kept = []
    monkeypatch.setattr(comparison, "save", lambda drawing, path: kept.append(drawing))
    table = [point(f"method{i}", s, 0.98 - 0.001 * i * s) for s in (0.9, 0.98) for i in range(38)]
    table += [point("random", 0.9, 0.9), point("random", 0.98, 0.11), point("snr", 0.72, 0.97), point("dense", 0, 0.98)]
    settings = {"model": "lenet300", "data": "mnist", "epochs": 1}
    figures.draw_comparison(Path("."), {"table": table, "settings": settings, "seeds": [0]})
    (axis,) = kept[0].axes
    kept[0].draw_without_rendering()
    legend = axis.get_legend()
    names = [text.get_text() for text in legend.get_texts()]
    assert len(names) == 41
    assert {"dense  98.00", "snr  97.00 at 72 %", "method0", "random"} <= set(names)
    assert names.index("method0") < names.index("method37") < names.index("random")
    looks = {(line.get_color(), line.get_marker()) for line, *_ in axis.containers}
    assert len(looks) == 40
    box, page = legend.get_window_extent(), kept[0].bbox
    assert page.y0 <= box.y0 < box.y1 <= page.y1
    assert axis.get_position().width > 0.4
    assert axis.get_ylim()[0] > 80
    assert "random 98 % (11.0)" in axis.get_xlabel()
    assert [label.get_text() for label in axis.get_xticklabels()] == ["90 %", "98 %"]
