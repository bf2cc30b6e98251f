"""Networks that people bring: sparse ones compute what their masked twins compute, forward and gradients."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision import models

import sparsekern as sk
from sparsekern.nn import SparseLayer

# how many layers stay dense: attention reads the weights of its own
MODELS = {
    "resnet18": 0,
    "resnet50": 0,
    "vgg11": 0,
    "mobilenet_v2": 0,
    "vit": 0,
    "densenet121": 0,
    "efficientnet_b0": 0,
    "convnext_tiny": 0,
    "shufflenet_v2_x0_5": 0,
    "swin": 0,
}
PROJECTIONS = ("q_proj", "k_proj", "v_proj")


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    if name == "vgg11":  # without the linear layers of 100 million weights
        model = nn.Sequential(models.vgg11(init_weights=False).features, nn.Flatten(), nn.Linear(512, 4))
    elif name == "vit":
        model = models.VisionTransformer(48, 8, 2, 4, 64, 128, num_classes=4)
    elif name == "swin":
        model = models.SwinTransformer([4, 4], 24, [2, 2], [2, 4], [3, 3], num_classes=4)
    else:
        model = getattr(models, name)(num_classes=4)
    for head in [m for m in model.modules() if isinstance(m, nn.Linear) and m.out_features == 4]:
        nn.init.normal_(head.weight, std=0.1)  # some start at zero
    return model.double()


def masked_twin(dense: nn.Module, sparse: nn.Module) -> nn.Module:
    for name, layer in sparse.named_modules():
        owner, _, last = name.rpartition(".")
        if isinstance(layer, SparseLayer):
            with torch.no_grad():
                if isinstance(attention := dense.get_submodule(owner), nn.MultiheadAttention) and last in PROJECTIONS:
                    weight = attention.in_proj_weight.chunk(3)[PROJECTIONS.index(last)]
                else:
                    weight = dense.get_submodule(name).weight
                weight.mul_(layer.topology.mask())
    return dense


def gradients(model: nn.Module, x: Tensor) -> tuple[Tensor, dict[str, Any]]:
    torch.manual_seed(1)  # dropout and stochastic depth
    output = model(x)
    nn.functional.cross_entropy(output, torch.tensor([1, 2, 0])).backward()
    found: dict[str, Any] = {name: p.grad for name, p in model.named_parameters()}
    for name in [name for name in found if ".in_proj_" in name]:  # of the dense twin, as the sparse one has them
        parts = zip(PROJECTIONS, found.pop(name).chunk(3), strict=True)
        found |= {name.replace("in_proj_", f"{projection}."): part for projection, part in parts}
    return output.detach(), found


@pytest.mark.parametrize("name", MODELS)
def test_forward_and_gradients_equal_the_masked_twins(name: str) -> None:
    dense = network(name)
    sparse = sk.sparsify(copy.deepcopy(dense), 0.9)
    assert sum(isinstance(m, nn.Linear | nn.Conv2d) for m in sparse.modules()) == MODELS[name]
    twin = masked_twin(dense, sparse)
    x = torch.randn(3, 3, 48, 48, dtype=torch.double)  # fewer pixels make batch norm ill-conditioned
    (got, own), (wanted, expected) = gradients(sparse, x), gradients(twin, x)
    torch.testing.assert_close(got, wanted)
    # Normalisation cancels what stands before it, so that a gradient may be nothing but rounding.
    rounding = 1e-11 * max(float(gradient.abs().max()) for gradient in expected.values())
    for key, gradient in own.items():
        layer, reference = sparse.get_submodule(key.rpartition(".")[0]), expected.get(key)
        if reference is None:
            reference = layer.topology.gather(expected[key.removesuffix("values") + "weight"])
        torch.testing.assert_close(gradient, reference, rtol=1e-6, atol=rounding, msg=lambda m, k=key: f"{k}: {m}")
