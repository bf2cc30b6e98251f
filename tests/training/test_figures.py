"""The pictures of runs: which panels are drawn, and of what."""

from itertools import pairwise
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


def test_legends_cover_no_curve(monkeypatch: pytest.MonkeyPatch):
    for history in ([snr(n, NAMES) for n in (1, 2, 3)], [dpf(n, NAMES) for n in (1, 2)]):
        axes = drawn(monkeypatch, history)
        (figure,) = {axis.figure for axis in axes.values()}
        figure.draw_without_rendering()
        legends = [axis.get_legend() for axis in axes.values() if axis.get_legend() is not None]
        assert len(legends) >= 3
        for legend in legends:
            box = legend.get_window_extent()
            assert not any(box.overlaps(axis.get_window_extent()) for axis in axes.values())
            assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1


def test_time_and_memory_begin_at_zero_beside_the_dense_network(monkeypatch: pytest.MonkeyPatch):
    sizes = {"seconds_per_step": 0.002, "weight_bytes": 3 * 2**20, "dense_weight_bytes": 8 * 2**20}
    axes = drawn(monkeypatch, [dpf(n, NAMES) | sizes for n in (1, 2)])
    time, memory = axes["time per step"], axes["memory of the weights"]
    assert list(time.lines[0].get_ydata()) == [2, 2]
    assert [list(line.get_ydata()) for line in memory.lines] == [[3, 3], [8, 8]]
    assert time.get_ylim()[0] == memory.get_ylim()[0] == 0


def point(method: str, sparsity: float, accuracy: float, **more: float) -> dict:
    return {
        "method": method, "backend": "auto", "sparsity": sparsity, "accuracy_mean": accuracy, "accuracy_std": None,
        **more,
    }  # fmt: skip


def compared(monkeypatch: pytest.MonkeyPatch, table: list[dict], **more: Any) -> Any:
    """The picture of a comparison."""
    kept = []
    monkeypatch.setattr(comparison, "save", lambda drawing, path: kept.append(drawing))
    settings = {"model": "lenet300", "data": "mnist", "epochs": 1}
    figures.draw_comparison(Path("."), {"table": table, "settings": settings, "seeds": [0], **more})
    kept[0].draw_without_rendering()
    return kept[0]


def places(axis: Any) -> dict[tuple[str, float], str]:
    """The colours of the points by the name of their row and their number."""
    names = [label.get_text() for label in axis.figure.axes[0].get_yticklabels()]
    dots = [line for line in axis.lines if line.get_marker() in ("o", "s", "D")]
    return {(names[round(d.get_ydata()[0])], round(float(d.get_xdata()[0]), 6)): d.get_color() for d in dots}


def test_comparison_of_forty_methods_can_be_read(monkeypatch: pytest.MonkeyPatch):
    table = [point(f"method{i}", s, 0.98 - 0.001 * i * s) for s in (0.9, 0.98) for i in range(38)]
    table += [point("random", 0.9, 0.9), point("random", 0.98, 0.11), point("snr", 0.72, 0.97), point("dense", 0, 0.98)]
    drawing = compared(monkeypatch, table)
    (axis,) = drawing.axes
    names = [label.get_text() for label in axis.get_yticklabels()]
    assert (len(names), names[0], names[1], names[-1]) == (41, "dense", "method0", "random")
    assert "snr, 72 %" in names
    boxes = [label.get_window_extent() for label in axis.get_yticklabels()]
    assert not any(a.overlaps(b) for a, b in pairwise(boxes))
    assert axis.get_xlim()[0] > 80
    assert [text.get_text() for text in axis.texts] == ["◂ 90.0, 11.0"]
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["90 %", "98 %"]


def test_points_stand_where_their_numbers_are(monkeypatch: pytest.MonkeyPatch):
    """One standard deviation around the accuracy; time and memory from 0 on, a line at the dense network's."""
    cost = {"seconds_per_step": 0.002, "peak_weight_bytes": 2**21}
    table = [
        point("rigl", 0.9, 0.95, **cost) | {"accuracy_std": 0.01},
        point("set", 0.9, 0.94, **cost),
        point("dense", 0.0, 0.98, seconds_per_step=0.006, peak_weight_bytes=2**23),
    ]
    accuracy, time, memory = compared(monkeypatch, table, sparsities=[0.9]).axes
    assert places(accuracy).keys() == {("dense", 98), ("rigl", 95), ("set", 94)}
    assert places(time).keys() == {("dense", 6), ("rigl", 2), ("set", 2)}
    assert places(memory).keys() == {("dense", 8), ("rigl", 2), ("set", 2)}
    assert time.get_xlim()[0] == memory.get_xlim()[0] == 0
    (bar,) = [c for c in accuracy.containers if c.has_xerr]
    assert bar.lines[2][0].get_segments()[0][:, 0].tolist() == pytest.approx([94, 96])
    assert accuracy.get_legend() is None
    assert "90 % sparse" in accuracy.figure.get_suptitle()
