"""The transformers of `--model`, beside PyTorch's own."""

from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparsekern import models
from sparsekern.models.transformer import Block
from sparsekern.nn import prunable_layers


def theirs(blocks: nn.Sequential) -> nn.TransformerEncoder:
    """PyTorch's transformer of the same weights."""
    block = cast(Block, blocks[0])
    width, hidden = block.up.in_features, block.up.out_features
    layer = nn.TransformerEncoderLayer(
        width, block.attention.heads, hidden, 0.0, "gelu", batch_first=True, norm_first=True
    )
    encoder = nn.TransformerEncoder(layer, len(blocks), enable_nested_tensor=False)
    for own, other in zip(blocks, encoder.layers, strict=True):
        parts = [getattr(own.attention, name) for name in "qkv"]
        other.self_attn.in_proj_weight.data = torch.cat([part.weight.data for part in parts])
        other.self_attn.in_proj_bias.data = torch.cat([part.bias.data for part in parts])
        pairs = [(own.attention.out, other.self_attn.out_proj), (own.up, other.linear1), (own.down, other.linear2)]
        for mine, its in [*pairs, (own.norm1, other.norm1), (own.norm2, other.norm2)]:
            its.load_state_dict(mine.state_dict())
    return encoder


def randomised(name: str, shape: tuple[int, ...], classes: int) -> Any:
    """A narrow network with biases and scales that are not those of the beginning."""
    model = models.build(name, shape, classes, width=0.125).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


def test_decoder_computes_what_pytorchs_does():
    model = randomised("gpt-mini", (12,), 17)
    tokens = torch.randint(17, (3, 10))  # shorter than the context
    x = model.token.weight[tokens] + model.position.weight[:10]
    mask = nn.Transformer.generate_square_subsequent_mask(10, dtype=torch.float64)
    expected = model.norm(theirs(model.blocks).double()(x, mask=mask)) @ model.head.weight.t()
    torch.testing.assert_close(model(tokens), expected)


def test_encoder_computes_what_pytorchs_does():
    model = randomised("vit-tiny", (3, 20, 12), 7)
    images = torch.randn(2, 3, 20, 12, dtype=torch.float64)
    patches = images.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 1, 4, 5).reshape(2, 15, 48)
    x = patches @ model.patch.weight.t() + model.patch.bias + model.position.weight
    expected = F.linear(model.norm(theirs(model.blocks).double()(x)).mean(1), model.head.weight, model.head.bias)
    torch.testing.assert_close(model(images), expected)


def test_decoder_sizes():
    model = models.build("gpt-mini", (128,), 256)
    block = 4 * 256 * 257 + 2 * 256 * 1024 + 1280 + 4 * 256
    assert sum(p.numel() for p in model.parameters()) == 4 * block + 256 * (256 + 128 + 2 + 256)
    layers = prunable_layers(model, models.DENSE["gpt-mini"])
    assert len(layers) == 4 * 6
    assert sum(layer.weight.numel() for layer in layers.values()) == 4 * 12 * 256**2  # type: ignore[operator]


@pytest.mark.parametrize(("name", "shape"), [("gpt-mini", (16,)), ("vit-tiny", (1, 8, 8))])
def test_first_outputs_say_nothing(name: str, shape: tuple[int, ...]):
    torch.manual_seed(0)
    inputs = torch.randint(50, (4, 16)) if name == "gpt-mini" else torch.randn(4, *shape)
    outputs: Tensor = models.build(name, shape, 50)(inputs)
    assert 0 < outputs.std() < 0.5
