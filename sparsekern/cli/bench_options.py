"""The benchmarks of `sparsekern bench` and the flags of each. PyTorch is not imported here, see `commands.py`."""

import argparse
from pathlib import Path

from .options import above_zero, numbers, processors

BENCH = """\
Prints tables; --json keeps every row. Results are checked before they are timed, those of train in fp32: a wrong one
is not timed. `sparsekern bench BENCHMARK --help` has the flags of each.

  sparsekern bench convolutions --case "step conv3x3/64-64 90%" --impl sparsekern-csr,sparseprop
  sparsekern bench kernels --json laptop/kernels.json
  sparsekern bench report laptop server --out pictures
"""

# Of kernels: what each measures.
KERNELS = {
    "kernels": "forward, input gradient, weight gradient and whole step of linear layers, beside other packages",
    "convolutions": "forward, gradients and whole step of convolutions, beside other packages",
    "crossovers": "from which sparsity on linear layers are faster than dense, by width and batch",
    "moments": "gradients with their second moment over samples, beside gradients alone and BackPACK",
    "threshold": "the k-th largest of 25 million magnitudes; on a GPU the mask of 100 million weights",
}
BENCHMARKS = {
    **KERNELS,
    "train": "whole training steps of networks: time, where it goes, peak memory; on a GPU also in bf16",
    "memory": "memory of training steps, line by line and at its peak: dense, masked, sparse",
    "scaling": "time and memory of a step by nonzeros, width, batch, depth and threads, with fitted slopes",
    "largest": "the widest network that trains in 1 and 4 GiB, dense and sparse",
}
CPU_ONLY = ("crossovers", "scaling", "largest")


def add_benchmarks(parser: argparse.ArgumentParser) -> None:
    """Adds the benchmarks of `sparsekern bench` to its parser, each with its flags."""
    benchmarks = parser.add_subparsers(dest="what", metavar="BENCHMARK", required=True)
    for name, text in BENCHMARKS.items():
        own = benchmarks.add_parser(name, help=text, description=f"Measures {text}.")
        if name not in CPU_ONLY:
            own.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="what to measure (default cpu)")
        own.add_argument("--json", type=Path, metavar="FILE", help="write the report there")
        own.add_argument("--threads", type=processors, metavar="N", help="threads of PyTorch (default: its own)")
        own.add_argument("--quick", action="store_true", help="a few seconds: small sizes, few cases")
        if name in KERNELS or name == "scaling":
            example = "width" if name == "scaling" else "step 90%%"
            words = f'only cases with all of these words, as in "{example}"'
            own.add_argument("--case", dest="words", default="", metavar="WORDS", help=words)
        if name in KERNELS:
            own.add_argument(
                "--impl", dest="impls", type=numbers(str), metavar="NAME,NAME", help="only these, and dense"
            )
        if name == "largest":
            own.add_argument(
                "--gib", type=numbers(above_zero), metavar="N,N", help="memories to be filled, in GiB (default 1,4)"
            )
        if name == "train":
            _add_networks(own)
    report = benchmarks.add_parser(
        "report",
        help="pictures of results",
        description="Draws what `sparsekern bench ... --json` has written, on any number of machines.",
    )
    report.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="results of one machine")
    report.add_argument(
        "--out", type=Path, default=Path(), metavar="DIR", help="where the pictures go (default: the current folder)"
    )


def _add_networks(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", dest="models", type=numbers(str), metavar="NAME,NAME", help="networks (default vgg16,resnet20)"
    )
    parser.add_argument(
        "--run",
        dest="runs",
        action="append",
        type=Path,
        metavar="DIR",
        help="also the pattern that this run of `sparsekern train` ended with, repeatable",
    )
    parser.add_argument("--compiled", action="store_true", help="also compiled, and sparse in channels_last")
