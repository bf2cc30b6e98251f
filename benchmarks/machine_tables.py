"""Tables of what was measured on one machine."""

from itertools import groupby

from benchmarks.goals import CONV_STEP, NEVER_SLOWER, STEP
from benchmarks.lookup import Rows, mlp, number, percents, ratio, ratios
from sparsekern.bench import markdown
from sparsekern.bench.analysis import fastest, is_ours, winner

LINEAR_SPARSITIES = (0.3, 0.4, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99)
CONV_SPARSITIES = (0.3, 0.4, 0.5, 0.8, 0.9, 0.95, 0.98)
PEERS = {
    "dense": "dense",
    "dense-compiled": "dense, `torch.compile`",
    "dense-bf16": "dense, bf16 autocast",
    "masked": "masked dense",
    "torch-csr": "`torch.sparse` CSR",
    "sparseprop": "SparseProp",
    "sparsekern": "**sparsekern**",
    "sparsekern-bf16": "**sparsekern**, bf16 autocast",
}
KINDS = {"dense": "dense", "masked": "masked dense", "sparseprop": "SparseProp", "sparsekern": "**sparsekern**"}
WINNERS = {
    "dense-compiled": "compiled",
    "dense-bf16": "bf16",
    "dense-channels-last": "channels_last",
    "dense-channels-last-bf16": "bf16",
    "masked": "masked",
    "torch-csr": "CSR",
    "sparseprop": "SparseProp",
    "sparseprop-width": "SparseProp",
}
FROM, ELSEWHERE = "faster than dense from", "where another wins"


def gains(kernels: Rows, convolved: Rows, held: Rows) -> str:
    """The table of the README: time and memory of a layer's training step, divided by the dense layer's."""
    sparsities = (0.5, 0.8, 0.9, 0.95, 0.98)
    lines = [
        [
            name,
            *ratios(rows, shape, batch, sparsities, crossing=False, dtype=dtype),
            ratios(rows, shape, batch, LINEAR_SPARSITIES, dtype=dtype)[-1],
            elsewhere(rows, shape, batch, dtype),
        ]
        for name, rows, shape, batch, dtype in (
            ("linear, 1024 x 1024, batch 128", kernels, "1024x1024", 128, "float32"),
            ("the same in bf16, divided by dense bf16", kernels, "1024x1024", 128, "bfloat16"),
            ("3 x 3 convolution, 64 channels at 32 x 32, batch 64", convolved, "conv3x3/64-64/32x32", 64, "float32"),
            ("the same, one image", convolved, "conv3x3/64-64/32x32", 1, "float32"),
            ("3 x 3 convolution, 256 channels at 8 x 8, one image", convolved, "conv3x3/256-256/8x8", 1, "float32"),
        )
    ]
    byte = {row["impl"]: row["bytes"] for row in mlp(held)}
    cells = [""] * (len(sparsities) + 2)
    cells[-3] = number(byte["sparsekern"] / byte["dense"])
    lines.append(["peak memory, three 4096 x 4096 layers", *cells])
    return markdown.table(["divided by dense", *percents(sparsities), FROM, ELSEWHERE], lines)


def networks(rows: Rows) -> str:
    """The table of the README: whole training steps at 95 %, divided by those of the dense network, and the fastest of
    ours divided by the fastest else."""
    lines = []
    for model, name in (("vgg16", "VGG-16"), ("resnet20", "ResNet-20")):
        own = [row for row in rows if row["case"] == f"step {model}/32x32" and row["pattern"] in ("", "uniform")]
        ms = {row["impl"]: row["ms"] for row in own}
        ours, other = (fastest(row for row in own if is_ours(row["impl"]) == kind) for kind in (True, False))
        if ours is not None and other is not None:
            ratios = (ms["sparsekern"] / ms["dense"], ours["ms"] / other["ms"])
            lines.append([name, *map(number, ratios), variant(other["impl"])])
    return markdown.table(["95 % sparse, divided by", "dense", "the fastest else", "which is"], lines)


def linear(rows: Rows) -> str:
    lines = []
    for shape, batch in sorted(STEP):
        inputs, outputs = shape.split("x")
        cells = ratios(rows, shape, batch, LINEAR_SPARSITIES)
        lines.append([f"{inputs} x {outputs}, {batch}", *cells, elsewhere(rows, shape, batch)])
    lines.sort(key=lambda line: int(line[0].split()[0]))
    return markdown.table(["layer, batch", *percents(LINEAR_SPARSITIES), FROM, ELSEWHERE], lines)


def peers(rows: Rows) -> str:
    """The fastest of a column is bold."""
    sparsities = (0.8, 0.9, 0.95, 0.98, 0.99)
    found = {impl: [ratio(rows, "1024x1024", 128, s, impl) for s in sparsities] for impl in PEERS}
    found = {impl: ratios for impl, ratios in found.items() if any(ratio is not None for ratio in ratios)}
    least = [min(r for r in column if r is not None) for column in zip(*found.values(), strict=True)]
    lines = [
        [PEERS[impl], *(_bold(number(r), r == best) for r, best in zip(ratios, least, strict=True))]
        for impl, ratios in found.items()
    ]
    return markdown.table(["step", *percents(sparsities)], lines)


def _bold(text: str, bold: bool) -> str:
    return f"**{text}**" if bold else text


def convolutions(rows: Rows) -> str:
    lines = []
    for shape, batch in (*CONV_STEP, *NEVER_SLOWER):
        kernel, channels, size = shape.removeprefix("conv").split("/")
        square, _, stride = kernel.partition("s")
        title = f"{square.replace('x', ' x ')}, {channels.replace('-', ' → ')}"
        title += f", stride {stride}" if stride else ""
        cells = ratios(rows, shape, batch, CONV_SPARSITIES)
        theirs = [ratio(rows, shape, batch, 0.9, impl) for impl in ("sparseprop", "sparseprop-width")]
        best = min((ratio for ratio in theirs if ratio is not None), default=None)
        title = f"{title}, {size.replace('x', ' x ')}, {batch}"
        lines.append([title, *cells, number(best), elsewhere(rows, shape, batch)])
    head = ["convolution, input, batch", *percents(CONV_SPARSITIES), FROM, "SparseProp, 90 %", ELSEWHERE]
    return markdown.table(head, lines)


def training(rows: Rows) -> str:
    """The fastest of a network is bold."""
    lines = []
    for row in rows:
        best = fastest(other for other in rows if other["case"] == row["case"])
        pattern = "" if not row["sparsity"] else f", {row['sparsity']:.0%} {row['pattern']}"
        model = row["case"].split()[1].split("/")[0]
        ms = "" if row["ms"] is None else _bold(f"{row['ms']:.0f}", row is best)
        held = "" if row["bytes"] is None else f"{row['bytes'] / 2**20:.0f}"
        cells = [ms, number(row["ratio_to_dense"]), held]
        lines.append([f"{model}, {variant(row['impl'])}{pattern}", *cells])
    return markdown.table(["network", "ms", "ratio to dense", "peak MiB"], lines)


def variant(impl: str) -> str:
    """The name of a network's variant: "dense, channels_last, bf16"."""
    kind, *options = impl.replace("channels-last", "channels_last").split("-")
    return ", ".join([KINDS[kind], *options])


def memory(rows: Rows) -> str:
    found = mlp(rows)
    return markdown.table([row["impl"] for row in found], [[f"{row['bytes'] / 2**20:.0f} MiB" for row in found]])


def scaling(rows: Rows, fits: Rows) -> str:
    """How time and memory grow, and within which sizes as they would if only what is computed and stored counted."""
    lines = []
    for (axis, impl), group in groupby(fits, key=lambda fit: (fit["axis"], fit["impl"])):
        sizes = [row["size"] for row in rows if (row["axis"], row["impl"]) == (axis, impl)]
        of = {fit["cost"]: fit for fit in group}
        cells = [
            cell
            for fit in (of["ms"], of["bytes"])
            for cell in (f"{fit['slope']:.2f}", f"{fit['ideal']:g}", _range(fit["from"], fit["to"]))
        ]
        lines.append([f"{axis}, {impl}", f"{min(sizes):,} to {max(sizes):,}", *cells])
    head = ["", "from, to", "time: slope", "ideal", "holds", "memory: slope", "ideal", "holds"]
    return markdown.table(head, lines)


def _range(low: float | None, high: float | None) -> str:
    return "nowhere" if low is None else f"{low:,} to {high:,}"


def largest(rows: Rows) -> str:
    memories = sorted({row["gib"] for row in rows})
    lines = []
    for kind in dict.fromkeys(row["kind"] for row in rows):
        of = {row["gib"]: row for row in rows if row["kind"] == kind}
        lines.append([kind, *(f"{of[gib]['width']:,}" if gib in of else "" for gib in memories)])
    return markdown.table(["width", *(f"{gib:g} GiB" for gib in memories)], lines)


def elsewhere(rows: Rows, shape: str, batch: int, dtype: str = "float32") -> str:
    """Where another implementation is the fastest of all that were measured, and its ratio to dense."""
    steps: dict[float, Rows] = {}
    for row in rows:
        if (row["case"], row["batch"], row["dtype"]) == (f"step {shape}", batch, dtype):
            steps.setdefault(row["sparsity"], []).append(row)
    won = [(sparsity, winner(steps[sparsity])) for sparsity in sorted(steps)]
    parts = []
    for impl, run in groupby(won, key=lambda pair: None if pair[1] is None else pair[1]["impl"]):
        found = [(sparsity, row["ratio_to_dense"]) for sparsity, row in run if row is not None]
        if impl is not None:
            ends = dict.fromkeys(f"{100 * sparsity:.3g}" for sparsity, _ in (found[0], found[-1]))
            name = f"{WINNERS.get(impl, impl)} {number(min(ratio for _, ratio in found))}"
            parts.append(f"{' to '.join(ends)} %: {name if impl != 'dense' else 'dense'}")
    return "; ".join(parts)
