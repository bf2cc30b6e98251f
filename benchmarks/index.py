"""The index of the committed results, which docs/results.md shows."""

import json
from pathlib import Path
from typing import NamedTuple

from sparsekern.bench import machines, markdown

RESULTS = Path(__file__).parent / "results"
LINK = "../benchmarks/results"
UNKNOWN = "not recorded"


class Result(NamedTuple):
    """A file or folder of results.

    Attributes:
        what: what was measured.
        command: regenerates it; a name in brackets stands for a command further down on the page.
        machine, date: as they were noted when it was committed, where the file itself does not say.
    """

    what: str
    command: str
    machine: str = UNKNOWN
    date: str = ""


CPU = {  # <machine>/<benchmark>.json, by `python -m benchmarks.cpu <benchmark>`
    "kernels": "linear layers: single products and whole steps, beside every peer",
    "convolutions": "convolutions: single products and whole steps, beside every peer",
    "moments": "gradients with their second moment over the samples, beside BackPACK",
    "train": "training steps of VGG-16 and ResNet-20, their parts and peak memory",
    "memory": "memory of training steps, line by line and at its peak",
    "threshold": "the k-th largest of 25 million magnitudes",
    "crossovers": "from which sparsity on linear layers are faster than dense, by width and batch",
    "scaling": "time and memory of a training step by nonzeros, width, batch, depth and threads",
    "largest": "the widest network that trains in a given memory",
    "changes": "what a change of pattern costs, in training steps",
}
COMMANDS = {  # of those that `benchmarks.cpu` does not write by their name alone
    "changes": "benchmarks.changes",
    "train": "benchmarks.cpu train --compiled",
    "largest": "benchmarks.cpu largest --gib 1 --gib 4 --gib 16",
}
OTHERS = {
    "digits-mlp": Result(
        "eleven methods by their defaults, seven layers of 512 on digits", "[digits]", "AMD Zen 5", "2026-11-30"
    ),
    "mnist-lenet300": Result("eight methods at 98 % and their masked twins", "[mnist]", date="2026-11-21"),
    "cifar10-resnet20": Result("ResNet-20, 3 epochs: `gse_grabo` and its masked twin", "[cifar]", date="2026-11-21"),
    "paper-baselines": Result(
        "every method at 90 and 98 % on MNIST; the papers' orderings", "[papers]", "AMD Zen 5", "2026-12-01"
    ),
    "paper-prospr": Result("`prospr`, `snip`, `synflow`, `random` from 80 to 98 %", "[papers]", date="2026-11-22"),
    "paper-grabo": Result(
        "the sampled subset of `gse_*`; networks 1 to 8 times as wide", "[papers]", date="2026-11-21"
    ),
    "paper-snr": Result("`snr` and its two criteria beside `dpf` and `grasp_abs`", "[papers]", date="2026-11-22"),
    "paper-cifar": Result("ResNet-20, 8 epochs: `dpf`, `optg`", "[papers]", date="2026-11-21"),
    "paper-resnet20": Result(
        "ResNet-20, 3 epochs: nine methods at 90, 95 and 98 %; the papers' orderings",
        "`python -m benchmarks.papers resnet20 --data imagefolder --data-dir FOLDER --epochs 3 --seeds 0,1`",
        "AMD Zen 5",
        "2026-12-01",
    ),
    "paper-width": Result(
        "ResNet-20, 3 epochs: up to 4 times as wide, with as many weights",
        "`python -m benchmarks.papers width --data imagefolder --data-dir FOLDER --epochs 3 --seeds 0`",
        "AMD Zen 5",
        "2026-12-01",
    ),
    "paper-vit": Result(
        "a small vision transformer, 2 epochs: six methods at 90 %",
        "`python -m benchmarks.papers vit --data imagefolder --data-dir FOLDER --epochs 2 --seeds 0 "
        "--only 'dense-*,*-0.9-*'`",
        "AMD Zen 5",
        "2026-12-01",
    ),
    "paper-gpt": Result(
        "six methods on a small transformer, for as many steps and as much time", "[text]", "AMD Zen 5", "2026-11-30"
    ),
    "fine-tuning": Result(
        "a small transformer, pruned once and fine-tuned with its zeros kept",
        "`python -m benchmarks.tuning`",
        "AMD Zen 5",
    ),
    "ranks-vgg16": Result("bytes that data-parallel ranks reduce and keep", "`python -m benchmarks.ranks`", "any"),
    "gpu-compilation": Result(
        "registers and shared memory of every Triton kernel", "`make gpu-compile`", "any; no GPU needed", "2026-11-22"
    ),
}


def table() -> str:
    """Returns the index, a row for each result.

    Raises:
        ValueError: a committed file is in no row.
    """
    lines, listed = [], set()
    for path in sorted(RESULTS.glob("*/*.json")):
        if (benchmark := path.stem) in CPU:
            family = machines.make(path.parent, json.loads(path.read_text()))
            command = f"`python -m {COMMANDS.get(benchmark, f'benchmarks.cpu {benchmark}')}`"
            lines.append(_line(path, Result(CPU[benchmark], command, family)))
            listed.add(path.parent.name)
    for name, result in OTHERS.items():
        path = RESULTS / name if (RESULTS / name).is_dir() else RESULTS / f"{name}.json"
        if path.exists():
            lines.append(_line(path, result))
        listed |= {path.name, f"{name}.md"}
    if unlisted := {path.name for path in RESULTS.iterdir()} - listed:
        raise ValueError(
            f"benchmarks/index.py does not list {', '.join(sorted(unlisted))}: add what it is, and its command"
        )
    head = ["result", "what", "machine", "date", "training", "command"]
    return markdown.table(head, lines).replace("---:", "---")


def _line(path: Path, result: Result) -> list[str]:
    machine, date, shown = result.machine, result.date, path.relative_to(RESULTS).as_posix()
    name = shown.removesuffix(".json")
    if path.suffix != ".json":
        shown += "/table.md"
    else:
        report = json.loads(path.read_text())
        date = report.get("date", date)[:10]
        machine += f", {report['threads']} thread{'s' * (report['threads'] > 1)}" if "threads" in report else ""
    command = result.command
    if command.startswith("["):
        command = f"{command}(#{command.strip('[]')})"
    return [f"[{name}]({LINK}/{shown})", result.what, machine, date, _trained(path / "results.json"), command]


def _trained(path: Path) -> str:
    """The time that the runs of a comparison trained for, all together; nothing if its file does not say."""
    runs = json.loads(path.read_text())["runs"] if path.exists() else []
    if not runs or any("train_seconds" not in run for run in runs):
        return ""
    minutes = sum(run["train_seconds"] for run in runs) / 60
    return f"{minutes:.0f} min" if minutes < 100 else f"{minutes / 60:.1f} h"
