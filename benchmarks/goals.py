"""What the CPU kernels aim at, beside what was measured."""

from collections.abc import Iterator

from sparsekern.bench.table import crossover, grid

SPARSITIES = (0.8, 0.9, 0.95, 0.98, 0.99)

# Whole step through autograd divided by dense, fp32, at SPARSITIES.
STEP = {
    ("784x512", 128): (0.47, 0.33, 0.27, 0.20, 0.17),
    ("1024x1024", 128): (0.42, 0.24, 0.16, 0.11, 0.09),
    ("1024x1024", 32): (0.41, 0.28, 0.20, 0.12, 0.11),
    ("1024x1024", 512): (0.42, 0.24, 0.14, 0.09, 0.07),
    ("4096x4096", 128): (0.46, 0.24, 0.12, 0.07, 0.05),
}
BREAK_EVEN = 0.4
FORWARD_PEERS = {"torch-csr": ("torch-csr",), "MKL": ("mkl", "mkl-column")}
PEER_SHARE = 0.5
SPARSEPROP_SHARES = (0.6, 0.6, 0.5, 0.5, 0.5)  # at SPARSITIES
MEMORY = 70  # MiB
THRESHOLD = 20  # times faster than torch.kthvalue

Cell = tuple[str, str, int, float, str]  # operation, shape, batch, sparsity, implementation


def markdown(rows: dict[str, list[dict]]) -> str:
    """The goals that can be judged by the rows of each benchmark; what is missed is bold."""
    parts = ["# Goals", "Measured / goal; what is missed is bold."]
    if kernels := rows.get("kernels"):
        cells = {_cell(row): row for row in kernels if row["dtype"] == "float32" and row["ms"] is not None}
        parts += [_steps(cells), *_peers(cells), _break_even(cells)]
    for row in rows.get("memory", []):
        if row["impl"] == "sparsekern":
            parts.append(f"Memory of training steps: {_mark(row['bytes'] / 2**20, MEMORY, '.1f')} MiB.")
    times = {row["impl"]: row["ms"] for row in rows.get("threshold", [])}
    if times.get("sparsekern"):
        share = times["sparsekern"] / times["torch.kthvalue"]
        parts.append(f"k-th largest magnitude: {_mark(share, 1 / THRESHOLD, '.3f')} of torch.kthvalue.")
    return "\n\n".join(parts) + "\n"


def _cell(row: dict) -> Cell:
    op, shape = row["case"].split()
    return op, shape, row["batch"], row["sparsity"], row["impl"]


def _mark(value: float, goal: float, form: str = ".2f") -> str:
    text = f"{value:{form}} / {goal:{form}}"
    return text if value <= goal else f"**{text}**"


def _steps(cells: dict[Cell, dict]) -> str:
    lines = []
    for (shape, batch), goals in STEP.items():
        line = [f"{shape} B={batch}"]
        for sparsity, goal in zip(SPARSITIES, goals, strict=True):
            row = cells.get(("step", shape, batch, sparsity, "sparsekern"))
            line.append(_mark(row["ratio_to_dense"], goal) if row else "")
        lines.append(line)
    return "Step divided by dense:\n\n" + grid(["", *(f"{s:.0%}" for s in SPARSITIES)], lines)


def _peers(cells: dict[Cell, dict]) -> Iterator[str]:
    shares = {
        f"Forward divided by {name}": ("forward", impls, (PEER_SHARE,) * len(SPARSITIES))
        for name, impls in FORWARD_PEERS.items()
    }
    shares["Step divided by sparseprop"] = ("step", ("sparseprop",), SPARSEPROP_SHARES)
    for title, (op, impls, goals) in shares.items():
        lines = []
        for shape, batch in STEP:
            line = [f"{shape} B={batch}"]
            for sparsity, goal in zip(SPARSITIES, goals, strict=True):
                peers = [row["ms"] for impl in impls if (row := cells.get((op, shape, batch, sparsity, impl)))]
                row = cells.get((op, shape, batch, sparsity, "sparsekern"))
                line.append(_mark(row["ms"] / min(peers), goal) if row and peers else "")
            lines.append(line)
        yield f"{title}:\n\n" + grid(["", *(f"{s:.0%}" for s in SPARSITIES)], lines)


def _break_even(cells: dict[Cell, dict]) -> str:
    lines = []
    for shape, batch in STEP:
        points = [
            (sparsity, row["ratio_to_dense"])
            for (op, s, b, sparsity, impl), row in cells.items()
            if (op, s, b, impl) == ("step", shape, batch, "sparsekern")
        ]
        if points:
            worst = max((ratio for sparsity, ratio in points if sparsity >= BREAK_EVEN), default=0.0)
            found = crossover(points)
            lines.append([f"{shape} B={batch}", found if worst <= 1 else f"**{found}**"])
    return f"Step faster than dense from (goal: {BREAK_EVEN:.0%} or below):\n\n" + grid(["", "sparsity"], lines)
