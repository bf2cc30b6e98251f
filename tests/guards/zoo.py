"""Classifiers of torchvision, a small one of each family, against the dense masked twin.

Each trains a few steps, armed and unarmed, under a method of each storage: outputs and gradients are the twin's, and so
are the outputs after `densify`.
"""

import copy
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import sparsekern as sk

CLASSES = 6
BATCH = 6  # so that the batch norms of 1 x 1 images do not blow up rounding errors
_models: Any = torchvision.models
VIT = {"patch_size": 8, "num_layers": 2, "num_heads": 2, "hidden_dim": 24, "mlp_dim": 32}
SWIN = {"patch_size": [4, 4], "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": [4, 4]}
MAXVIT = {"stem_channels": 8, "partition_size": 2, "block_channels": [8, 16], "block_layers": [1, 1], "head_dim": 4}
CONVNEXT = [_models.convnext.CNBlockConfig(16, 24, 2), _models.convnext.CNBlockConfig(24, None, 2)]
MBCONV = [_models.efficientnet.MBConvConfig(*row) for row in ((1, 3, 1, 16, 8, 1), (4, 5, 2, 8, 12, 2))]
REGNET = {"depth": 6, "w_0": 16, "w_a": 16.0, "w_m": 2.2, "group_width": 8}
DENSE = {"growth_rate": 8, "block_config": (2, 2, 2), "num_init_features": 16}


def _slim(make: Callable[[], nn.Module], inputs: int) -> nn.Module:
    """The model with a small classifier instead of one of 100 million weights."""
    with torch.device("meta"):
        model = make()
    head = nn.Sequential(nn.Linear(inputs, 8), nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(8, CLASSES))
    model.classifier = head
    model.to_empty(device="cpu")
    return model.apply(lambda module: module.reset_parameters() if hasattr(module, "reset_parameters") else None)


def _vgg() -> nn.Module:
    features = _models.vgg.make_layers([8, "M", 8, 16, "M", 16, 24, "M"], batch_norm=True)
    return _models.VGG(features, init_weights=False)


MODELS: dict[str, tuple[int, Callable[[], nn.Module]]] = {  # the size of an image, and the model
    "alexnet": (64, lambda: _slim(_models.AlexNet, 9216)),
    "vgg": (32, lambda: _slim(_vgg, 24 * 49)),
    "resnet": (32, lambda: _models.ResNet(_models.resnet.BasicBlock, [1, 1, 1, 1], CLASSES)),
    "resnext": (
        32,
        lambda: _models.ResNet(_models.resnet.Bottleneck, [1, 1, 1, 1], CLASSES, groups=4, width_per_group=4),
    ),
    "squeezenet": (40, lambda: _models.squeezenet1_1(num_classes=CLASSES)),
    "densenet": (32, lambda: _models.DenseNet(num_classes=CLASSES, **DENSE)),
    "mobilenet v2": (32, lambda: _models.mobilenet_v2(num_classes=CLASSES, width_mult=0.35)),
    "mobilenet v3": (32, lambda: _models.mobilenet_v3_small(num_classes=CLASSES)),
    "shufflenet": (32, lambda: _models.shufflenet_v2_x0_5(num_classes=CLASSES)),
    "mnasnet": (32, lambda: _models.mnasnet0_5(num_classes=CLASSES)),
    "efficientnet": (32, lambda: _models.EfficientNet(MBCONV, dropout=0.2, num_classes=CLASSES, last_channel=40)),
    "regnet": (32, lambda: _models.RegNet(_models.regnet.BlockParams.from_init_params(**REGNET), num_classes=CLASSES)),
    "googlenet": (64, lambda: _models.googlenet(num_classes=CLASSES, init_weights=False, aux_logits=False)),
    "inception": (75, lambda: _models.inception_v3(num_classes=CLASSES, init_weights=False, aux_logits=False)),
    "convnext": (32, lambda: _models.ConvNeXt(CONVNEXT, num_classes=CLASSES)),
    "swin": (32, lambda: _models.SwinTransformer(num_classes=CLASSES, mlp_ratio=2.0, **SWIN)),
    "vit": (32, lambda: _models.VisionTransformer(32, num_classes=CLASSES, **VIT)),
    "maxvit": (32, lambda: _models.MaxVit((32, 32), stochastic_depth_prob=0.1, num_classes=CLASSES, **MAXVIT)),
}
METHODS: dict[str, Callable[[], sk.Method]] = {  # of each storage
    "nonzeros": lambda: sk.methods.rigl(sparsity=0.7, total_steps=12, every=2, stop=1.0),
    "master": lambda: sk.methods.dpf_layerwise(sparsity=0.7, total_steps=12, steps_per_epoch=4, every=2),
    "stashed": lambda: sk.methods.snr_frozen(
        sparsity=0.7, total_steps=8, steps_per_epoch=4, every=2, memory=0.25, burn_in=0
    ),
}
CASES = [(model, storage) for model in MODELS for storage in METHODS]


def check(seed: int) -> None:
    """The case of a seed; the first ones are all that there are."""
    name, storage = CASES[seed % len(CASES)]
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            _check(name, storage)
        except Exception as error:
            raise AssertionError(f"{name}, {storage}: {type(error).__name__}: {error}") from error


def _check(name: str, storage: str) -> None:
    size, make = MODELS[name]
    method = METHODS[storage]()
    model = sk.sparsify(make().double(), method)
    sparsifier = sk.Sparsifier(model, torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9), method)
    armed = []
    for _ in range(3):
        x, y = torch.randn(BATCH, 3, size, size, dtype=torch.double), torch.randint(CLASSES, (BATCH,))
        armed.append(sparsifier.method.when.fires(sparsifier.steps))
        _same_pass(model, sparsifier, x, y)
        sparsifier.step()
    assert len(set(armed)) == 2, "no step changes the pattern, or all do"
    model.eval()
    with torch.no_grad():
        output = model(x)
        torch.testing.assert_close(sk.densify(model)(x), output)


def _same_pass(model: nn.Module, sparsifier: sk.Sparsifier, x: Tensor, y: Tensor) -> None:
    """Output and gradients against those of the dense twin."""
    twin, state = sk.densify(copy.deepcopy(model)), torch.get_rng_state()
    sparsifier.zero_grad()
    output = model(x)
    cross_entropy(output, y).backward()
    torch.set_rng_state(state)
    expected = twin(x)
    cross_entropy(expected, y).backward()
    torch.testing.assert_close(output, expected)
    for name, parameter in twin.named_parameters():
        owner, _, own = name.rpartition(".")
        module, wanted = model.get_submodule(owner), [parameter.grad]
        layers = [(module, own)]
        if own.startswith("in_proj_"):  # attention is split
            layers = [(getattr(module, f"{part}_proj"), own.removeprefix("in_proj_")) for part in "qkv"]
            wanted = parameter.grad.chunk(3)
        for (layer, entry), want in zip(layers, wanted, strict=True):
            got = getattr(layer, entry).grad
            if entry == "weight" and isinstance(layer, sk.nn.PatternLayer):
                got = layer.stored.grad
                if not isinstance(layer, sk.nn.MaskedLayer):
                    got, want = got[: layer.topology.nnz], want[layer.topology.mask()]
            torch.testing.assert_close(got, want, msg=lambda message, name=name: f"gradient of {name}: {message}")
