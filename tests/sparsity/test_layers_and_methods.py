"""Every method trains every kind of layer as the masked twin of the network would be trained."""

import pytest
import torch
from support.trajectories import EMERGENT, OPTIMIZERS, OPTIONS, SPARSE, batches, chosen, expected, prepare, step

import sparsekern as sk

VOLUMES = [name for name in SPARSE if name in OPTIONS or name in ("snip", "synflow", "prospr", "three_sp")]
CASES = [*((name, "attention") for name in SPARSE), *((name, "volumes") for name in VOLUMES)]


@pytest.mark.filterwarnings("ignore:layer collapse")
@pytest.mark.parametrize(("name", "kind"), CASES)
def test_methods_take_the_layers(name: str, kind: str) -> None:
    runs = []
    for backend in ("auto", "masked"):
        model, sparsifier = prepare(kind, name, OPTIMIZERS["momentum"], backend, include="*")
        losses = []
        for batch in batches(kind):
            losses.append(step(model, sparsifier, batch))
            if name not in EMERGENT:
                assert chosen(sparsifier) == expected(sparsifier)
        runs.append((torch.stack(losses), [site.active.mask() for site in sparsifier.sites]))
        assert len(sparsifier.sites) >= 5
        with torch.no_grad():
            outputs = model.eval()(batch[0])
            torch.testing.assert_close(sk.densify(model)(batch[0]), outputs)
    torch.testing.assert_close(runs[1][0], runs[0][0])
    assert all(torch.equal(a, b) for a, b in zip(runs[0][1], runs[1][1], strict=True))
