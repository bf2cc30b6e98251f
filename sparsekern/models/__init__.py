"""The networks that `--model` names."""

import os
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..errors import UsageError, choose, first_line
from . import mobilenet, plain, resnet, timm, torchvision, transformer, vgg, wide

# (shape of one input, classes, factor of the widths) -> network
MODELS: dict[str, Callable[[tuple[int, ...], int, float], nn.Module]] = {
    "mlp": plain.mlp,
    "lenet300": plain.lenet300,
    "smallcnn": plain.smallcnn,
    "resnet20": resnet.resnet20,
    "resnet32": resnet.resnet32,
    "resnet56": resnet.resnet56,
    "resnet18": resnet.resnet18,
    "resnet50": resnet.resnet50,
    "resnet50-cifar-optg": resnet.resnet50_cifar_optg,
    "vgg16": vgg.vgg16,
    "vgg19": vgg.vgg19,
    "vgg16-quarter": vgg.vgg16_quarter,
    "wrn28-2": wide.wrn28_2,
    "wrn28-4": wide.wrn28_4,
    "wrn28-8": wide.wrn28_8,
    "mobilenetv1": mobilenet.mobilenetv1,
    "vit-tiny": transformer.vit_tiny,
    "gpt-mini": transformer.gpt_mini,
}
LIBRARIES = {"torchvision": torchvision, "timm": timm}  # whose models are called LIBRARY:NAME
FLAT = {"mlp", "lenet300"}  # take inputs of any shape
TOKENS = {"gpt-mini"}  # take tokens `[batch, length]`, int64, and give logits `[batch, length, classes]`
DENSE = {"gpt-mini": ["head"]}  # layers that stay dense by default


def check(name: str) -> None:
    """Raises a `UsageError` that names the nearest models unless there is a model `name`."""
    library, colon, model = name.partition(":")
    if colon and library in LIBRARIES:
        LIBRARIES[library].check(model)
    else:
        choose("model", name, [*MODELS, *(f"{library}:NAME" for library in LIBRARIES)])


def build(name: str, shape: tuple[int, ...], classes: int, width: float = 1.0) -> nn.Module:
    """A freshly initialised network, from torch's own generator.

    Those of this package have zero biases and weights of variance 2 / fan (He et al. 2015), transformers those of
    GPT-2; those that another library makes whole are initialised by it.

    Args:
        shape: of one input, without the batch dimension: `(channels, height, width)` of an image, `(length,)` of
            a text.
        classes: number of outputs.
        width: multiplies every hidden size, that is, the channels of a convolution.

    Raises:
        UsageError: there is no such model, or it cannot take such inputs.
    """
    check(name)
    if name not in FLAT | TOKENS and len(shape) != 3:
        raise UsageError(f"{name} takes images, not rows of {shape[0]} numbers; try --model mlp")
    if name in MODELS:
        _check_size(name, shape, classes, width)
    if name in MODELS:
        model = MODELS[name](shape, classes, width)
    else:
        library, _, model_name = name.partition(":")
        model = LIBRARIES[library].build(model_name, shape, classes, width)
    if name not in FLAT:
        _try(name, model, shape, classes)
    return model


def _check_size(name: str, shape: tuple[int, ...], classes: int, width: float) -> None:
    """Raises a `UsageError` if the weights alone are more than this machine's memory."""
    try:
        with torch.device("meta"):
            count = sum(p.numel() for p in MODELS[name](shape, classes, width).parameters())
    except (RuntimeError, OverflowError, TypeError) as error:  # sizes beyond 64 bits
        raise UsageError(f"{name} of --width {width:g} is larger than any memory: {first_line(error)}") from error
    if hasattr(os, "sysconf") and 4 * count > (memory := os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")):
        raise UsageError(
            f"{name} of --width {width:g} has {count:,} weights, {4 * count / 2**30:,.1f} GiB; this machine has "
            f"{memory / 2**30:,.1f} GiB of memory"
        )


@torch.no_grad()
def _try(name: str, model: nn.Module, shape: tuple[int, ...], classes: int) -> None:
    """Shows the network one input: some need three channels, some shrink a small image to nothing."""
    image = " x ".join(map(str, shape))
    training = model.training
    model.eval()
    try:
        output = model(example(name, shape, 1))
    except (RuntimeError, ValueError, AssertionError) as error:
        raise UsageError(f"{name} cannot take images of {image}: {str(error).splitlines()[0]}") from error
    finally:
        model.train(training)
    if not isinstance(output, torch.Tensor) or output.shape != (1, *(shape if name in TOKENS else ()), classes):
        raise UsageError(f"{name} is not a classifier of {image} images into {classes} classes")


def example(name: str, shape: tuple[int, ...], batch: int) -> Tensor:
    """Returns a batch of inputs of zeros for the network `name`: int64 tokens, or float32."""
    return torch.zeros(batch, *shape, dtype=torch.int64 if name in TOKENS else torch.float32)
