"""The code of the documentation runs as it stands: pages, notebooks, examples of docstrings, the page of every method.

The blocks of a page run one after another, in an empty folder. Those that need other packages: `tests/integrations/`.
"""

import doctest
import importlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support.pages import PAGES, ROOT, blocks, name, reader, snippets
from torch import distributed, nn

import sparsekern as sk
from docs.site import docstrings, results
from docs.site import methods as method_pages
from sparsekern import export
from sparsekern.ops.library import OPERATORS

EXAMPLES = [path for path in sorted(ROOT.glob("sparsekern/**/*.py")) if ">>> " in path.read_text()]
NOTEBOOKS = sorted(ROOT.glob("docs/notebooks/*.ipynb"))


@pytest.fixture
def names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """The names that a reader has, in an empty folder, as the only rank."""
    monkeypatch.chdir(tmp_path)
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    operators = dict(OPERATORS)
    yield reader()
    OPERATORS.clear()
    OPERATORS.update(operators)
    distributed.destroy_process_group()


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_python_runs_as_it_stands(page: Path, names: dict[str, Any], capsys: pytest.CaptureFixture) -> None:
    for block in blocks(page):
        if block.language == "python" and block.here:
            block.run(names)
    CHECKS.get(name(page), lambda names, out: None)(names, capsys.readouterr().out)


def check_ten_lines(names: dict[str, Any], out: str) -> None:
    assert "gse_grabo after 96 steps, sparsity 0.95" in out


def check_fine_tuning(names: dict[str, Any], out: str) -> None:
    assert float(out.split()[-1]) == pytest.approx(0.7, abs=1e-3)


def check_overrides(names: dict[str, Any], out: str) -> None:
    assert "set after 30 steps" in out
    assert [row["name"] for row in names["optimizer"].report().rows] == ["2", "0"]


def check_quick_start(names: dict[str, Any], out: str) -> None:
    assert names["accuracy"] > 0.9
    assert "rigl after 132 steps, sparsity 0.9000" in out
    state, other = names["optimizer"].state_dict(), names["resumed"].state_dict()
    assert state["steps"] == other["steps"] == 132


def check_concepts(names: dict[str, Any], out: str) -> None:
    first, second, third = out.splitlines()
    assert first.startswith("torch.Size([13108]) 13108")
    assert second.startswith("True")
    assert third.startswith("0.9 20 [20, 40, 60")


def check_migration(names: dict[str, Any], out: str) -> None:
    assert names["optimizer"].steps == 3


def check_many_machines(names: dict[str, Any], out: str) -> None:
    assert Path("runs/step-1000/.metadata").is_file()


def test_a_composition_of_your_own_moves_weights(names: dict[str, Any]) -> None:
    exec(snippets("docs/your-own-method.md")[0], names)
    method, model = names["method"], names["model"]
    optimizer = sk.Sparsifier(sk.sparsify(model, method), torch.optim.SGD(model.parameters(), lr=0.1), method)
    changes = []
    for step in range(names["steps"]):
        model(torch.randn(8, 20)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        changes += [step] * optimizer.rewired
    assert changes == [16, 32, 48, 64]  # steps count from 0
    assert sum(site.nnz for site in optimizer.sites) == 96


def test_a_method_of_your_own_trains_in_the_ten_lines(names: dict[str, Any], capsys: pytest.CaptureFixture) -> None:
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
    assert sum(int(mask.sum()) for mask in masks) == 96
    lowest = min(float(score[mask].min()) for score, mask in zip(scores, masks, strict=True))
    assert lowest >= max(float(score[~mask].max()) for score, mask in zip(scores, masks, strict=True))
    names["loss_fn"](names["model"](names["x"]), names["y"]).backward()


def check_a_reader_of_files_without_pytorch(names: dict[str, Any], out: str) -> None:
    layers = nn.Conv2d(4, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 1), nn.ConvTranspose2d(6, 6, 3), nn.ConvTranspose1d(6, 4, 3)
    model = sk.sparsify(nn.Sequential(*layers), 0.7, include="*")
    export.save(model, "model.safetensors", "safetensors")
    found = names["dense_weights"]("model.safetensors")
    assert [*found] == ["0", "2", "3", "4"]
    for layer_name, weight in found.items():
        layer: Any = model.get_submodule(layer_name)
        assert torch.equal(torch.from_numpy(weight.copy()), layer.weight)


def check_a_layer_of_your_own(names: dict[str, Any], out: str) -> None:
    x, model = torch.randn(4, 32), names["model"]
    sparse = [name for name, layer in model.named_modules() if isinstance(layer, sk.SparseLinear)]
    assert sparse == ["0.a", "0.b", "1"]
    expected = model(x)
    dense = sk.densify(model)
    assert type(dense[0]) is names["Gated"]
    torch.testing.assert_close(dense(x), expected)


CHECKS: dict[str, Callable[[dict[str, Any], str], None]] = {
    "README.md": check_ten_lines,
    "docs/fine-tuning.md": check_fine_tuning,
    "docs/overrides.md": check_overrides,
    "docs/quick-start.md": check_quick_start,
    "docs/concepts.md": check_concepts,
    "docs/migration.md": check_migration,
    "docs/many-machines.md": check_many_machines,
    "docs/files.md": check_a_reader_of_files_without_pytorch,
    "docs/extending.md": check_a_layer_of_your_own,
}


@pytest.mark.parametrize("path", [path for path in EXAMPLES if path.stem not in ("lightning", "trainer")], ids=name)
def test_examples_of_docstrings_run(path: Path, names: dict[str, Any]) -> None:
    module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"))
    found = [test for test in doctest.DocTestFinder().find(module, globs={**vars(module), **names}) if test.examples]
    assert found
    for test in found:
        assert not doctest.DocTestRunner().run(test).failed


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_notebooks_run(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPLBACKEND", "agg")
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    assert cells
    own: dict[str, Any] = {}
    for i, cell in enumerate(cells):
        exec(compile("".join(cell["source"]), f"{path.name}, cell {i}", "exec"), own)


@pytest.mark.parametrize("method", method_pages.NAMES)
@pytest.mark.filterwarnings("ignore")  # of a run as short as this
def test_the_page_of_a_method(method: str, names: dict[str, Any]) -> None:
    python, _ = blocks(ROOT / method, method_pages.usage(method))
    python.run(names)
    said = docstrings.options(sk.methods.get(method))
    assert all(text for _, text in said.values())


def test_measured_results_of_a_method() -> None:
    text = results.of("rigl")
    rows = json.loads((ROOT / "benchmarks" / "results" / "digits-mlp" / "results.json").read_text())["table"]
    (rigl,) = (row for row in rows if row["method"] == "rigl")
    assert f"| {100 * rigl['accuracy_mean']:.2f} ± {100 * rigl['accuracy_std']:.2f} |" in text
    assert text.endswith("</figure>")
