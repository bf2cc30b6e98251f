"""The Python of the documentation runs as it stands; links and paths lead somewhere."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from support.pages import PAGES, ROOT, snippets
from torch import nn

import sparsekern as sk
from benchmarks import tables
from sparsekern import export

STEPS = 96


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_paths_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (page.parent / link).exists(), f"there is no {link}"
    if page.name == "CHANGELOG.md":  # speaks of what was
        return
    for path in re.findall(r"`((?:sparsekern|csrc|tests|docs|benchmarks)/[\w./-]+)`", text):
        assert "NAME" in path or (ROOT / path).exists(), f"there is no {path}"


def test_tables_are_those_of_the_committed_results() -> None:
    for page, text in tables.written().items():
        assert page.read_text() == text, "write them anew: python -m benchmarks.tables"


@pytest.fixture
def names() -> dict:
    torch.manual_seed(0)
    batches = [(x, x[:, :10].argmax(1)) for x in torch.randn(STEPS, 32, 20)]
    model = nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 10))
    return {
        "torch": torch,
        "sk": sk,
        "steps": STEPS,
        "model": model,
        "loader": batches,
        "loss_fn": nn.CrossEntropyLoss(),
    }


def test_ten_lines(names: dict, capsys: pytest.CaptureFixture):
    exec(snippets("README.md")[0], names)
    assert "gse_grabo after 96 steps, sparsity 0.95" in capsys.readouterr().out


def test_fine_tuning(capsys: pytest.CaptureFixture):
    exec(snippets("docs/fine-tuning.md")[0], {})
    assert float(capsys.readouterr().out.split()[-1]) == pytest.approx(0.7, abs=1e-3)


def test_overrides_and_several_methods(capsys: pytest.CaptureFixture):
    names: dict = {}
    for snippet in snippets("docs/overrides.md"):
        exec(snippet, names)
    assert "set after 30 steps" in capsys.readouterr().out
    assert [row["name"] for row in names["optimizer"].report().rows] == ["2", "0"]


def test_a_method_of_your_own_trains_in_the_ten_lines(names: dict, capsys: pytest.CaptureFixture):
    for snippet in snippets("docs/your-own-method.md")[:2]:
        exec(snippet, names)
    loop = [line for line in snippets("README.md")[0].splitlines() if not line.startswith(("import", "method ="))]
    exec("\n".join(loop), names)
    optimizer = names["optimizer"]
    assert "saliency after 96 steps, sparsity 0.9" in capsys.readouterr().out
    for site in optimizer.sites:
        assert site.tracked["saliency"].count_nonzero() > site.nnz  # pruned weights are followed, too
    masks = [site.active.mask() for site in optimizer.sites]
    scores = [site.tracked["saliency"] for site in optimizer.sites]
    assert sum(int(mask.sum()) for mask in masks) == 90
    lowest = min(float(score[mask].min()) for score, mask in zip(scores, masks, strict=True))
    assert lowest >= max(float(score[~mask].max()) for score, mask in zip(scores, masks, strict=True))
    names["loss_fn"](names["model"](names["loader"][0][0]), names["loader"][0][1]).backward()


def test_a_reader_of_files_without_pytorch(tmp_path: Path):
    names: dict = {}
    exec(snippets("docs/files.md")[0], names)
    model = sk.sparsify(nn.Sequential(nn.Conv2d(4, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 1)), 0.7, include="*")
    export.save(model, tmp_path / "model.safetensors", "safetensors")
    found = names["dense_weights"](str(tmp_path / "model.safetensors"))
    assert [*found] == ["0", "2"]
    for name, weight in found.items():
        layer: Any = model.get_submodule(name)
        assert torch.equal(torch.from_numpy(weight), layer.dense_weight())


def test_a_layer_of_your_own_is_taken_apart_and_put_together() -> None:
    names: dict = {"torch": torch, "sk": sk}
    exec(snippets("docs/extending.md")[0], names)
    x = torch.randn(4, 32)
    assert [name for name, layer in names["model"].named_modules() if isinstance(layer, sk.SparseLinear)] == [
        "0.a",
        "0.b",
        "1",
    ]
    expected = names["model"](x)
    dense = sk.densify(names["model"])
    assert type(dense[0]) is names["Gated"]
    torch.testing.assert_close(dense(x), expected)
