"""The code of the documentation that needs other packages. `make test-integrations` has it."""

import doctest
import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from support.pages import PAGES, blocks, name, reader

transformers = pytest.importorskip("transformers")
OTHERS = [page for page in PAGES if any(block.language == "python" and not block.here for block in blocks(page))]


@pytest.fixture
def names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The names that a reader has, with two checkpoints and a data set for a small transformer."""
    monkeypatch.chdir(tmp_path)
    config = transformers.BertConfig(
        vocab_size=32, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64
    )
    model = transformers.BertForSequenceClassification(config)
    model.save_pretrained("a-dense-model")
    for layer in model.modules():
        if isinstance(layer, torch.nn.Linear):
            layer.weight.data *= torch.rand_like(layer.weight) > 0.7
    model.save_pretrained("a-pruned-model")
    tokens = torch.randint(32, (32, 8))
    return reader() | {"dataset": [{"input_ids": row, "labels": row[0] % 2} for row in tokens]}


@pytest.mark.parametrize("page", OTHERS, ids=name)
def test_python_runs_as_it_stands(page: Path, names: dict[str, Any]) -> None:
    for block in blocks(page):
        if block.language == "python":
            block.run(names)


@pytest.mark.parametrize("module", ["trainer", "lightning"])
def test_examples_of_docstrings_run(module: str, names: dict[str, Any]) -> None:
    if module == "lightning":  # takes a list for many loaders
        names["loader"] = torch.utils.data.DataLoader([(row, 0) for row in torch.randn(64, 20)], 32)
    found = importlib.import_module(f"sparsekern.integrations.{module}")
    (test,) = (test for test in doctest.DocTestFinder().find(found, globs={**vars(found), **names}) if test.examples)
    for example in test.examples:  # trainers print
        exec(example.source, test.globs)
