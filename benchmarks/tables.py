"""Writes the tables and figures of README.md and docs/ anew from the committed results: `python -m benchmarks.tables`.

Between `<!-- name -->` and `<!-- /name -->` stands one table for every machine that has results of it. Figures within
sentences: `benchmarks/inline.py`. With `--pictures` those of docs/pictures are drawn, too, and of trainings beside
their results.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks import index, inline, machine_tables, run_tables
from benchmarks.papers import results as papers
from benchmarks.papers.experiments import EXPERIMENTS
from sparsekern.bench import machines, pictures
from sparsekern.training.figures import draw_comparison

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
PICTURES = ROOT / "docs" / "pictures"
RESULTS = Path(__file__).parent / "results"
DESCRIPTIONS = {  # of pictures, for those who do not see them
    "linear": "Training step of linear layers divided by dense, against sparsity, with break-evens",
    "convolutions": "Training step of convolutions divided by dense, against sparsity, with break-evens",
    "crossovers": "From which sparsity on linear layers are faster than dense, by width and batch",
    "steps": "Milliseconds of a training step by what they are spent on",
    "memory": "Memory of a training step against sparsity: values, indices, gradients, optimizer, scratch, activations",
    "scaling": "Time and memory of a training step by nonzeros, width, batch, depth and threads, with fitted slopes",
}
# Of machines: what makes the table, and the benchmarks whose rows it takes.
MACHINES: dict[str, tuple[Callable[..., str], tuple[str, ...]]] = {
    "gains": (machine_tables.gains, ("kernels", "convolutions", "memory")),
    "networks": (machine_tables.networks, ("train",)),
    "linear": (machine_tables.linear, ("kernels",)),
    "peers": (machine_tables.peers, ("kernels",)),
    "memory": (machine_tables.memory, ("memory",)),
    "convolutions": (machine_tables.convolutions, ("convolutions",)),
    "training": (machine_tables.training, ("train",)),
    "scaling": (machine_tables.scaling, ("scaling",)),
    "largest": (machine_tables.largest, ("largest",)),
}
# Of no machine in particular: what makes the table, and its file.
RUNS: dict[str, tuple[Callable[..., str], Path]] = {
    "cifar": (run_tables.cifar, RESULTS / "cifar10-resnet20" / "results.json"),
    "digits": (run_tables.digits, RESULTS / "digits-mlp" / "results.json"),
    "ranks": (run_tables.ranks, RESULTS / "ranks-vgg16.json"),
    "shards": (run_tables.shards, RESULTS / "ranks-vgg16.json"),
    "text": (run_tables.text, RESULTS / "paper-gpt" / "results.json"),
    "vision": (run_tables.vision, RESULTS / "paper-vit" / "results.json"),
    "widths": (run_tables.widths, RESULTS / "paper-width" / "results.json"),
    "tuning": (run_tables.tuning, RESULTS / "fine-tuning.json"),
    "twins": (run_tables.twins, RESULTS / "mnist-lenet300" / "results.json"),
    "methods-cifar": (partial(run_tables.reached, run_tables.CIFAR), RESULTS / "paper-cifar" / "results.json"),
    "methods-resnet": (partial(run_tables.reached, run_tables.RESNET), RESULTS / "paper-resnet20" / "results.json"),
    **{name: (make, RESULTS / "paper-baselines" / "results.json") for name, make in run_tables.BASELINES.items()},
}


def main() -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.tables", description=__doc__)
    parser.add_argument("--pictures", action="store_true", help="draw all pictures, too")
    if parser.parse_args().pictures:
        pictures.draw(folders(), PICTURES)
        draw_runs()
    for page, text in written().items():
        page.write_text(text)
    return 0


def folders() -> list[Path]:
    """The folders of the committed results that are a machine's."""
    names = {f"{benchmark}.json" for _, benchmarks in MACHINES.values() for benchmark in benchmarks}
    return sorted(folder for folder in RESULTS.iterdir() if any((folder / name).is_file() for name in names))


def written() -> dict[Path, str]:
    """The pages with the tables and figures of the committed results.

    Raises:
        ValueError: no page has a place for one of them.
    """
    pages = {page: page.read_text() for page in PAGES}
    found = {folder: machines.read(folder) for folder in folders()}
    for name, table in {**of_runs(), **of_machines(found), **of_pictures(), "results": index.table()}.items():
        if not any(f"<!-- {name} -->" in text for text in pages.values()):
            raise ValueError(f"no page has <!-- {name} --> ... <!-- /{name} -->")
        pages = {page: put(text, name, table) for page, text in pages.items()}
    rows = {machines.make(folder, next(iter(reports.values()))): _rows(reports) for folder, reports in found.items()}
    return {page: inline.put(text, rows) for page, text in pages.items()}


def draw_runs() -> None:
    """Draws what trainings found, from their committed results."""
    for path in RESULTS.glob("*/results.json"):
        found = json.loads(path.read_text())
        if "table" in found:
            draw_comparison(path.parent, found)
        else:
            papers.draw(path.parent, EXPERIMENTS[path.parent.name.removeprefix("paper-")], found["runs"])


def _rows(reports: dict[str, machines.Report]) -> dict[str, list[dict]]:
    return {name: report["rows"] for name, report in reports.items()}


def of_pictures() -> dict[str, str]:
    """The places of the pictures that are drawn."""
    links = {name: f"![{text}](pictures/{name}.png)" for name, text in DESCRIPTIONS.items()}
    return {f"picture-{name}": link if (PICTURES / f"{name}.png").exists() else "" for name, link in links.items()}


def of_runs() -> dict[str, str]:
    return {name: make(_read(path)) if path.exists() else "" for name, (make, path) in RUNS.items()}


def _read(path: Path) -> list[dict]:
    report = json.loads(path.read_text())
    return next(report[key] for key in ("table", "rows", "runs") if key in report)


def of_machines(found: dict[Path, dict[str, machines.Report]]) -> dict[str, str]:
    """Each table for every machine that has what it takes, below what that was measured with."""
    tables = {}
    for name, (make, benchmarks) in MACHINES.items():
        own = [captioned(make, folder, reports, benchmarks) for folder, reports in found.items()]
        tables[name] = "\n\n".join(table for table in own if table) or "Not measured yet."
    return tables


def captioned(
    make: Callable[..., str], folder: Path, reports: dict[str, machines.Report], benchmarks: tuple[str, ...]
) -> str:
    """The table of a machine below a caption, nothing if it lacks one of the benchmarks."""
    if any(benchmark not in reports for benchmark in benchmarks):
        return ""
    taken = [reports[benchmark] for benchmark in benchmarks]
    rows = [report["rows"] for report in taken] + [report["fits"] for report in taken if "fits" in report]
    caption = f"{machines.title(folder, taken[0])}, measured on {taken[0]['date'][:10]}{_spread(taken[0]['rows'])}:"
    return f"{caption}\n\n{make(*rows)}"


def _spread(rows: list[dict]) -> str:
    """How far the quartiles of times lie from their medians; nothing where a table has none."""
    found = sorted((row["q3_ms"] - row["q1_ms"]) / row["ms"] / 2 for row in rows if row.get("ms") and "q3_ms" in row)
    if not found:
        return ""
    half, most = found[len(found) // 2], found[len(found) * 9 // 10]
    return f"; quartiles ± {100 * half:.0f} % (nine of ten times: ± {100 * most:.0f} % or less)"


def put(text: str, name: str, table: str) -> str:
    """The text with `table` between the marks `name`, wherever it has them."""
    marks = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    return marks.sub(lambda found: f"{found[1]}{table}\n{found[2]}", text)


if __name__ == "__main__":
    sys.exit(main())
