"""The commands of `sparsekern` and their flags. `run` of the module of a command's name does what it is for.

PyTorch is not imported here: nobody wants to wait for `--help`.
"""

import argparse
import difflib
from pathlib import Path
from typing import Any

from .. import __version__
from .bench_options import BENCH, add_benchmarks
from .options import above_zero, add_arguments, numbers, positive, processors, seeds, sparsity

SPARSEKERN = """\
Sparse training of neural networks: the zeros are neither stored nor multiplied.

exit status: 0 done, 1 a run failed, 2 usage error, 130 stopped by Ctrl-C (the last checkpoint is kept)
"""

TRAIN = """\
Trains one network. Its folder gets config.json, metrics.jsonl (a line per epoch), checkpoint.pt (after every epoch),
summary.json, model.safetensors and report.png.

  sparsekern train                                          digits, 90 % sparse, in half a minute
  sparsekern train --method rigl --sparsity 0.98 --data mnist --data-dir data --download --model lenet300
  sparsekern train --method gse_grabo --set every=50 --out runs/try
  sparsekern train --recipe dpf-resnet20 --data-dir data --epochs 8   the settings of a paper, shortened
  sparsekern train --resume runs/try                        continues bit for bit after Ctrl-C
  sparsekern train --resume runs/try --epochs 40            trains longer; schedules keep their length
"""

COMPARE = """\
Trains every method at every sparsity with every seed, each run in a process and a folder of its own, then writes
results.json, table.md (mean, standard deviation, ranking) and figure.png. Started again with the same flags it goes on
where it stopped; a run that fails is reported with its log, the others go on.

  sparsekern compare --methods dense,random,rigl,gse_grabo --sparsities .9,.95 --seeds 0,1,2 --out runs/grid
  sparsekern compare --methods all --seeds 0 --out runs/all
  sparsekern compare --methods rigl --sparsities .98 --seeds 0,1,2 --backends sparse,masked --out runs/twins

dense, and a method whose sparsity emerges, is trained once per seed. --set KEY=VALUE goes to every method that has the
option, --set METHOD.KEY=VALUE to one.
"""

INFO = """\
Prints versions, the processor, and whether kernels are chosen by what was measured on it; with --model also
each layer's kernel and why.
"""

EXPORT = """\
Writes the network of a run, as its last checkpoint has it, for other programs.

  dense         dense.pt: the state dict of the network of plain PyTorch, zeros in place; safetensors if FILE ends so
  csr           csr.pt: the same, sparse weights as CSR tensors of PyTorch
  safetensors   nonzeros.safetensors: values, row pointers and columns (docs/files.md)
  onnx          model.onnx: a graph for onnxruntime, for any number of samples; needs sparsekern[onnx]
"""

CALIBRATE = """\
Measures, in less than a minute, from which density on another kernel is faster on this machine. Layers
that compute with as many threads choose by it from then on; a run that has begun keeps its kernels.
Let nothing else run meanwhile.

The table is stored in the cache directory of the user, or in $SPARSEKERN_CACHE; `sparsekern info` says which one
is in use. Without one, layers use that of the most similar processor that this package has a table of.
"""

DEMO = """\
Trains a network of seven hidden layers of 512 units on handwritten digits twice, from the same seed: once dense, once
sparse, where gse_grabo moves the connections while it learns. The two take turns, epoch by epoch, so that their times
are comparable.
"""


def _train(commands: Any) -> None:
    parser = commands.add_parser(
        "train", help="train one network", description=TRAIN, argument_default=argparse.SUPPRESS
    )
    add_arguments(parser)
    group = parser.add_argument_group("folder")
    place = group.add_mutually_exclusive_group()
    place.add_argument("--out", type=Path, metavar="DIR", help="new folder of this run (default: a free one in runs/)")
    place.add_argument("--resume", type=Path, metavar="DIR", help="continue the run in this folder")
    group.add_argument("--overwrite", action="store_true", help="replace the run that --out already holds")


def _compare(commands: Any) -> None:
    parser = commands.add_parser(
        "compare",
        help="train a grid of methods, sparsities and seeds",
        description=COMPARE,
        argument_default=argparse.SUPPRESS,
    )
    group = parser.add_argument_group("grid")
    text = "names that `sparsekern methods` lists, all, or methods of your own as `train --method` takes them"
    group.add_argument("--methods", type=numbers(str), required=True, metavar="A,B", help=text)
    group.add_argument(
        "--sparsities", type=numbers(sparsity), default=[0.9], metavar="S,S", help="fractions of zeros (default 0.9)"
    )
    group.add_argument(
        "--seeds",
        type=numbers(seeds),
        default=[0, 1, 2],
        metavar="N,N",
        help="of each method and sparsity (default 0,1,2)",
    )
    group.add_argument(
        "--backends",
        type=numbers(str),
        default=["auto"],
        metavar="B,B",
        help="auto, sparse, masked, dense (default auto)",
    )
    group.add_argument("--jobs", type=positive, default=1, metavar="N", help="runs at a time (default 1)")
    group.add_argument("--note", default="", metavar="TEXT", help="what readers of the table should know of the data")
    group.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the comparison")
    add_arguments(parser, grid=True)


def _methods(commands: Any) -> None:
    parser = commands.add_parser("methods", help="list the methods", description="Lists the sparse training methods.")
    parser.add_argument("name", nargs="?", metavar="NAME", help="explain this one, with its options")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _info(commands: Any) -> None:
    parser = commands.add_parser(
        "info",
        help="versions, processor, kernel of each layer",
        description=INFO,
        argument_default=argparse.SUPPRESS,
    )
    add_arguments(parser)


def _plot(commands: Any) -> None:
    parser = commands.add_parser(
        "plot",
        help="draw the pictures of a run or a comparison again",
        description="Draws report.png or figure.png again from DIR.",
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder of a run or of a comparison")


def _export(commands: Any) -> None:
    parser = commands.add_parser("export", help="write the network of a run for other programs", description=EXPORT)
    parser.add_argument("folder", type=Path, metavar="RUN", help="folder of a run")
    parser.add_argument("--format", choices=["dense", "csr", "safetensors", "onnx"], required=True)
    parser.add_argument("--out", type=Path, metavar="FILE", help="(default: in RUN, see above)")
    parser.add_argument("--overwrite", action="store_true", help="replace the file that is there")


def _bench(commands: Any) -> None:
    add_benchmarks(
        commands.add_parser("bench", help="measure time and memory beside other packages", description=BENCH)
    )


def _calibrate(commands: Any) -> None:
    parser = commands.add_parser(
        "calibrate",
        help="measure this machine, so that layers choose the fastest kernels",
        description=CALIBRATE,
    )
    parser.add_argument("--threads", type=processors, metavar="N", help="threads of PyTorch (default: its own)")


def _demo(commands: Any) -> None:
    parser = commands.add_parser(
        "demo", help="train a sparse network and the same network dense, in two minutes", description=DEMO
    )
    parser.add_argument(
        "--epochs", type=positive, default=30, metavar="N", help="passes over the data, of each network (default 30)"
    )
    parser.add_argument(
        "--sparsity", type=sparsity, default=0.95, metavar="S", help="fraction of weights that are zero (default 0.95)"
    )
    parser.add_argument(
        "--width", type=above_zero, default=1.0, metavar="W", help="multiplies the hidden sizes (default 1)"
    )
    parser.add_argument("--seed", type=seeds, default=0, metavar="N", help="of both networks (default 0)")
    text = "threads of PyTorch (default 1, whose times vary least on a busy machine)"
    parser.add_argument("--threads", type=processors, default=1, metavar="N", help=text)
    parser.add_argument(
        "--out", type=Path, default=Path("runs/demo"), metavar="DIR", help="folder of the picture (default runs/demo)"
    )


COMMANDS = (_train, _compare, _methods, _info, _plot, _export, _bench, _calibrate, _demo)


class Parser(argparse.ArgumentParser):
    """A parser that prints descriptions as they stand, and whose errors name what was meant."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **{"formatter_class": argparse.RawDescriptionHelpFormatter, **options})

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parses all arguments: what a command does not know is its error, with the usage of this command."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            near = [self._near(word) for word in unknown if word.startswith("-")]
            self.error(f"unrecognized arguments: {' '.join(unknown)}{''.join(near)}")
        return found, unknown

    def _near(self, word: str) -> str:
        flag = word.partition("=")[0]
        known = [option for action in self._actions for option in action.option_strings]
        close = difflib.get_close_matches(flag, known, n=1)
        return f"; did you mean {close[0]}?" if close else ""

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        close = difflib.get_close_matches(str(value), list(action.choices or ()), n=1)
        if close and value not in (action.choices or ()):
            raise argparse.ArgumentError(action, f"unknown {value!r}; did you mean {close[0]}?")
        super()._check_value(action, value)


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    whole = Parser("sparsekern", description=SPARSEKERN)
    whole.add_argument("--version", action="version", version=f"sparsekern {__version__}")
    commands = whole.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for add in COMMANDS:
        add(commands)
    return whole
