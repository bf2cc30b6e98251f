"""The guides run as they stand: the blocks of a page one after another, in an empty folder. Every command parses."""

import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support.pages import PAGES, ROOT, snippets
from torch import distributed, nn

import sparsekern as sk
from benchmarks import index, inline, tables
from sparsekern.cli import commands
from sparsekern.ops.library import OPERATORS

FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
HELP = (commands.TRAIN, commands.COMPARE, commands.BENCH)


@pytest.fixture
def names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: Callable[[int], None]) -> dict[str, Any]:
    monkeypatch.chdir(tmp_path)
    threads(1)  # small networks: two threads would wait for each other
    torch.manual_seed(0)
    return {"__name__": "page", "torch": torch, "sk": sk}


def run(page: str, names: dict[str, Any]) -> None:
    for block in snippets(f"docs/{page}.md"):
        exec(compile(block, f"docs/{page}.md", "exec"), names)


def test_quick_start(names: dict, capsys: pytest.CaptureFixture) -> None:
    run("quick-start", names)
    assert names["accuracy"] > 0.9
    assert "rigl after 132 steps, sparsity 0.9000" in capsys.readouterr().out
    state, other = names["optimizer"].state_dict(), names["resumed"].state_dict()
    assert state["steps"] == other["steps"] == 132


def test_concepts(names: dict, capsys: pytest.CaptureFixture) -> None:
    run("concepts", names)
    first, second, third = capsys.readouterr().out.splitlines()
    assert first.startswith("torch.Size([13108]) 13108")
    assert second.startswith("True")
    assert third.startswith("0.9 20 [20, 40, 60")


def test_migration(names: dict) -> None:
    with pytest.warns(UserWarning, match="of the model's 84480 weights are in sparse layers"):
        run("migration", names)
    assert names["optimizer"].steps == 3


def test_an_operator_of_your_own(names: dict) -> None:
    before = dict(OPERATORS)
    try:
        run("your-own-kernel", names)
    finally:
        OPERATORS.clear()
        OPERATORS.update(before)


def test_a_composition_of_your_own_moves_weights(names: dict) -> None:
    exec(snippets("docs/your-own-method.md")[0], names)
    model = sk.sparsify(nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 10)), names["method"])
    optimizer = sk.Sparsifier(model, torch.optim.SGD(model.parameters(), lr=0.1), names["method"])
    changes = []
    for step in range(names["steps"]):
        model(torch.randn(8, 20)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        changes += [step] * optimizer.rewired
    assert changes == [16, 32, 48, 64]  # steps count from 0
    assert sum(site.nnz for site in optimizer.sites) == 90


@pytest.fixture
def alone() -> Iterator[None]:
    """A process group of one."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.usefixtures("alone")
def test_many_machines(names: dict) -> None:
    names["model"] = nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 10))
    names["method"] = sk.methods.set(0.8, total_steps=100, every=10)
    run("many-machines", names)
    assert Path("runs/step-1000/.metadata").is_file()


def lines(text: str) -> Iterator[str]:
    """The commands of a shell block or of a help text."""
    for line in text.replace("\\\n", " ").splitlines():
        if found := re.match(r"\s*(?:torchrun .* -m )?(sparsekern .*)", line):
            yield found[1]


COMMANDS = sorted(
    {
        (str(page.relative_to(ROOT)), line)
        for page in PAGES
        for language, block in FENCE.findall(page.read_text())
        if language in ("", "sh")
        for line in lines(block)
    }
    | {("help", re.split(r"\s{3,}", line)[0]) for text in HELP for line in lines(text)}
)


@pytest.mark.parametrize(("page", "line"), COMMANDS)
def test_commands_parse(page: str, line: str) -> None:
    arguments = [word for word in shlex.split(line, comments=True)[1:] if word != "..."]
    assert commands.parser().parse_args(arguments).command == arguments[0]


def test_figures_within_sentences() -> None:
    machines = {"A": {"kernels": [row("csr", 0.9, 0.5), row("masked", 0.9, 1.25)]}, "B": {}}
    text = "takes <!-- = step 8x4 2 masked 0.9 -->old<!-- /= --> of it"
    assert inline.put(text, machines) == "takes <!-- = step 8x4 2 masked 0.9 -->1.25 on A<!-- /= --> of it"
    assert inline.figure("step 8x4 2 csr 0.9", machines | {"B": machines["A"]}) == "0.50 on A and 0.50 on B"
    with pytest.raises(ValueError, match=r"no results have the figure .step 8x4 2 csr 0\.8."):
        inline.figure("step 8x4 2 csr 0.8", machines)


def row(impl: str, sparsity: float, ratio: float) -> dict[str, Any]:
    case = {"case": "step 8x4", "batch": 2, "dtype": "float32"}
    return {**case, "impl": impl, "sparsity": sparsity, "ratio_to_dense": ratio}


def test_every_result_is_in_the_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert index.table(tables.FAMILIES).count("\n| [") == len([p for p in index.RESULTS.iterdir() if p.suffix != ".md"])
    (tmp_path / "new.json").write_text("{}")
    monkeypatch.setattr(index, "RESULTS", tmp_path)
    monkeypatch.setattr(index, "OTHERS", {})
    with pytest.raises(ValueError, match=r"benchmarks/index\.py does not list new\.json"):
        index.table(tables.FAMILIES)
