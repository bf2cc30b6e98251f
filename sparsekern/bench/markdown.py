"""Reports as markdown."""

from collections.abc import Iterable, Sequence
from math import inf, isnan, nan
from typing import Any

from .analysis import break_even

OP_NAMES = {
    "forward": "Forward",
    "input_gradient": "Input gradient",
    "weight_gradient": "Weight gradient at the nonzeros",
    "step": "Forward and backward through autograd",
}


def render(report: dict) -> str:
    """The whole report: machine, tables, what is missing. Rows of several benchmarks say of which each is."""
    tables = {
        "kernels": _kernels,
        "convolutions": _kernels,
        "crossovers": _crossovers,
        "moments": _moments,
        "train": _train,
        "memory": _memory,
        "threshold": _threshold,
        "scaling": _scaling,
        "largest": _largest,
    }
    if report["benchmark"] in tables:
        return "\n\n".join([_machine(report), *tables[report["benchmark"]](report["rows"])]) + "\n"
    parts = [_machine(report)]
    for name, body in tables.items():
        if rows := [row for row in report["rows"] if row["benchmark"] == name]:
            parts += [f"# {name.capitalize()}", *body(rows)]
    return "\n\n".join(parts) + "\n"


def crossover(points: Iterable[tuple[float, float]]) -> str:
    """The sparsity above which an implementation is faster than dense, interpolated, of `(sparsity, ratio)`."""
    ordered = sorted(points)
    found = break_even(ordered)
    if found == -inf:
        return f"below {ordered[0][0]:.0%}"
    return f"not by {ordered[-1][0]:.0%}" if found == inf else f"{found:.0%}"


def _machine(report: dict) -> str:
    processor = f"{report['cpu']}, {report['cores']} cores, {report['threads']} threads, {report['isa']} kernels"
    if "cuda" in report:
        processor = f"{report['card']}, CUDA {report['cuda']}; {processor}"
    lines = [
        f"{processor}; torch {report['torch']}, sparsekern {report['sparsekern']}, Python {report['python']}; "
        f"{report['date'][:10]}, load {report['load']} at the start."
    ]
    absent = [f"{name} ({state})" for name, state in report["peers"].items() if state.startswith("missing")]
    present = {name: state for name, state in report["peers"].items() if not state.startswith("missing")}
    if versions := sorted(
        {f"{name} {v}" for name, v in present.items() if not name.startswith(("sparsekern", "dense", "dpf"))}
    ):
        lines.append(f"Peers: {', '.join(versions)}.")
    if absent:
        lines.append(f"Not measured: {'; '.join(absent)}.")
    return "\n".join(lines)


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A markdown table, columns after the first to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", r"\|") for cell in line) + " |" for line in lines)


def _kernels(rows: list[dict]) -> list[str]:
    parts = ["Time divided by that of the dense product of the same run; below 1 is faster."]
    crossings: dict[tuple, dict[str, str]] = {}
    for op, title in OP_NAMES.items():
        of_op = [row for row in rows if row["case"].split()[0] == op]
        if of_op:
            parts.append(f"## {title}")
        for key in dict.fromkeys(_layer(row) for row in of_op):
            cells = [row for row in of_op if _layer(row) == key]
            sparsities = sorted({row["sparsity"] for row in cells})
            dense = [row["ms"] for row in cells if row["impl"] == "dense" and row["ms"] is not None]
            title = f"{key[0]} B={key[1]} {key[2]}"
            if dense:
                title += f", dense {min(dense):.3g} to {max(dense):.3g} ms"
            lines = []
            for impl in dict.fromkeys(row["impl"] for row in cells if row["impl"] != "dense"):
                ratios = {row["sparsity"]: row["ratio_to_dense"] for row in cells if row["impl"] == impl}
                if known := {s: ratio for s, ratio in ratios.items() if ratio is not None}:
                    lines.append([impl, *(_ratio(ratios.get(s)) for s in sparsities)])
                    if not impl.startswith("dense"):
                        crossings.setdefault((op, *key), {})[impl] = crossover(known.items())
            parts.append(f"**{title}**\n\n" + table(["", *(f"{s:.0%}" for s in sparsities)], lines))
    impls = list(dict.fromkeys(impl for found in crossings.values() for impl in found))
    lines = [
        [f"{op.replace('_', ' ')} {shape} B={batch} {dtype}", *(found.get(impl, "") for impl in impls)]
        for (op, shape, batch, dtype), found in crossings.items()
    ]
    if lines:
        parts += ["## Sparsity from which an implementation is faster than dense", table(["", *impls], lines)]
    reasons = {(row["impl"], row["missing"]) for row in rows if "missing" in row}
    if reasons:
        parts.append("No number: " + "; ".join(f"{impl}: {reason}" for impl, reason in sorted(reasons)) + ".")
    return parts


def _crossovers(rows: list[dict]) -> list[str]:
    points: dict[tuple[int, int], list[tuple[float, float]]] = {}
    for row in rows:
        if row["impl"] == "sparsekern" and row["ratio_to_dense"] is not None:
            width = int(row["case"].split()[1].partition("x")[0])
            points.setdefault((width, row["batch"]), []).append((row["sparsity"], row["ratio_to_dense"]))
    widths, batches = (sorted({key[i] for key in points}) for i in (0, 1))
    lines = [[w, *(crossover(points[w, b]) if (w, b) in points else "" for b in batches)] for w in widths]
    title = "The sparsity from which the step of a square linear layer is faster than dense, by width and batch."
    return [title, table(["width", *(f"batch {batch}" for batch in batches)], lines)]


def _layer(row: dict) -> tuple[str, int, str]:
    return row["case"].split()[1], row["batch"], row["dtype"]


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"


def _moments(rows: list[dict]) -> list[str]:
    """Ratios to dense, of a step also those that are aimed at: to the step without the moment, and of what the moment
    costs to what it costs with BackPACK."""
    parts = ["Time divided by that of the dense layer of the same run; below 1 is faster."]
    titles = {"gradient": "Weight gradient, dense", "step": OP_NAMES["step"], "training": "32 steps with SGD"}
    for op, title in titles.items():
        of_op = [row for row in rows if row["case"].split()[0] == op]
        impls = list(dict.fromkeys(row["impl"] for row in of_op if row["impl"] != "dense"))
        lines = []
        for key in dict.fromkeys((*_layer(row), row["sparsity"]) for row in of_op):
            found = {row["impl"]: row for row in of_op if (*_layer(row), row["sparsity"]) == key}
            ms = {impl: row["ms"] for impl, row in found.items() if row["ms"] is not None}
            dtype = "" if key[2] == "float32" else f" {key[2]}"
            line = [f"{key[0]} B={key[1]} {key[3]:.0%}{dtype}", f"{ms['dense']:.2f}" if "dense" in ms else ""]
            line += [_ratio(found[impl]["ratio_to_dense"]) if impl in found else "" for impl in impls]
            if op == "step":
                ours, dpf = ms.get("sparsekern", nan), ms.get("dpf", nan)
                shares = (ours / dpf, (ours - dpf) / (ms.get("backpack", nan) - ms.get("dense", nan)))
                line += ["" if isnan(share) else f"{share:.2f}" for share in shares]
            lines.append(line)
        last = ["sparsekern / dpf", "moment / BackPACK's"] if op == "step" else []
        parts += [f"## {title}", table(["", "dense ms", *impls, *last], lines)] if lines else []
    reasons = sorted({f"{row['impl']}: {row['missing']}" for row in rows if "missing" in row})
    return [*parts, f"No number: {'; '.join(reasons)}."] if reasons else parts


def _train(rows: list[dict]) -> list[str]:
    sections = ["Forward, loss, backward and SGD with momentum; ratios are to the dense network of the same run."]
    for case, dtype in dict.fromkeys((row["case"], row["dtype"]) for row in rows):
        of_case = [row for row in rows if (row["case"], row["dtype"]) == (case, dtype)]
        lines = [
            [
                _variant(row),
                f"{row['sparsity']:.1%}",
                "" if row["ms"] is None else f"{row['ms']:.1f}",
                _ratio(row["ratio_to_dense"]),
                "" if row["bytes"] is None else f"{row['bytes'] / 2**20:.0f}",
                _ratio(row["bytes_ratio"]),
            ]
            for row in of_case
        ]
        head = ["", "sparsity", "ms", "ratio", "peak MiB", "ratio"]
        title = f"{case}, batch {of_case[0]['batch']}" + (f", {dtype}" if dtype != "float32" else "")
        sections.append(f"**{title}**\n\n" + table(head, lines))
        timed = [row for row in of_case if "parts" in row]
        names = (
            [part for part in timed[0]["parts"] if any(row["parts"][part] >= 0.05 for row in timed)] if timed else []
        )
        spent = [[part, *(f"{row['parts'][part]:.1f}" for row in timed)] for part in names]
        if spent:
            sections.append("Milliseconds of a profiled step:\n\n" + table(["", *map(_variant, timed)], spent))
        reasons = [f"{_variant(row)}: {row['missing']}" for row in of_case if "missing" in row]
        sections += [f"No number: {'; '.join(reasons)}."] if reasons else []
    return sections


def _variant(row: dict) -> str:
    return row["impl"] if row["pattern"] in ("", "uniform") else f"{row['impl']}, pattern of {row['pattern']}"


def _memory(rows: list[dict]) -> list[str]:
    kind = "resident" if rows[0]["device"] == "cpu" else "allocated"
    parts = [f"Peak {kind} memory of training steps above that of the imported packages; lines are counted, in MiB."]
    for case in dict.fromkeys(row["case"] for row in rows):
        own = [row for row in rows if row["case"] == case]
        names = list(next((row["lines"] for row in own if "lines" in row), {}))
        lines = [
            [
                row["impl"],
                f"{row['sparsity']:.0%}",
                f"{row['bytes'] / 2**20:.1f}",
                _ratio(row["ratio_to_dense"]),
                *(f"{row['lines'][name] / 2**20:.1f}" if "lines" in row else "" for name in names),
            ]
            for row in own
        ]
        head = ["", "sparsity", "MiB", "ratio to dense", *names]
        parts.append(f"**{case}, batch {own[0]['batch']}**\n\n{table(head, lines)}")
    return parts


def _scaling(rows: list[dict]) -> list[str]:
    parts = ["Milliseconds and counted MiB of a training step."]
    for axis in dict.fromkeys(row["axis"] for row in rows):
        own = [row for row in rows if row["axis"] == axis]
        found = {(row["impl"], row["size"]): row for row in own}
        lines = []
        for size in sorted({row["size"] for row in own}):
            both = [found.get((impl, size)) for impl in ("dense", "sparsekern")]
            times = ["" if row is None else f"{row['ms']:.3g}" for row in both]
            lines.append([f"{size:,}", *times, *("" if row is None else f"{row['bytes'] / 2**20:.1f}" for row in both)])
        head = [axis, "dense ms", "sparsekern ms", "dense MiB", "sparsekern MiB"]
        parts.append(table(head, lines))
    return parts


def _largest(rows: list[dict]) -> list[str]:
    lines = [
        [row["case"], row["kind"], f"{row['width']:,}", f"{row['nonzeros']:,}", f"{row['bytes'] / 2**30:.2f}"]
        for row in rows
    ]
    head = ["", "network", "width", "weights of a layer", "peak GiB"]
    return ["The widest network found that trains in so much memory.", table(head, lines)]


def _threshold(rows: list[dict]) -> list[str]:
    base = next((row["ms"] for row in rows if row["impl"] == "torch.kthvalue"), None)
    lines = []
    for row in rows:
        measured = row["ms"] is not None
        times = f"{base / row['ms']:.1f}" if measured and base else ""
        lines.append([row["impl"], f"{row['ms']:.2f}" if measured else row["missing"], times])
    return [f"{rows[0]['case']}.", table(["", "ms", "times faster than torch.kthvalue"], lines)]
