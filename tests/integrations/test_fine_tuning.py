"""The guides that need other packages run as they stand."""

from pathlib import Path

import pytest
from support.pages import snippets

pytest.importorskip("transformers")


def test_fine_tuning_in_a_trainer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict = {"__name__": "page"}
    exec(snippets("docs/fine-tuning.md")[1], names)
    assert capsys.readouterr().out.splitlines()[-1] == "True"
    sparse = [layer for layer in names["model"].modules() if hasattr(layer, "topology")]
    assert len(sparse) == 14
    assert all(layer.topology.sparsity == pytest.approx(0.5, abs=0.02) for layer in sparse)
    assert (names["again"].model.layers[0].mlp.up_proj.weight == 0).float().mean() == pytest.approx(0.5, abs=0.02)
