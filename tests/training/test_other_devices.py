"""A training run on another device than the CPU: steps that change no pattern do not wait for it."""

import pytest
import torch
from support.elsewhere import DEVICE, elsewhere

from sparsekern.data import load
from sparsekern.training import Run, configure


def config(method: str) -> dict:
    given = {"method": method, "model": "lenet300", "epochs": 2, "batch_size": 256, "threads": 1}
    given["clip"] = 0  # PyTorch asks in C++ on which device gradients are, and is told the CPU
    return configure(**given if method in ("dense", "snr") else {**given, "sparsity": 0.8})


@pytest.mark.parametrize("method", ["dense", "gse_grabo", "dpf", "snr"])
def test_trains_elsewhere_as_here(method: str) -> None:
    found = []
    for device in ("cpu", DEVICE):
        with elsewhere() as waited:
            settings = config(method) | {"device": device}
            run = Run(settings, load(settings, False))
            losses, waits, checked = [], [], []

            def tick(run: Run = run, waits: list = waits, waited: list = waited, checked: list = checked) -> None:
                method = run.optimizer.method
                if not method.when.fires(run.step - (method.order != "before")):
                    waits.extend(waited)
                    checked.append(run.step)
                waited.clear()

            for _ in range(2):
                waited.clear()
                losses.append(run.train_epoch(tick))
            found.append((losses, run.evaluate(), {k: v.to("cpu") for k, v in run.model.state_dict().items()}))
            assert checked
            assert not waits
    (here, scores, state), (there, others, moved) = found
    assert here == there
    assert scores == others
    assert all(torch.equal(state[key], moved[key]) for key in state)
