"""Methods by name."""

import pytest

import sparsekern as sk


def test_names_and_errors() -> None:
    assert {"dense", "random", "snip", "set", "rigl", "gmp", "gse_grabo", "dpf"} <= {*sk.methods.names()}
    with pytest.raises(ValueError, match=r"unknown method 'grabo'; did you mean.*gse_grabo"):
        sk.methods.get("grabo")
    with pytest.raises(ValueError, match="steps_per_epoch"):
        sk.methods.gmp(sparsity=0.9, total_steps=100)
    with pytest.raises(ValueError, match="total_steps"):
        sk.methods.gse_grabo(sparsity=0.9)
    with pytest.raises(ValueError, match="multiplier must be at least 1"):
        sk.methods.gse_grabo(sparsity=0.9, total_steps=100, multiplier=0.5)
    with pytest.raises(ValueError, match=r"sparsity must lie in \[0, 1\)"):
        sk.methods.rigl(sparsity=1.2, total_steps=100)
    for name in ("rigl", "gmp", "gse_grabo"):
        with pytest.raises(ValueError, match=r"stop as a fraction of the run in \(0, 1\], got -1"):
            sk.methods.get(name)(sparsity=0.9, total_steps=100, steps_per_epoch=10, stop=-1)
    with pytest.raises(ValueError, match="distribution must be one of"):
        sk.methods.random(sparsity=0.5, share="even")
    for name in sk.methods.names():
        facts = sk.methods.describe(name)
        assert facts["title"]
        method = sk.methods.get(name)(sparsity=0.5, total_steps=100, steps_per_epoch=10)
        assert facts["needs_batches"] == method.needs_batches
        assert sk.methods.get(name).__doc__
