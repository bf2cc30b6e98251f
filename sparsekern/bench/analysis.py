"""Break-evens, winners and growth of costs, read off the rows of a report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import inf, log
from typing import Any, NamedTuple

LINEAR = 0.25  # a local slope this near to the expected one counts as such

Point = tuple[float, float]
Row = dict[str, Any]


def break_even(points: Iterable[Point]) -> float:
    """Returns the sparsity above which a ratio to dense stays below 1, interpolated.

    Args:
        points: pairs of a sparsity and a ratio.

    Returns:
        -inf if the ratio is below 1 at every sparsity, inf if it is not at the highest.

    Example:
        >>> round(break_even([(0.3, 1.2), (0.5, 0.8), (0.9, 0.2)]), 3)
        0.4
    """
    ordered = sorted(points)
    slower = [i for i, (_, ratio) in enumerate(ordered) if ratio >= 1]
    if not slower:
        return -inf
    if slower[-1] == len(ordered) - 1:
        return inf
    (s0, r0), (s1, r1) = ordered[slower[-1]], ordered[slower[-1] + 1]
    return s0 + (s1 - s0) * (r0 - 1) / (r0 - r1)


def is_ours(impl: str) -> bool:
    return impl.startswith("sparsekern")


def fastest(rows: Iterable[Row]) -> Row | None:
    """Returns the row with the least time, None if no row has one."""
    return min((row for row in rows if row["ms"] is not None), key=lambda row: row["ms"], default=None)


def winner(rows: Iterable[Row], ours: str = "sparsekern") -> Row | None:
    """Returns the fastest row that is not ours; None if that of `ours`, which is shown beside it, is as fast.

    Args:
        rows: those of one case at one sparsity.
    """
    best = fastest(row for row in rows if row["impl"] == ours or not is_ours(row["impl"]))
    return None if best is None or is_ours(best["impl"]) else best


class Growth(NamedTuple):
    """The growth of a cost with a size, on logarithmic scales.

    Attributes:
        slope: the exponent that fits all points best: 1 if the cost is proportional to the size.
        low, high: the ends of the longest range within which the local slope is the expected one, give or take
            `LINEAR`; both None if there is none.
    """

    slope: float
    low: float | None
    high: float | None


def growth(points: Sequence[Point], expected: float = 1.0) -> Growth:
    """Fits a power of the size to a cost.

    Args:
        points: at least two pairs of different sizes and costs, all positive.
        expected: the slope that is looked for: 1 for a cost that is proportional, 0 for one that stays.

    Raises:
        ValueError: there are fewer points, or one is not positive.

    Example:
        >>> growth([(1, 10), (2, 10), (4, 20), (8, 40), (16, 80)])[1:]  # a fixed cost below 2
        (2, 16)
    """
    ordered = sorted(points)
    if len({size for size, _ in ordered}) < 2 or min(min(point) for point in ordered) <= 0:
        raise ValueError(f"expected two or more points of different positive sizes with positive costs, got {points}")
    logs = [(log(size), log(cost)) for size, cost in ordered]
    best: tuple[int, int] | None = None
    start = 0
    for i in range(len(logs) - 1):
        if abs(_slope(logs[i : i + 2]) - expected) > LINEAR:
            start = i + 1
        elif best is None or i + 1 - start > best[1] - best[0]:
            best = start, i + 1
    low, high = (None, None) if best is None else (ordered[best[0]][0], ordered[best[1]][0])
    return Growth(_slope(logs), low, high)


def _slope(points: Sequence[Point]) -> float:
    """Returns the slope of the line of least squares."""
    x, y = (sum(values) / len(points) for values in zip(*points, strict=True))
    return sum((a - x) * (b - y) for a, b in points) / sum((a - x) ** 2 for a, _ in points)
