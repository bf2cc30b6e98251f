"""The Python of the README runs as it stands."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn

import sparsekern as sk

STEPS = 96
SNIPPETS = re.findall(r"```python\n(.*?)```", Path(__file__).parent.with_name("README.md").read_text(), re.DOTALL)


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
    exec(SNIPPETS[0], names)
    assert "gse_grabo after 96 steps, sparsity 0.95" in capsys.readouterr().out


def test_a_method_of_your_own_trains_in_the_ten_lines(names: dict, capsys: pytest.CaptureFixture):
    exec(SNIPPETS[1], names)
    loop = [line for line in SNIPPETS[0].splitlines() if not line.startswith(("import", "method ="))]
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
