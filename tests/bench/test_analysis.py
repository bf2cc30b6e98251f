"""Break-evens, winners and fitted slopes, of made-up rows."""

from math import inf

import pytest

from sparsekern.bench.analysis import break_even, growth, winner


def row(impl: str, ms: float | None) -> dict:
    return {"impl": impl, "ms": ms}


def test_break_even_lies_between_the_points_around_1() -> None:
    assert break_even([(0.9, 0.2), (0.3, 1.2), (0.5, 0.8)]) == pytest.approx(0.4)
    assert break_even([(0.3, 0.9), (0.5, 1.5), (0.9, 0.5)]) == pytest.approx(0.7)  # the last one counts
    assert break_even([(0.3, 0.9), (0.5, 0.8)]) == -inf
    assert break_even([(0.3, 1.4), (0.5, 1.0)]) == inf


def test_the_winner_is_who_beats_what_is_shown() -> None:
    assert winner([row("dense", 2.0), row("sparsekern", 1.0)]) is None
    assert winner([row("dense", 2.0), row("dense-bf16", 0.5), row("sparsekern", 1.0)]) == row("dense-bf16", 0.5)
    both = [row("dense-bf16", 0.5), row("sparsekern-bf16", 0.4), row("sparsekern", 1.0)]
    assert winner(both) == row("dense-bf16", 0.5)
    assert winner(both, "sparsekern-bf16") is None
    # a kernel that the layer did not choose is no help to a user
    assert winner([row("sparsekern-tiled", 0.1), row("dense", 0.5), row("sparsekern", 1.0)]) == row("dense", 0.5)
    assert winner([row("dense", None), row("masked", 3.0), row("sparsekern", None)]) == row("masked", 3.0)
    assert winner([row("dense", None)]) is None


@pytest.mark.parametrize("power", [-1.0, 0.0, 0.5, 1.0, 2.0])
def test_a_power_is_found_and_holds_everywhere(power: float) -> None:
    sizes = [3.0, 10.0, 47.0, 1000.0]
    fitted = growth([(size, 7 * size**power) for size in sizes], power)
    assert fitted.slope == pytest.approx(power)
    assert (fitted.low, fitted.high) == (3, 1000)


def test_where_a_cost_begins_and_stops_being_proportional() -> None:
    sizes = [2.0**i for i in range(11)]
    cost = [max(64.0, size, size**2 / 256) for size in sizes]  # fixed, then proportional, then out of the cache
    fitted = growth(list(zip(sizes, cost, strict=True)))
    assert (fitted.low, fitted.high) == (64, 256)
    assert 0 < fitted.slope < 1
    assert growth(list(zip(sizes, cost, strict=True)), 0.0)[1:] == (1, 64)
    assert growth([(1, 1), (2, 1), (4, 1)])[1:] == (None, None)


def test_least_squares_of_points_that_lie_on_no_line() -> None:
    assert growth([(1, 1), (10, 100), (100, 10)]).slope == pytest.approx(0.5)


@pytest.mark.parametrize("points", [[], [(1, 1)], [(1, 1), (1, 2)], [(1, 1), (2, 0)], [(-1, 1), (2, 1)]])
def test_points_that_have_no_slope_are_refused(points: list) -> None:
    with pytest.raises(ValueError, match="two or more points"):
        growth(points)
