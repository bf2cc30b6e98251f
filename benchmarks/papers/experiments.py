"""The trials of each experiment."""

from collections.abc import Iterable
from itertools import pairwise
from math import prod

from benchmarks.papers import baselines, cifar, language
from benchmarks.papers.experiment import Curves, Experiment, Flags, Trial

SNR_SPARSITIES = (0.7, 0.8, 0.95)
ADAM: Flags = {"optimizer": "adam", "schedule": "cosine", "weight_decay": 1e-4}
SMALLCNN: Flags = {**ADAM, "model": "smallcnn", "epochs": 10, "lr": 1e-2, "final_lr": 1e-4, "batch_size": 128}
TABULAR: Flags = {
    **ADAM,
    "data": "digits",
    "model": "mlp",
    "epochs": 30,
    "lr": 1e-3,
    "final_lr": 1e-5,
    "batch_size": 64,
}


def _snr(seed: int) -> Iterable[Trial]:
    for group, flags in (("smallcnn", SMALLCNN), ("digits", TABULAR)):
        yield Trial(group, "dense", None, seed, {**flags, "method": "dense"})
        yield Trial(group, "snr", None, seed, {**flags, "method": "snr"})
        for method in ("dpf", "grasp_abs"):
            for sparsity in SNR_SPARSITIES:
                yield Trial(group, method, sparsity, seed, {**flags, "method": method, "sparsity": sparsity})
        for criterion in ("snr", "magnitude"):
            options = {**flags, "method": "snr", "set": [("criterion", criterion)]}
            yield Trial(group, f"{criterion}_alone", None, seed, options)


def _cifar(seed: int) -> Iterable[Trial]:
    flags: Flags = {"lr": 0.2, "weight_decay": 1e-4, "schedule": "step", "milestones": [4, 6]}
    yield Trial("", "dense", None, seed, {**flags, "method": "dense"})
    yield Trial("", "dpf", 0.9, seed, {**flags, "method": "dpf", "sparsity": 0.9})
    # The default steepness, 80 / 8, would prune in two steps.
    flags = {"lr": 0.1, "weight_decay": 5e-4, "schedule": "cosine", "set": [("steepness", 1)]}
    yield Trial("", "optg", 0.9, seed, {**flags, "method": "optg", "sparsity": 0.9})


def _prospr(seed: int) -> Iterable[Trial]:
    # Without batch norm the small network diverges at 0.1.
    for flags in ({"model": "lenet300"}, {"model": "smallcnn", "lr": 0.02}):
        model = flags["model"]
        yield Trial(model, "dense", None, seed, {**flags, "method": "dense"})
        for method in ("prospr", "snip", "synflow", "random"):
            for sparsity in (0.8, 0.9, 0.95, 0.98):
                options = {"set": [("initialize", "keep")]} if method == "random" else {}
                yield Trial(model, method, sparsity, seed, {**flags, "method": method, "sparsity": sparsity, **options})


HEURISTICS = ("gse_random", "gse_synflow", "gse_grabo", "gse_graest")
# 46 changes up to 60 % of 4,690 steps, as in the paper up to 120 of 200 epochs.
EVERY, RATE = 61, 0.2
SAME_START = [("share", "uniform"), ("initialize", "fan_in")]


def _grabo(seed: int) -> Iterable[Trial]:
    sweep: Flags = {"sparsity": 0.98}
    moves = [("every", EVERY), ("rate", RATE)]
    for multiplier in (1, 2, 4, 7, 10):
        for method in HEURISTICS:
            options = [*moves, ("multiplier", multiplier)]
            yield Trial("subset", method, multiplier, seed, {**sweep, "method": method, "set": options})
    everything = [*moves, ("multiplier", 10_000)]
    yield Trial("subset", "gse_all", None, seed, {**sweep, "method": "gse_random", "set": everything})
    scope = ("scope", "global")
    yield Trial("subset", "set", None, seed, {**sweep, "method": "set", "set": [*moves, *SAME_START, scope]})
    stop = ("stop", 0.6)
    yield Trial("subset", "rigl", None, seed, {**sweep, "method": "rigl", "set": [*moves, *SAME_START, stop]})
    yield Trial("subset", "random", None, seed, {**sweep, "method": "random", "set": SAME_START})
    for width in (1, 2, 4, 8):
        flags: Flags = {"width": float(width), "sparsity": constant_weights(width)}
        yield Trial("width", "gse_grabo", width, seed, {**flags, "method": "gse_grabo", "set": moves})
        yield Trial("width", "random", width, seed, {**flags, "method": "random", "set": SAME_START})


def constant_weights(width: int, sparsity: float = 0.9) -> float:
    """The sparsity at which LeNet-300-100 on MNIST, `width` times as wide, has as many weights as at `sparsity` with
    the width 1."""

    def size(factor: int) -> int:
        sizes = (784, 300 * factor, 100 * factor, 10)
        return sum(prod(pair) for pair in pairwise(sizes))

    kept = size(1) - int(sparsity * size(1) + 1e-9)
    return 1 - kept / size(width)


EXPERIMENTS = {
    "snr": Experiment(
        "Dynamic Pruning of a Neural Network via Gradient Signal-to-Noise Ratio, table 1 and figures 1, 3 and 4",
        {"smallcnn": "sparsity", "digits": "sparsity"},
        "mnist",
        {},
        _snr,
        (0, 1, 2),
        """\
`smallcnn` is trained on MNIST for 10 epochs (the paper states neither epochs nor batch size), `digits` is the 7 x 512
network on scikit-learn's 1,438 training digits for 30 epochs with a learning rate of 1e-3, as the 1e-1 of the paper's
tabular data is too high for Adam. `grasp_abs` and `dpf` prune to the sparsity given; the sparsity of `snr` emerges.
`snr_alone` and `magnitude_alone` are `snr` with one of its two criteria.

Published, with the settings of the authors, to be compared in their order only. MNIST, test error in %: snr 0.94 at
71 %; dpf 0.90, 0.97, 1.16 and grasp_abs 0.88, 1.00, 1.60 at 70, 80, 95 %. Electricity, 7 x 512: dense 15.4, snr 15.7
at 64 %, dpf 15.3, 15.3, 15.4.""",
        (
            Curves("smallcnn", "sparsities", "smallcnn: sparsity by criterion", ("snr", "*_alone")),
            Curves("smallcnn", "change", "smallcnn: 1 - IoU at the last update of the mask", ("snr", "dpf")),
        ),
    ),
    "cifar": Experiment(
        "Dynamic Model Pruning with Feedback, table 1; Optimizing Gradient-driven Criteria in Network Sparsity",
        {"": ""},
        "cifar10",
        {
            "model": "resnet20",
            "epochs": 8,
            "batch_size": 128,
            "momentum": 0.9,
            "nesterov": True,
        },
        _cifar,
        (0, 1),
        """\
8 epochs instead of 300, the learning rate divided by 10 after 4 and 6 of them instead of 150 and 225. `optg` is trained
by the settings of its own code: learning rate 0.1 along a cosine, weight decay 5e-4, steepness 1. Its masks change
between epochs, before the test: but for the last, the figure shows its accuracies with masks that no step has seen. Of
the last mask it trains a single epoch, by 4 % of the learning rate, where the paper's 160 leave it dozens.

Published after 300 epochs: dense 92.48, dpf 90.88 at 90 %. OptG has no ResNet-20 (VGG-19, 160 epochs: dense 93.85, optg
93.84 at 90 %).""",
        (Curves("", "accuracy", "resnet20, 90 % sparse: test accuracy"),),
    ),
    "prospr": Experiment(
        "Prospect Pruning: Finding Trainable Weights at Initialization using Meta-Gradients, table 3",
        {"lenet300": "sparsity", "smallcnn": "sparsity"},
        "mnist",
        baselines.RECIPE,
        _prospr,
        (0, 1, 2),
        """\
10 epochs on MNIST instead of 200 on CIFAR-10; all methods under one recipe, ProsPr's (the paper takes the figures of
the others from work with another one), but for the learning rate of `smallcnn`, 0.02: it has no batch norm. `prospr`
scores with three steps and fresh batches of 512, as in the paper. `random` keeps the scale of the dense initial
weights.

Published, ResNet-20 on CIFAR-10 at 79.0, 89.3, 95.6, 98.2 %: prospr 90.1, 87.8, 83.0, 74.2; snip 89.0, 87.2, 82.5,
74.0; synflow 89.5, 87.4, 82.9, 76.4; random 88.4, 85.6, 79.6, 43.7.""",
    ),
    "grabo": Experiment(
        "Memory Efficient Dynamic Sparse Training, figure 2 and table 2",
        {"subset": "subset, in units of the weights to grow", "width": "width"},
        "mnist",
        {
            "model": "lenet300",
            "epochs": 10,
            "batch_size": 128,
            "lr": 0.1,
            "momentum": 0.9,
            "weight_decay": 1e-4,
            "schedule": "step",
            "milestones": [4, 6],
        },
        _grabo,
        (0, 1, 2),
        """\
LeNet-300-100 on MNIST for 10 epochs instead of ResNet-56 on CIFAR-10 and CIFAR-100 for 200; a change every 61 steps
gives the paper's 46 changes. All start from random patterns of uniform sparsity and weights drawn for them. The sweep
is at 98 %; its ends are `set`, which grows at random, and `rigl`, which takes the gradients of all absent weights. Both
differ in more than the subset: `set` exchanges its share to the very end, `rigl` exchanges within each layer and lets
the change replace a step. The ends that differ in nothing else are `gse_random` with the subset 1, and `gse_all`, whose
subset is every absent weight. In `width`, every network has as many weights as one of the width 1 at 90 %.

Published: ResNet-56 at 98 %: GraBo 86.08, RigL 85.62, random 73.98. Width, by constant
weights: ResNet-56 on CIFAR-100 from 68.80 to 72.70 with four times the width and 94 %.""",
    ),
    "baselines": baselines.EXPERIMENT,
    "resnet20": cifar.METHODS_EXPERIMENT,
    "width": cifar.WIDTH_EXPERIMENT,
    "gpt": language.EXPERIMENT,
    "vit": cifar.TRANSFORMER_EXPERIMENT,
}
