"""The goals of the CPU kernels and training steps, beside what was measured."""

from collections.abc import Iterator

from sparsekern.bench import markdown

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
# Whole step of convolutions, batch 64, divided by dense, at CONV_SPARSITIES.
CONV_SPARSITIES = (0.9, 0.95, 0.98)
CONV_STEP = {
    ("conv3x3/64-64/32x32", 64): (0.29, 0.21, 0.15),
    ("conv3x3/128-128/16x16", 64): (0.26, 0.17, 0.11),
    ("conv3x3/256-256/8x8", 64): (0.25, 0.15, 0.09),
}
SPARSEPROP_SHARE = 0.5  # at 90 %
NEVER_SLOWER = (  # than dense at 90 %
    ("conv1x1/256-64/16x16", 64),
    ("conv1x1/64-256/16x16", 64),
    ("conv3x3s2/64-128/32x32", 64),
    *((shape, batch) for shape in ("conv3x3/64-64/32x32", "conv3x3/256-256/8x8") for batch in (1, 8)),
)
# Whole training step, batch 128, uniform 95 %, divided by dense.
TRAIN = {"vgg16": 0.30, "resnet20": 0.50}
MOMENT_TO_DPF = 1.3  # of sequences and images
MOMENT_TO_BACKPACK = 0.5  # of what the moment costs
SNR_TRAINING = {"sparsekern-snr-32": 1.1, "sparsekern-snr-1": 1.5}  # divided by dense
MEMORY = 70  # MiB
THRESHOLD = 20  # times faster than torch.kthvalue

Cell = tuple[str, str, int, float, str]  # operation, shape, batch, sparsity, implementation
Goals = dict[tuple[str, int], tuple[float, ...]]  # by shape and batch


def render(rows: dict[str, list[dict]]) -> str:
    """The goals that can be judged by the rows of each benchmark; what is missed is bold."""
    parts = ["# Goals", "Measured / goal; what is missed is bold."]
    if kernels := rows.get("kernels"):
        cells = {_cell(row): row for row in kernels if row["dtype"] == "float32" and row["ms"] is not None}
        title = "Step divided by dense"
        parts += [_steps(title, STEP, SPARSITIES, cells), *_peers(cells), _break_even(STEP, cells)]
    if convolutions := rows.get("convolutions"):
        cells = {_cell(row): row for row in convolutions if row["dtype"] == "float32" and row["ms"] is not None}
        parts += [
            _steps("Step of a convolution divided by dense", CONV_STEP, CONV_SPARSITIES, cells),
            _break_even(CONV_STEP, cells),
            _conv_peers(cells),
        ]
    if train := rows.get("train"):
        parts.append(_train(train))
    if moments := rows.get("moments"):
        parts += [_moments(moments), _snr_training(moments)]
    for row in rows.get("memory", []):
        if row["impl"] == "sparsekern" and row["case"].startswith("mlp") and row["sparsity"] == 0.98:
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


def _steps(title: str, table: Goals, sparsities: tuple[float, ...], cells: dict[Cell, dict]) -> str:
    lines = []
    for (shape, batch), goals in table.items():
        line = [f"{shape} B={batch}"]
        for sparsity, goal in zip(sparsities, goals, strict=True):
            row = cells.get(("step", shape, batch, sparsity, "sparsekern"))
            line.append(_mark(row["ratio_to_dense"], goal) if row else "")
        lines.append(line)
    return f"{title}:\n\n" + markdown.table(["", *(f"{s:.0%}" for s in sparsities)], lines)


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
        yield f"{title}:\n\n" + markdown.table(["", *(f"{s:.0%}" for s in SPARSITIES)], lines)


def _break_even(table: Goals, cells: dict[Cell, dict]) -> str:
    lines = []
    for shape, batch in table:
        points = [
            (sparsity, row["ratio_to_dense"])
            for (op, s, b, sparsity, impl), row in cells.items()
            if (op, s, b, impl) == ("step", shape, batch, "sparsekern")
        ]
        if points:
            worst = max((ratio for sparsity, ratio in points if sparsity >= BREAK_EVEN), default=0.0)
            found = markdown.crossover(points)
            lines.append([f"{shape} B={batch}", found if worst <= 1 else f"**{found}**"])
    title = f"Step faster than dense from (goal: {BREAK_EVEN:.0%} or below)"
    return f"{title}:\n\n" + markdown.table(["", "sparsity"], lines)


def _conv_peers(cells: dict[Cell, dict]) -> str:
    """At 90 %: the faster mode of SparseProp where it runs, and dense."""
    lines = []
    for shape, batch in (*CONV_STEP, *NEVER_SLOWER):
        row = cells.get(("step", shape, batch, 0.9, "sparsekern"))
        modes = ("sparseprop", "sparseprop-width")
        peers = [peer["ms"] for impl in modes if (peer := cells.get(("step", shape, batch, 0.9, impl)))]
        if row:
            share = _mark(row["ms"] / min(peers), SPARSEPROP_SHARE) if peers else ""
            lines.append([f"{shape} B={batch}", share, _mark(row["ratio_to_dense"], 1.0)])
    return "Step of a convolution at 90 % divided by:\n\n" + markdown.table(["", "sparseprop", "dense"], lines)


def _train(rows: list[dict]) -> str:
    lines = []
    for row in rows:
        model = row["case"].split()[1].split("/")[0]
        if row["impl"] == "sparsekern" and row["ms"] is not None and model in TRAIN:
            goal = TRAIN[model] if row["pattern"] == "uniform" else None
            ratio = f"{row['ratio_to_dense']:.2f}" if goal is None else _mark(row["ratio_to_dense"], goal)
            lines.append([f"{model} B={row['batch']} {row['sparsity']:.0%} {row['pattern']}", ratio])
    return "Whole training step divided by dense:\n\n" + markdown.table(["", "ratio"], lines)


def _moments(rows: list[dict]) -> str:
    steps: dict[str, dict[str, float]] = {}
    for row in rows:
        op, shape = row["case"].split()
        if op == "step" and row["ms"] is not None:
            steps.setdefault(f"{shape} B={row['batch']}", {})[row["impl"]] = row["ms"]
    lines = []
    for case, ms in steps.items():
        if not {"dense", "dpf", "sparsekern"} <= set(ms):
            continue
        to_dpf = ms["sparsekern"] / ms["dpf"]
        many = "conv" in case or case.count("/") > 1  # positions
        line = [case, _mark(to_dpf, MOMENT_TO_DPF) if many else f"{to_dpf:.2f}", ""]
        if "backpack" in ms:
            line[-1] = _mark((ms["sparsekern"] - ms["dpf"]) / (ms["backpack"] - ms["dense"]), MOMENT_TO_BACKPACK)
        lines.append(line)
    head = ["", "step / dpf's", "its cost / BackPACK's"]
    return "The second moment over samples:\n\n" + markdown.table(head, lines)


def _snr_training(rows: list[dict]) -> str:
    ratios = {row["impl"]: row["ratio_to_dense"] for row in rows if row["case"].startswith("training")}
    marks = [f"{impl} {_mark(ratios[impl], goal)}" for impl, goal in SNR_TRAINING.items() if ratios.get(impl)]
    return f"Training steps of snr divided by dense: {', '.join(marks) or 'not measured'}."
