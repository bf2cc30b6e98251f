"""Finds figures in the rows of committed results, and writes them as tables show them."""

from collections.abc import Iterable, Sequence

from sparsekern.bench import markdown
from sparsekern.bench.memory import SPARSITY

Rows = list[dict]
COLUMNS = ("case", "batch", "sparsity", "impl", "dtype")


def ratio(
    rows: Rows,
    shape: str,
    batch: int,
    sparsity: float,
    impl: str = "sparsekern",
    dtype: str = "float32",
    pass_: str = "step",
) -> float | None:
    """Returns the time of a layer's step, or of its "forward" pass, divided by the dense layer's; None if it was
    not measured."""
    key = (f"{pass_} {shape}", batch, sparsity, impl, dtype)
    return next((row["ratio_to_dense"] for row in rows if tuple(row[c] for c in COLUMNS) == key), None)


def ratios(
    rows: Rows,
    shape: str,
    batch: int,
    sparsities: Sequence[float],
    impl: str = "sparsekern",
    crossing: bool = True,
    dtype: str = "float32",
) -> list[str]:
    """Returns the cells of these ratios, and if `crossing` that of the sparsity from which on they are below 1."""
    found = {s: ratio(rows, shape, batch, s, impl, dtype) for s in sparsities}
    cells = [number(each) for each in found.values()]
    points = [(s, each) for s, each in found.items() if each is not None]
    return [*cells, markdown.crossover(points).replace("%", " %")] if crossing else cells


def number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"


def percents(sparsities: Iterable[float]) -> list[str]:
    return [f"{s:.0%}".replace("%", " %") for s in sparsities]


def accuracy(mean: float, std: float | None) -> str:
    return f"{100 * mean:.2f}" if std is None else f"{100 * mean:.2f} ± {100 * std:.2f}"


def mlp(rows: Rows) -> Rows:
    """The rows of the memory benchmark that are of its linear layers: dense, masked, and ours at as many zeros."""
    return [row for row in rows if row["case"].startswith("mlp") and row["sparsity"] in (0, SPARSITY)]
