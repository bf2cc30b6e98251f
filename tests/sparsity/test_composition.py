"""A method tells what it is made of, in a terminal and in a notebook."""

from xml.etree import ElementTree

import pytest

import sparsekern as sk


@pytest.mark.parametrize("name", sk.methods.names())
def test_every_method_tells(name: str) -> None:
    method = sk.methods.get(name)(sparsity=0.9, total_steps=3000, steps_per_epoch=100)
    lines = str(method).splitlines()
    assert lines[0].split() == ["method", name]
    told = dict(line.split("  ", 1) for line in lines)
    changes = [t for t in range(1, 3000) if method.when.fires(t)]
    if name != "dense":
        assert told["pattern changes"].strip().startswith("every" if len(changes) > 1 else ("never", "every"))
        assert told["sparsity"].split()[0] in ("0.9", "0", "0.5", "emerges")
    table = ElementTree.fromstring(method._repr_html_())
    assert [row[0].text for row in table.iter("tr")] == [line.split("  ")[0] for line in lines]


def test_what_is_told() -> None:
    method = sk.methods.rigl(0.9, 10_000)
    assert dict(line.split("  ", 1) for line in str(method).splitlines()) == {
        "method": "         rigl",
        "sparsity": "       0.9 of the weights",
        "first pattern": "  random, erk",
        "first weights": "  those of the model, times sqrt(dense fan-in / fan-in)",
        "pattern changes": "every 31 steps from step 31 on, until step 7500",
        "layers hold": "    their nonzeros",
        "weights compete": "within each layer",
        "grown": "          0.3 at first, 0 in the end, of the weights, by their gradients",
        "note": "           rigl: a change every 31 steps instead of 100, for the paper's 240 changes",
    }
    assert "that of the masks" in str(sk.methods.fixed())
    assert "emerges" in str(sk.methods.snr(total_steps=3000, steps_per_epoch=100))
    assert "channels" in str(sk.methods.prospr_channel(0.5))
