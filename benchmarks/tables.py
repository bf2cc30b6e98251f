"""Writes the tables and figures of README.md and docs/ anew from the committed results: `python -m benchmarks.tables`.

Between `<!-- name -->` and `<!-- /name -->` stands one table for every machine that has results of it. Figures within
sentences: `benchmarks/inline.py`.
"""

import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import index, inline, run_tables
from benchmarks.goals import CONV_STEP, NEVER_SLOWER, STEP
from benchmarks.lookup import Rows, accuracy, number, percents, ratio, ratios
from sparsekern.bench import markdown

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
RESULTS = Path(__file__).parent / "results"
RUNS = {  # of no machine in particular
    "cifar": RESULTS / "cifar10-resnet20" / "results.json",
    "digits": RESULTS / "digits-mlp" / "results.json",
    "ranks": RESULTS / "ranks-vgg16.json",
    "shards": RESULTS / "ranks-vgg16.json",
    "tuning": RESULTS / "fine-tuning.json",
    "twins": RESULTS / "mnist-lenet300" / "results.json",
    **dict.fromkeys(run_tables.BASELINES, RESULTS / "paper-baselines" / "results.json"),
}
RANKS = (64, 1024)
FAMILIES = {"amd-zen4-avx512": "AMD Zen 4", "intel-icelake-avx512": "Intel Ice Lake"}
LINEAR_SPARSITIES = (0.3, 0.4, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99)
CONV_SPARSITIES = (0.3, 0.4, 0.5, 0.8, 0.9, 0.95, 0.98)
PEERS = {
    "masked": "masked dense",
    "torch-csr": "`torch.sparse` CSR",
    "sparseprop": "SparseProp",
    "sparsekern": "**sparsekern**",
}
VARIANTS = {"dense": "dense", "masked": "masked dense", "sparsekern": "**sparsekern**"}


def main() -> int:
    for page, text in written().items():
        page.write_text(text)
    return 0


def machines() -> list[str]:
    """The machines of the committed results."""
    return sorted({path.stem.rpartition("-")[0] for path in RESULTS.glob("cpu-*.json")})


def written() -> dict[Path, str]:
    """The pages with the tables and figures of the committed results.

    Raises:
        ValueError: no page has a place for one of them.
    """
    pages = {page: page.read_text() for page in PAGES}
    for name in TABLES:
        if not any(f"<!-- {name} -->" in text for text in pages.values()):
            raise ValueError(f"no page has <!-- {name} --> ... <!-- /{name} -->")
        found = [render(name, [RUNS[name]])] if name in RUNS else [_captioned(name, machine) for machine in machines()]
        text = "\n\n".join(table for table in found if table is not None)
        pages = {page: put(old, name, text) for page, old in pages.items()}
    known = {title(machine): _rows(machine) for machine in machines()}
    pages = {page: put(text, "results", index.table(FAMILIES)) for page, text in pages.items()}
    return {page: inline.put(text, known) for page, text in pages.items()}


def title(machine: str) -> str:
    """What to call the processor of a machine's results."""
    family = machine.removeprefix("cpu-").rpartition("-")[0]
    return FAMILIES.get(family, family)


def _rows(machine: str) -> dict[str, Rows]:
    """The rows of a machine's results by benchmark."""
    return {path.stem.rpartition("-")[2]: _read(path) for path in RESULTS.glob(f"{machine}-*.json")}


def _read(path: Path) -> Rows:
    report = json.loads(path.read_text())
    return next(report[key] for key in ("table", "rows", "runs") if key in report)


def _captioned(name: str, machine: str) -> str | None:
    """The table `name` of a machine's results below what it was measured with."""
    paths = [RESULTS / f"{machine}-{kind}.json" for kind in TABLES[name][0]]
    if (table := render(name, paths)) is None:
        return None
    report = json.loads(paths[0].read_text())
    return f"{title(machine)}, {report['threads']} threads, measured on {report['date'][:10]}:\n\n{table}"


def render(name: str, paths: Sequence[Path]) -> str | None:
    """The table `name` of its results, None if some of these are not committed."""
    return TABLES[name][1](*map(_read, paths)) if all(path.exists() for path in paths) else None


def put(text: str, name: str, table: str) -> str:
    """The text with `table` between the marks `name`, wherever it has them."""
    marks = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    return marks.sub(lambda found: f"{found[1]}{table}\n{found[2]}", text)


def gains(kernels: Rows, convolved: Rows, held: Rows) -> str:
    """The table of the README: time and memory of a layer's training step, divided by the dense layer's."""
    sparsities = (0.5, 0.8, 0.9, 0.95, 0.98)
    lines = [
        [
            name,
            *ratios(rows, shape, batch, sparsities, crossing=False, dtype=dtype),
            ratios(rows, shape, batch, LINEAR_SPARSITIES, dtype=dtype)[-1],
        ]
        for name, rows, shape, batch, dtype in (
            ("linear, 1024 x 1024, batch 128", kernels, "1024x1024", 128, "float32"),
            ("the same in bf16", kernels, "1024x1024", 128, "bfloat16"),
            ("3 x 3 convolution, 64 channels at 32 x 32, batch 64", convolved, "conv3x3/64-64/32x32", 64, "float32"),
            ("the same, one image", convolved, "conv3x3/64-64/32x32", 1, "float32"),
            ("3 x 3 convolution, 256 channels at 8 x 8, one image", convolved, "conv3x3/256-256/8x8", 1, "float32"),
        )
    ]
    byte = {row["impl"]: row["bytes"] for row in held}
    cells = [""] * (len(sparsities) + 1)
    cells[-2] = number(byte["sparsekern"] / byte["dense"])
    lines.append(["peak memory, three 4096 x 4096 layers", *cells])
    return markdown.table(["divided by dense", *percents(sparsities), "below 1 from"], lines)


def networks(rows: Rows) -> str:
    """The table of the README: whole training steps at 95 %, divided by the dense network's."""
    lines = []
    for model, name in (("vgg16", "VGG-16"), ("resnet20", "ResNet-20")):
        own = [row for row in rows if row["case"] == f"step {model}/32x32"]
        ms = {row["impl"]: row["ms"] for row in own if row["pattern"] in ("", "uniform") and row["ms"]}
        fastest = {kind: min(t for impl, t in ms.items() if impl.startswith(kind)) for kind in ("sparsekern", "dense")}
        found = (ms["sparsekern"] / ms["dense"], fastest["sparsekern"] / fastest["dense"])
        lines.append([name, *map(number, found)])
    return markdown.table(["95 % sparse, divided by dense", "whole step", "fastest beside fastest"], lines)


def linear(rows: Rows) -> str:
    lines = []
    for shape, batch in sorted(STEP):
        inputs, outputs = shape.split("x")
        lines.append([f"{inputs} x {outputs}, {batch}", *ratios(rows, shape, batch, LINEAR_SPARSITIES)])
    lines.sort(key=lambda line: int(line[0].split()[0]))
    return markdown.table(["layer, batch", *percents(LINEAR_SPARSITIES), "faster than dense from"], lines)


def peers(rows: Rows) -> str:
    sparsities = (0.8, 0.9, 0.95, 0.98, 0.99)
    lines = [[name, *ratios(rows, "1024x1024", 128, sparsities, impl, crossing=False)] for impl, name in PEERS.items()]
    return markdown.table(["step", *percents(sparsities)], lines)


def convolutions(rows: Rows) -> str:
    lines = []
    for shape, batch in (*CONV_STEP, *NEVER_SLOWER):
        kernel, channels, size = shape.removeprefix("conv").split("/")
        square, _, stride = kernel.partition("s")
        title = f"{square.replace('x', ' x ')}, {channels.replace('-', ' → ')}"
        title += f", stride {stride}" if stride else ""
        cells = ratios(rows, shape, batch, CONV_SPARSITIES)
        theirs = [ratio(rows, shape, batch, 0.9, impl) for impl in ("sparseprop", "sparseprop-width")]
        best = min((each for each in theirs if each is not None), default=None)
        lines.append([f"{title}, {size.replace('x', ' x ')}, {batch}", *cells, number(best)])
    head = ["convolution, input, batch", *percents(CONV_SPARSITIES), "faster than dense from", "SparseProp, 90 %"]
    return markdown.table(head, lines)


def training(rows: Rows) -> str:
    lines = []
    for row in rows:
        kind, *options = row["impl"].replace("channels-last", "channels_last").split("-")
        impl = ", ".join([VARIANTS[kind], *options])
        pattern = "" if not row["sparsity"] else f", {row['sparsity']:.0%} {row['pattern']}"
        model = row["case"].split()[1].split("/")[0]
        ms = "" if row["ms"] is None else f"{row['ms']:.0f}"
        held = "" if row["bytes"] is None else f"{row['bytes'] / 2**20:.0f}"
        lines.append([f"{model}, {impl}{pattern}", ms, number(row["ratio_to_dense"]), held])
    return markdown.table(["network", "ms", "ratio to dense", "peak MiB"], lines)


def memory(rows: Rows) -> str:
    return markdown.table([row["impl"] for row in rows], [[f"{row['bytes'] / 2**20:.0f} MiB" for row in rows]])


def cifar(rows: Rows) -> str:
    names = {"masked": "masked twin", "auto": "on nonzeros", "sparse": "on nonzeros"}
    lines = [
        [
            row["method"]
            if row["method"] == "dense"
            else f"{row['method']} {row['sparsity']:.0%}, {names[row['backend']]}",
            accuracy(row["accuracy_mean"], row["accuracy_std"]),
            f"{row['train_seconds']:.0f}",
            f"{1e3 * row['seconds_per_step']:.0f}",
            f"{row['peak_memory_bytes'] / 2**20:.0f}",
        ]
        for row in rows
    ]
    return markdown.table(["", "test accuracy, %", "training, s", "ms per step", "peak MiB"], lines)


def digits(rows: Rows) -> str:
    """The first comparison of a newcomer: every method of it by its defaults, best first."""
    (dense,) = (row for row in rows if row["method"] == "dense")
    lines = [
        [
            row["method"] if row["method"] == "dense" else f"`{row['method']}`",
            f"{100 * row['sparsity']:.3g} %",
            accuracy(row["accuracy_mean"], row["accuracy_std"]),
            *(number(row[key] / dense[key]) for key in ("seconds_per_step", "train_seconds", "peak_weight_bytes")),
        ]
        for row in sorted(rows, key=lambda row: (row is not dense, -row["accuracy_mean"]))
    ]
    head = ["", "sparsity", "test accuracy, %", "median step", "all steps", "memory"]
    return markdown.table(head, lines)


def ranks(rows: Rows) -> str:
    """Bytes of data-parallel training. A ring of W ranks, which gloo and NCCL make of large reductions, sends
    2 (W - 1) / W times what a step reduces from each."""
    lines = []
    for row in rows:
        sent = (2 * (count - 1) / count * row["step"] for count in RANKS)
        lines.append([f"`{row['method']}`", *map(_bytes, (row["step"], row["change"], row["kept"], *sent))])
    of = [f"a rank of {count:,} sends" for count in RANKS]
    return markdown.table(["", "a step reduces", "a change of pattern, besides", "a rank keeps", *of], lines)


def shards(rows: Rows) -> str:
    """Bytes of training with fully_shard."""
    lines = []
    for row in rows:
        kept = (row["whole"] + row["split"] / count for count in RANKS)
        lines.append([f"`{row['method']}`", *map(_bytes, (row["split"], row["whole"], *kept))])
    of = [f"a rank of {count:,} keeps" for count in RANKS]
    return markdown.table(["", "all ranks together", "every rank, besides", *of], lines)


def _bytes(size: float) -> str:
    return f"{size / 1e6:.3g} MB" if size >= 1e4 else f"{size:.0f} B" if size else "0"


TABLES: dict[str, tuple[tuple[str, ...], Callable[..., str]]] = {
    "gains": (("kernels", "convolutions", "memory"), gains),
    "networks": (("train",), networks),
    "linear": (("kernels",), linear),
    "peers": (("kernels",), peers),
    "memory": (("memory",), memory),
    "convolutions": (("convolutions",), convolutions),
    "training": (("train",), training),
    "cifar": (("cifar",), cifar),
    "digits": (("digits",), digits),
    "ranks": (("ranks",), ranks),
    "shards": (("ranks",), shards),
    "twins": (("twins",), run_tables.twins),
    "tuning": (("tuning",), run_tables.tuning),
    **{name: ((name,), table) for name, table in run_tables.BASELINES.items()},
}

if __name__ == "__main__":
    sys.exit(main())
