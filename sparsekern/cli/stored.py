"""What a configuration that is read from a file has to look like."""

from typing import Any

from .options import BACKENDS, OPTIMIZERS, UNITS, above_zero, fraction, natural, positive, processors, real, seeds

Shape = Any


def one_of(names: list[str]) -> Shape:
    return lambda value: None if value in names else " or ".join(names)


def _milestones(value: Any) -> str | None:
    fits = isinstance(value, list) and all(positive.mismatch(epoch) is None for epoch in value)
    return None if fits else "a list of epochs"


null = type(None)
# Every key of release 0.1; what came later may be missing.
CONFIG: dict[str, Shape] = {
    **dict.fromkeys(("method", "data", "model", "device"), str),
    **dict.fromkeys(("distribution", "data_dir", "target"), (str, null)),
    **dict.fromkeys(("epochs", "batch_size", "horizon"), positive.mismatch),
    **dict.fromkeys(("momentum", "label_smoothing"), fraction.mismatch),
    **dict.fromkeys(("lr", "weight_decay"), real.mismatch),
    **dict.fromkeys(("width", "gamma"), above_zero.mismatch),
    **dict.fromkeys(("nesterov", "compile"), bool),
    "sparsity": (fraction.mismatch, null),
    "exclude": [str],
    "set": dict,
    "backend": one_of(BACKENDS),
    "optimizer": one_of(OPTIMIZERS),
    "schedule": one_of(["constant", "step", "cosine"]),
    "schedule_unit": one_of(UNITS),
    "milestones": _milestones,
    "final_lr": (real.mismatch, null),
    "warmup": natural.mismatch,
    "amp": (one_of(["bf16", "fp16"]), null),
    "threads": (processors.mismatch, null),
    "seed": seeds.mismatch,
}
