"""Old names of modules lead to new ones."""

import importlib
import pickle
import sys

import pytest

from sparsekern import SparseWeight
from sparsekern.moved import MOVED
from sparsekern.sparsity import schedules


@pytest.mark.parametrize("old", MOVED)
def test_an_old_name_warns_and_leads_to_the_module(old: str) -> None:
    sys.modules.pop(old, None)
    with pytest.warns(DeprecationWarning, match=f"{old} is now {MOVED[old]}"):
        module = importlib.import_module(old)
    assert module is importlib.import_module(MOVED[old])
    assert module.__spec__ is not None
    assert module.__name__ == module.__spec__.name == MOVED[old]


def test_a_pickle_of_version_0_1_loads() -> None:
    value = schedules.cosine(0.3, 100)
    old = pickle.dumps(value, protocol=2).replace(b"sparsity.parts.schedules", b"sparsity.schedules")
    assert pickle.loads(old) == value


def test_a_class_that_moved_is_found_where_it_was() -> None:
    assert importlib.import_module("sparsekern.topology").SparseWeight is SparseWeight
    old = pickle.dumps(SparseWeight, protocol=2).replace(b"sparsekern.sparse_weight", b"sparsekern.topology")
    assert pickle.loads(old) is SparseWeight


@pytest.mark.parametrize("name", ["RANDOM", "Initialize", "Start", "drawn", "elementwise"])
def test_what_starts_are_made_of_is_found_where_it_was(name: str) -> None:
    old, new = (importlib.import_module(f"sparsekern.sparsity.scoring.{module}") for module in ("network", "start"))
    assert getattr(old, name) is getattr(new, name)


@pytest.mark.parametrize(
    ("module", "old", "new"), [("after", "Rounds", "TrainingRounds"), ("force", "Rounds", "PruningRounds")]
)
def test_a_class_with_another_name_is_found_by_the_old_one(module: str, old: str, new: str) -> None:
    methods = importlib.import_module(f"sparsekern.sparsity.methods.{module}")
    value = getattr(methods, new)
    assert getattr(methods, old) is value
    pickled = pickle.dumps(value, protocol=2).replace(new.encode(), old.encode())
    assert pickle.loads(pickled) is value
