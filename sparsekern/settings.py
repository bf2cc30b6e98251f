"""The settings of a run, its flags on the command line: their names, ranges and defaults. Imports nothing, so that
`--help` need not wait for PyTorch."""

from typing import Any

DATA = ("digits", "mnist", "fashion-mnist", "cifar10", "cifar100", "tiny-imagenet", "imagefolder", "csv", "text")
MODELS = (
    "mlp",
    "lenet300",
    "smallcnn",
    "resnet20",
    "resnet32",
    "resnet56",
    "resnet18",
    "resnet50",
    "resnet50-cifar-optg",
    "vgg16",
    "vgg19",
    "vgg16-quarter",
    "wrn28-2",
    "wrn28-4",
    "wrn28-8",
    "mobilenetv1",
    "vit-tiny",
    "gpt-mini",
)
BACKENDS = ["auto", "sparse", "masked", "dense"]
OPTIMIZERS = ["sgd", "adam", "adamw"]
SCHEDULES = ["constant", "step", "cosine"]
UNITS = ["step", "epoch"]
LOGGERS = ["tensorboard", "wandb"]
LEARNING_RATE = {"sgd": 0.05, "adam": 1e-3, "adamw": 1e-3}
CONTEXT = 128
BATCH_SIZE = {"digits": 32}  # few samples, which would make few steps; of other data 128
DEFAULTS: dict[str, Any] = {
    "method": "gse_grabo",
    "sparsity": 0.9,
    "distribution": None,
    "exclude": [],
    "overrides": {},
    "set": {},
    "backend": "auto",
    "data": "digits",
    "data_dir": None,
    "target": None,
    "context": None,
    "model": "mlp",
    "width": 1.0,
    "epochs": 20,
    "batch_size": None,
    "optimizer": "sgd",
    "lr": None,
    "momentum": 0.9,
    "nesterov": False,
    "weight_decay": 0.0,
    "clip": 1.0,
    "schedule": "constant",
    "schedule_unit": "step",
    "milestones": [],
    "gamma": 0.1,
    "final_lr": None,
    "warmup": None,
    "label_smoothing": 0.0,
    "amp": None,
    "compile": False,
    "threads": None,
    "seed": 0,
    "device": "cpu",
    "log": [],
}
# Settings of papers that say nothing of them, and of files from before there was one of them.
PLAIN: dict[str, Any] = {"clip": 0.0, "warmup": 0}


class Range:
    """A number of `kind` with `low <= number < high`, described by `words`. An instance is a schema."""

    def __init__(self, kind: type, low: float, high: float, words: str) -> None:
        self.kind, self.low, self.high, self.words = kind, low, high, words

    def __call__(self, value: Any) -> str | None:
        return None if is_a(value, self.kind) and self.low <= value < self.high else self.words


def is_a(value: Any, kind: type) -> bool:
    """Tells whether a value is of a kind, where JSON does not tell 1 from 1.0 and Python takes True for 1."""
    wide = (float, int) if kind is float else kind
    return isinstance(value, wide) and (kind is bool or not isinstance(value, bool))


def brief(value: Any) -> str:
    """Returns the `repr` of a value, cut to 60 characters."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else text[:57] + "..."


positive = Range(int, 1, 2**31, "a whole number, 1 or more")
natural = Range(int, 0, 2**31, "a whole number, 0 or more")
seeds = Range(int, 0, 2**64, "a whole number from 0 to 2^64 - 1")  # what a torch.Generator takes
processors = Range(int, 1, 1025, "a whole number from 1 to 1024")
fraction = Range(float, 0, 1, "a number in [0, 1)")
# Far from where fp32 ends, as optimizers multiply and divide by more than the learning rate.
real = Range(float, 0, 1e33, "a number, 0 or more and below 1e33")
above_zero = Range(float, 5e-324, 1e33, "a number above 0 and below 1e33")
