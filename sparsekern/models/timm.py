"""Any image classifier of timm, untrained."""

from torch import nn

from ..errors import UsageError, choose, first_line, require


def check(name: str) -> None:
    choose("model of timm", name, require("timm", "timm").list_models())


def build(name: str, shape: tuple[int, ...], classes: int, width: float) -> nn.Module:
    """`timm.create_model(NAME)` without pretrained weights, for images of this shape.

    Raises:
        UsageError: no such model, one that cannot take such images, or a width, which timm has by other names.
    """
    check(name)
    if width != 1:
        raise UsageError(f"--width does not apply to timm:{name}")
    timm = require("timm", "timm")
    options: dict = {"num_classes": classes, "in_chans": shape[0]}
    facts = timm.get_pretrained_cfg(name)
    if facts is not None and facts.fixed_input_size:  # of a vision transformer, say
        options["img_size"] = shape[1:]
    try:
        return timm.create_model(name, pretrained=False, **options)
    except (ValueError, AssertionError, RuntimeError, TypeError) as error:
        raise UsageError(f"timm:{name} cannot take images of {shape[-2]} x {shape[-1]}: {first_line(error)}") from error
