"""The documentation is true: links and paths lead somewhere, commands exist, figures are those of the results.

`test_guides.py` runs its code.
"""

import importlib
import importlib.util
import os
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.pages import PAGES, ROOT, blocks, name

from benchmarks import index, inline, tables
from docs.site import methods as method_pages
from sparsekern.cli import commands

LANGUAGES = {"python", "sh", "yaml", "toml", "text", "cpp"}  # `text` is neither run nor parsed
NAV = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
HELP = (commands.TRAIN, commands.COMPARE, commands.BENCH)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_and_paths_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (page.parent / link).exists(), f"there is no {link}"
    if page.name == "CHANGELOG.md":  # speaks of what was
        return
    for path in re.findall(r"`((?:sparsekern|csrc|tests|docs|benchmarks)/[\w./-]+)`", text):
        assert "NAME" in path or (ROOT / path).exists(), f"there is no {path}"
    for target in re.findall(r"`make ([\w-]+)", text):
        assert_target(target)


def assert_target(target: str) -> None:
    assert re.search(rf"^{target}:|^\.PHONY:.*\b{target}\b", makefile(), re.MULTILINE), f"no make {target}"


def makefile() -> str:
    return (ROOT / "Makefile").read_text().replace("\\\n", " ")


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_lists_and_tables_stand_apart_as_the_site_needs_it(page: Path) -> None:
    before = ""
    for number, line in enumerate(re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL).splitlines(), 1):
        item = re.match(r"( *)(- |\d+\. )", line)
        inside = re.match(r" *(- |\d+\. )| |$|#|<!--", before)
        assert not item or inside, f"line {number}: an empty line is missing before the list"
        assert not item or len(item[1]) % 4 == 0, f"line {number}: indent a list within a list by four spaces"
        starts = line.startswith("|") and not before.startswith("|")
        assert not starts or re.match(r"$|<!--", before), f"line {number}: an empty line is missing before the table"
        before = line


def test_the_navigation_has_every_page() -> None:
    def entries(nav: list[Any]) -> Iterator[str]:
        for entry in nav:
            inside = next(iter(entry.values())) if isinstance(entry, dict) else entry
            yield from entries(inside) if isinstance(inside, list) else [inside]

    listed = [entry for entry in entries(NAV) if not entry.endswith("/")]
    assert len(listed) == len({*listed})
    assert {*listed} == {"index.md" if name(page) == "README.md" else name(page) for page in PAGES}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_exist_with_their_flags(page: Path) -> None:
    for block in blocks(page):
        assert block.language in LANGUAGES, f"line {block.line}: what is {block.language!r}?"
        if block.language == "sh":
            check_commands(block.commands())
        elif block.language == "yaml":
            assert yaml.safe_load(block.text)
        elif block.language == "toml" and sys.version_info >= (3, 11):
            assert importlib.import_module("tomllib").loads(block.text)


@pytest.mark.parametrize("text", HELP)
def test_commands_of_the_help_exist_with_their_flags(text: str) -> None:
    found = re.findall(r"^  (sparsekern .*?)(?:   .*)?$", text, re.MULTILINE)
    assert found
    check_commands(list(map(shlex.split, found)))


@pytest.mark.parametrize("method", method_pages.NAMES)
def test_commands_of_the_page_of_a_method(method: str) -> None:
    _, shell = blocks(ROOT / method, method_pages.usage(method))
    check_commands(shell.commands())


def check_commands(lines: list[list[str]]) -> None:
    for program, *words in lines:
        if program == "torchrun":
            arguments = torchrun().parse_args(words)
            assert arguments.module
            program, words = arguments.training_script, arguments.training_script_args
        if program == "sparsekern":
            commands.parser().parse_args(words)
        elif program == "make":
            for target in words:
                assert "=" in target or assert_target(target) is None
        elif program == "python":
            assert words[0] == "-m"
            assert importlib.util.find_spec(words[1]), f"no module {words[1]}"
        elif program == "pip":
            extras = re.findall(r"\[(\w+)\]", " ".join(words))
            known = (ROOT / "pyproject.toml").read_text()
            assert all(re.search(rf"^{extra} = \[", known, re.MULTILINE) for extra in extras)
        else:
            assert os.access(ROOT / program, os.X_OK), f"what is {program}?"


def torchrun() -> Any:
    return importlib.import_module("torch.distributed.run").get_args_parser()


# ---- figures


def test_tables_are_those_of_the_committed_results() -> None:
    for page, text in tables.written().items():
        assert page.read_text() == text, "write them anew: python -m benchmarks.tables"
    assert method_pages.GUIDE.read_text() == method_pages.written(), "write it anew: python -m docs.site.methods"


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
    of_machines = [path for folder in tables.folders() for path in folder.glob("*.json")]
    others = [p for p in index.RESULTS.iterdir() if p.suffix != ".md" and p not in tables.folders()]
    assert index.table().count("\n| [") == len(of_machines) + len(others)
    (tmp_path / "new.json").write_text("{}")
    monkeypatch.setattr(index, "RESULTS", tmp_path)
    monkeypatch.setattr(index, "OTHERS", {})
    with pytest.raises(ValueError, match=r"benchmarks/index\.py does not list new\.json"):
        index.table()
