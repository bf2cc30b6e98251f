"""Transformers of PyTorch's attention, with the norms first: a decoder for text, an encoder for small images."""

from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import UsageError
from .common import SMALL, scaled

HEAD = 64  # width of a head, at --width 1


class Attention(nn.Module):
    """Attention of a sequence `[batch, length, width]` with itself; each projection is a linear layer of its own."""

    def __init__(self, heads: int, width: int, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (layer(x).unflatten(2, (self.heads, -1)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.out(mixed.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention and a perceptron of one hidden layer, four times as wide; each adds to the sequence."""

    def __init__(self, heads: int, width: int, causal: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(heads, width, causal)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Decoder(nn.Module):
    """Predicts the next token at every position: tokens `[batch, length]`, int64, to logits `[batch, length, tokens]`.

    The head has a weight of its own: of few tokens it is small, and methods that leave the last linear layer dense find
    the head there. `training.configure` excludes it unless told otherwise.
    """

    def __init__(self, tokens: int, context: int, depth: int, heads: int, width: int) -> None:
        super().__init__()
        self.token, self.position = nn.Embedding(tokens, width), nn.Embedding(context, width)
        self.blocks = nn.Sequential(*(Block(heads, width, causal=True) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, tokens, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.blocks(self.token(tokens) + self.position(positions))
        return self.head(self.norm(x))


class Encoder(nn.Module):
    """Classifies images `[batch, channels, height, width]` by their patches, whose mean the head sees.

    Patches enter by a linear layer: methods that prune convolutions alone, of networks that have any, prune the blocks.
    """

    def __init__(self, channels: int, patches: int, patch: int, classes: int, depth: int, heads: int, width: int):
        super().__init__()
        self.size, self.patch = patch, nn.Linear(channels * patch**2, width)
        self.position = nn.Embedding(patches, width)
        self.blocks = nn.Sequential(*(Block(heads, width, causal=False) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.patch(F.unfold(images, self.size, stride=self.size).transpose(1, 2))
        x = self.blocks(x + self.position(torch.arange(x.shape[1], device=x.device)))
        return self.head(self.norm(x).mean(1))


def gpt_mini(shape: tuple[int, ...], classes: int, width: float) -> nn.Module:
    """A decoder of GPT-2's form (Radford et al. 2019), 4 blocks of width 256 with 4 heads; `shape` is the context."""
    if len(shape) != 1:
        raise UsageError(f"gpt-mini takes text, not images of {' x '.join(map(str, shape))}; try --data text")
    heads, depth = 4, 4
    return _initialise(Decoder(classes, shape[0], depth, heads, heads * scaled(HEAD, width)), depth)


def vit_tiny(shape: tuple[int, ...], classes: int, width: float) -> nn.Module:
    """A vision transformer (Dosovitskiy et al. 2021), 6 blocks of DeiT-Ti's width: 192 with 3 heads.

    Patches are of 4 x 4 pixels, of 2 x 2 in images up to 16 pixels high or wide, of 16 x 16 in those above 64.
    """
    largest = max(shape[-2:])
    patch = 2 if largest <= 16 else 4 if largest <= SMALL else 16
    if any(size % patch for size in shape[-2:]):
        raise UsageError(f"vit-tiny cuts images of {shape[1]} x {shape[2]} into no patches of {patch} x {patch}")
    heads, depth = 3, 6
    patches = prod(size // patch for size in shape[-2:])
    return _initialise(Encoder(shape[0], patches, patch, classes, depth, heads, heads * scaled(HEAD, width)), depth)


@torch.no_grad()
def _initialise(model: nn.Module, depth: int) -> nn.Module:
    """Weights normal with deviation 0.02, less where the 2 `depth` layers add to the sequence (GPT-2)."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            adds = name.endswith((".out", ".down"))
            nn.init.normal_(module.weight, std=0.02 / (2 * depth) ** 0.5 if adds else 0.02)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
    return model
