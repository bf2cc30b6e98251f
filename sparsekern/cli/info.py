"""`sparsekern info`: what is installed, and which kernel each layer of a model would use."""

import argparse
import importlib.metadata
import platform
import warnings
from math import prod

import torch

from .. import __version__, models
from ..data import SHAPES, load, stand_in
from ..nn import crossovers, processor
from ..nn.kernel_choice import cards
from ..ops import backend, extension
from ..text import columns
from ..training import DEFAULTS, Run, configure
from . import recipes

PACKAGES = [
    "sparsekern",
    "torch",
    "torchvision",
    "numpy",
    "scikit-learn",
    "pandas",
    "matplotlib",
    "safetensors",
    "tqdm",
]


def run(arguments: argparse.Namespace) -> int:
    given = vars(arguments).copy()
    download = given.pop("download", False)
    if given.get("recipe") == "list":
        print(recipes.listing())
        return 0
    given = recipes.apply(given)
    print(facts())
    if given:
        print("\n" + layers(given, download))
    return 0


def facts() -> str:
    rows = [(name, _version(name)) for name in PACKAGES]
    rows.append(("python", platform.python_version()))
    rows.append(("machine", f"{platform.machine()}, {torch.get_num_threads()} threads"))
    if extension is None:
        rows.append(("kernels", f"none, plain PyTorch is slower: {backend.missing}"))
    else:
        rows.append(("kernels", f"compiled, instruction set {extension.isa()} of {', '.join(extension.isas())}"))
        own = backend.autograd_extension is not None
        alien = extension.torch_version != torch.__version__.partition("+")[0]
        other = f"in Python; compiled for torch {extension.torch_version} only" if alien else "in Python; not compiled"
        rows.append(("derivatives", "compiled for this torch" if own else other))
        cuda = backend.cuda_extension
        built = cuda and f"compiled by CUDA {cuda.version} for {cuda.architectures}"
        rows.append(("CUDA kernels", built or "not built"))
    rows.append(("processor", str(processor.here())))
    rows.append(("table", crossovers.table().origin))
    if torch.cuda.is_available():
        card = torch.cuda.get_device_name()
        state = "measured" if card in cards() else "not measured: layers expand their weights"
        rows.append(("GPU", f"{card}, {state}"))
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:{width}}  {value}" for name, value in rows)


def _version(package: str) -> str:
    if package == "sparsekern":
        return __version__
    if package == "torch":
        return torch.__version__
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def layers(given: dict, download: bool) -> str:
    """The layers of a run before its first step: shape, nonzeros, kernel, reason."""
    if "data" not in given:
        given = given | {"data": _usual(given.get("model", DEFAULTS["model"]))}
    config = configure(**given)
    known = config["data"] in SHAPES and not (config["data_dir"] or download)
    data = stand_in(config) if known else load(config, download)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about how it trains
        session = Run(config, data)
    rows = session.optimizer.report().rows
    size = " x ".join(map(str, session.data.shape))
    title = f"{config['model']} on {config['data']} ({size}, {session.data.classes} classes)"
    if not rows:
        return f"{title}\nno sparse layer"
    cells = [["layer", "shape", "nonzeros", "sparsity", "kernel", "reason"]]
    for row in rows:
        shape = " x ".join(str(n) for n in row["shape"])
        share = f"{1 - row['nnz'] / prod(row['shape']):.2%}"
        cells.append([row["name"], shape, f"{row['nnz']:,}", share, str(row["kernel"]), str(row["reason"])])
    return f"{title}\n{columns(cells, right={2, 3})}"


def _usual(model: str) -> str:
    """The data set whose shape a model is shown unless the user names another."""
    if model in models.TOKENS:
        return "text"
    if ":" in model:
        return "imagefolder"
    return DEFAULTS["data"] if model in models.FLAT else "cifar10"
