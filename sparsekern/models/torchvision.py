"""Any classifier of torchvision, untrained."""

import inspect
from typing import Any

from torch import nn

from ..errors import UsageError, choose, require


def check(name: str) -> None:
    models = require("torchvision.models")
    choose("model of torchvision", name, models.list_models(module=models))


def build(name: str, shape: tuple[int, ...], classes: int, width: float) -> nn.Module:
    """`torchvision.models.NAME` without pretrained weights and without auxiliary classifiers.

    Raises:
        UsageError: no such model, or one whose width cannot be chosen.
    """
    check(name)
    models = require("torchvision.models")
    options: dict[str, Any] = {"weights": None, "num_classes": classes}
    if name in ("googlenet", "inception_v3"):
        options |= {"aux_logits": False, "init_weights": True}
    if name.startswith("vit_"):
        options["image_size"] = shape[-1]
    if name == "mobilenet_v2":
        options["width_mult"] = width
    elif width != 1:
        raise UsageError(f"--width does not apply to torchvision:{name}")
    builder = models.get_model_builder(name)
    accepted = inspect.signature(builder).parameters
    try:
        return builder(**{key: value for key, value in options.items() if key in accepted or "kwargs" in accepted})
    except (ValueError, AssertionError, RuntimeError) as error:
        raise UsageError(f"torchvision:{name} cannot take images of {shape[-2]} x {shape[-1]}: {error}") from error
