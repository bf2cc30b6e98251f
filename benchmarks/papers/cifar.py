"""Networks on CIFAR-10: methods on a ResNet-20 and a vision transformer; wider networks with as many weights."""

from collections.abc import Iterable
from functools import cache
from itertools import pairwise

import torch

from benchmarks.papers import baselines, language
from benchmarks.papers.experiment import Experiment, Flags, Trial
from benchmarks.papers.orderings import Claim
from sparsekern import models
from sparsekern.nn import prunable_layers

METHODS = ("gse_grabo", "rigl", "set", "snip", "prospr", "dpf", "optg", "gmp", "random")
SPARSITIES = (0.9, 0.95, 0.98)
WIDTHS = (1, 2, 4)
COMMON: Flags = {
    "model": "resnet20",
    "epochs": 8,
    "batch_size": 128,
    "lr": 0.1,
    "momentum": 0.9,
    "nesterov": True,
    "weight_decay": 1e-4,
    "schedule": "cosine",
}


TRANSFORMER: Flags = {
    "model": "vit-tiny",
    "epochs": 30,
    "batch_size": 128,
    "optimizer": "adamw",
    "lr": 1e-3,
    "weight_decay": 0.05,
    "clip": 1.0,
    "schedule": "cosine",
    "warmup": 1,
}


PROSPR = "ProsPr, table 3: ResNet-20 on CIFAR-10, 89.3, 95.6 and 98.2 %"
GRABO = "GraBo, table 1: ResNet-56 on CIFAR-10"
NARROW = "GraBo, table 1: VGG-16/4 on CIFAR-10"
CLAIMS = (  # at the sparsities of the sources
    *(Claim(better, worse, PROSPR, SPARSITIES) for better, worse in pairwise(("prospr", "snip", "random"))),
    Claim("dpf", "gmp", baselines.DPF, (0.9,)),
    Claim("gmp", "dpf", baselines.DPF, (0.95,)),
    *(Claim(method, "snip", baselines.DPF, (0.9, 0.95)) for method in ("dpf", "gmp")),
    Claim("gse_grabo", "rigl", GRABO, (0.98,)),
    Claim("gse_grabo", "gmp", GRABO, (0.9, 0.95)),
    Claim("gmp", "gse_grabo", GRABO, (0.98,)),
    *(Claim(method, "random", GRABO, SPARSITIES) for method in ("gse_grabo", "rigl", "gmp")),
    *(Claim(better, worse, NARROW, SPARSITIES) for better, worse in pairwise(("gse_grabo", "set", "random"))),
    *(Claim("rigl", method, baselines.RIGL, (0.9,)) for method in ("set", "snip", "random")),
    *(Claim("optg", method, baselines.OPTG, (0.9, 0.95)) for method in ("snip", "set", "rigl", "gmp")),
)


def _methods(seed: int) -> Iterable[Trial]:
    yield Trial("", "dense", None, seed, {"method": "dense"})
    for sparsity in SPARSITIES:
        for method in METHODS:
            options = baselines.OPTIONS.get(method, [])
            flags: Flags = {"method": method, "sparsity": sparsity, "set": options}
            yield Trial("", method, sparsity, seed, flags)


def _widths(seed: int) -> Iterable[Trial]:
    yield Trial("", "dense", 1, seed, {"method": "dense"})
    for width in WIDTHS[1:]:
        for method in ("gse_grabo", "random"):
            flags: Flags = {"method": method, "sparsity": 1 - _weights(1) / _weights(width), "width": float(width)}
            yield Trial("", method, width, seed, {**flags, "set": baselines.OPTIONS.get(method, [])})


def _transformer(seed: int) -> Iterable[Trial]:
    yield Trial("", "dense", None, seed, {"method": "dense"})
    for sparsity in language.SPARSITIES:
        for method in language.METHODS:
            flags: Flags = {"method": method, "sparsity": sparsity, "set": language.OPTIONS.get(method, [])}
            yield Trial("", method, sparsity, seed, flags)


@cache
def _weights(width: int) -> int:
    """The weights of a ResNet-20 that can be pruned."""
    with torch.device("meta"):
        network = models.build("resnet20", (3, 32, 32), 10, width)
    return sum(layer.weight.numel() for layer in prunable_layers(network).values())  # type: ignore[operator]


METHODS_EXPERIMENT = Experiment(
    "Methods on ResNet-20 and CIFAR-10",
    {"": ""},
    "cifar10",
    COMMON,
    _methods,
    (0, 1),
    """\
One recipe for all, a cosine from 0.1, and of each method the options of its paper, scaled to this length by the method;
the papers train for 160 to 300 epochs. `optg` has the steepness of its code; its last mask, made for the last epoch, is
trained by the least learning rates of the cosine. Memory is the most that weights, indices, gradients and optimizer
state took, without activations.

Published for this network, 300 epochs (DPF, table 1), at 90 and 95 %: dpf 90.88, 88.01; gmp 90.55, 89.21; snip 88.50,
84.91; dense 92.48. 200 epochs (ProsPr, table 3), at 89.3, 95.6 and 98.2 %: prospr 87.8, 83.0, 74.2; snip 87.2, 82.5,
74.0; random 85.6, 79.6, 43.7. ResNet-56 (GraBo, table 1), at 90, 95 and 98 %: gse_grabo 90.56, 89.29, 86.08; rigl
90.55, 89.29, 85.62; gmp 90.20, 89.09, 86.71; random 88.85, 86.88, 73.98.

An ordering holds, or does not, if the means differ by more than the standard deviation of the difference of two runs;
that of a run is taken from the seeds, but not below that of counting 10,000 test images.""",
    claims=CLAIMS,
)

WIDTH_EXPERIMENT = Experiment(
    "Memory Efficient Dynamic Sparse Training, table 2: wider networks with as many weights",
    {"": "width"},
    "cifar10",
    COMMON,
    _widths,
    (0, 1),
    """\
Every network has as many weights as the dense ResNet-20 of width 1: 75 % of the weights are zero at width 2, 93.7 % at
width 4. Activations, and what batch norm does, grow with the width.

Published, ResNet-56 on CIFAR-100, 200 epochs: from 68.80 at width 1 to 72.70 with four times the width and 94 %.""",
)

TRANSFORMER_EXPERIMENT = Experiment(
    "Methods on a small vision transformer and CIFAR-10",
    {"": "sparsity"},
    "cifar10",
    TRANSFORMER,
    _transformer,
    (0, 1),
    """\
`vit-tiny`: 6 blocks of DeiT-Ti's width 192 on patches of 4 x 4 pixels; the position embedding and the head stay dense.
One recipe for all, AdamW along a cosine, images cropped and flipped as for ResNets, and of each method the options of
its paper, scaled to this length by the method. Transformers learn slowly on this data: few epochs tell how methods
begin.""",
)
