"""The networks of `--model`: their sizes, what they take, and what they refuse."""

import pytest
import torch
from torch import nn

from sparsekern import models
from sparsekern.errors import UsageError

# On 32 x 32 colour images in ten classes. He et al. 2016 (0.27M, 0.46M, 0.85M), Zagoruyko and Komodakis 2016 (WRN-28-8:
# 23.4M), VGG-16 with one linear layer (14.7M); the rest counted by hand.
PARAMETERS = {
    "mlp": 3072 * 512 + 6 * 512**2 + 7 * 512 + 5130,
    "lenet300": 3072 * 300 + 300 + 300 * 100 + 100 + 1010,
    "smallcnn": 9 * (3 * 16 + 16 * 32 + 32 * 64 + 64 * 128) + 240 + 128 * 4 * 10 + 10,
    "resnet20": 269_722,
    "resnet32": 464_154,
    "resnet56": 853_018,
    "resnet18": 11_173_962,
    "resnet50": 23_520_842,
    "resnet50-cifar-optg": 3_024_426,
    "vgg16": 14_728_266,
    "vgg19": 20_040_522,
    "vgg16-quarter": 924_186,
    "wrn28-2": 1_467_610,
    "wrn28-4": 5_849_050,
    "wrn28-8": 23_354_842,
    "mobilenetv1": 3_217_226,
    "vit-tiny": 6 * (4 * 192 * 193 + 2 * 192 * 768 + 960 + 4 * 192) + 192 * (49 + 64 + 2) + 1930,
}


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_every_model_is_counted():
    assert PARAMETERS.keys() | models.TOKENS == models.MODELS.keys()


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters(name: str):
    assert parameters(models.build(name, (3, 32, 32), 10)) == PARAMETERS[name]


@pytest.mark.parametrize(("name", "expected"), [("resnet18", 11_689_512), ("mobilenetv1", 4_231_976)])
def test_parameters_on_large_images(name: str, expected: int):
    assert parameters(models.build(name, (3, 224, 224), 1000)) == expected


def test_resnet_computes_what_torchvision_does():
    import torchvision

    for name in ("resnet18", "resnet50"):
        ours = models.build(name, (3, 96, 96), 7).eval()
        theirs = torchvision.models.get_model(name, num_classes=7).eval()
        theirs.load_state_dict(ours.state_dict())
        x = torch.randn(2, 3, 96, 96)
        torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize("name", [name for name in PARAMETERS if not name.startswith("vgg")])
@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 20, 36)])
def test_takes_any_image(name: str, shape: tuple[int, ...]):
    model = models.build(name, shape, 5, width=0.125)
    output = model(torch.randn(2, *shape))
    assert output.shape == (2, 5)
    output.square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("name", PARAMETERS)
def test_width_multiplies_channels(name: str):
    half = models.build(name, (3, 32, 32), 10, width=0.5)
    whole = models.build(name, (3, 32, 32), 10)
    for (key, a), b in zip(half.named_parameters(), whole.parameters(), strict=True):
        dimension = 1 if key == "position.weight" else 0
        outputs = 1 if b.shape[0] == 10 else 2
        assert b.shape[dimension] == outputs * a.shape[dimension]


def test_weights_come_from_torchs_generator():
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        states.append(models.build("resnet20", (3, 32, 32), 10).state_dict())
    assert all(torch.equal(a, b) for a, b in zip(states[0].values(), states[1].values(), strict=True))


def test_residual_networks_keep_the_scale():
    torch.manual_seed(0)
    for name in ("resnet20", "wrn28-2", "smallcnn"):
        output = models.build(name, (3, 32, 32), 10)(torch.randn(8, 3, 32, 32))
        assert 0.05 < float(output.detach().std()) < 20, name


@pytest.mark.parametrize("name", ["torchvision:squeezenet1_1", "torchvision:mobilenet_v2", "torchvision:googlenet"])
def test_torchvisions_own(name: str):
    model = models.build(name, (3, 64, 64), 6)
    assert model(torch.randn(2, 3, 64, 64)).shape == (2, 6)


def test_width_of_torchvisions_own():
    narrow = models.build("torchvision:mobilenet_v2", (3, 64, 64), 6, width=0.25)
    assert parameters(narrow) < parameters(models.build("torchvision:mobilenet_v2", (3, 64, 64), 6)) / 4


@pytest.mark.parametrize(
    ("name", "shape", "width", "expected"),
    [
        ("resnet21", (3, 32, 32), 1, "resnet20"),
        ("torchvision:resnet19", (3, 32, 32), 1, "resnet18"),
        ("torchvision:squeezenet1_1", (3, 64, 64), 0.5, "--width"),
        ("torchvision:squeezenet1_1", (1, 64, 64), 1, "3 channels"),
        ("torchvision:vit_b_32", (3, 40, 40), 1, "indivisible"),
        ("vgg16", (1, 28, 28), 1, "1 x 28 x 28"),
        ("vgg16", (3, 224, 224), 0.5, "--width"),
        ("resnet20", (12,), 1, "rows of 12 numbers"),
        ("vit-tiny", (3, 30, 32), 1, "patches of 4 x 4"),
        ("gpt-mini", (3, 32, 32), 1, "--data text"),
    ],
)
def test_what_does_not_fit_is_refused(name: str, shape: tuple[int, ...], width: float, expected: str):
    with pytest.raises(UsageError, match=expected):
        models.build(name, shape, 10, width)


def test_missing_timm_names_the_extra(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(UsageError, match=r"timm.*sparsekern\[timm\]"):
        models.build("timm:resnet18", (3, 32, 32), 10)


def test_missing_torchvision_names_the_extra(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "torchvision.models.resnet", None)
    with pytest.raises(UsageError, match=r"torchvision.*sparsekern\[cli\]"):
        models.build("resnet20", (3, 32, 32), 10)
