"""Multi-head attention whose projections are linear layers of their own, each of which can be sparse."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import private_torch
from .effective import EffectiveWeight
from .layer import parameter_of
from .product import uninitialized

SETTINGS = ("embed_dim", "kdim", "vdim", "num_heads", "head_dim", "dropout", "batch_first", "add_zero_attn")
INPUTS = ("q", "k", "v")


class SplitAttention(nn.MultiheadAttention):
    """`nn.MultiheadAttention` with a linear layer for each projection.

    It computes what the whole one does, up to rounding, in training and in evaluation. PyTorch's fast path in
    evaluation, which takes dense weights, is left: modules around it, such as `nn.TransformerEncoderLayer`, find that
    this attention does not support it.

    Attributes:
        q_proj, k_proj, v_proj, out_proj: the projections of queries, keys, values and of the result.
        in_proj_weight: the weights of the first three, one below the other, where they are of one width; None else.
            It is made when something computes with it, and what is written to it in place reaches them.
    """

    q_proj: Any
    k_proj: Any
    v_proj: Any
    out_proj: Any  # type: ignore[assignment]

    def __init__(self, whole: nn.MultiheadAttention) -> None:
        nn.Module.__init__(self)
        self.__module__ = f"torch.nn/{__name__}"  # by which torch.fx tells layers that it keeps whole
        self._qkv_same_embed_dim = False  # by which PyTorch's own modules tell that there is no packed weight
        self.whole_class = type(whole)
        for name in SETTINGS:
            setattr(self, name, getattr(whole, name))
        self.register_parameter("bias_k", cast("nn.Parameter | None", whole.bias_k))
        self.register_parameter("bias_v", cast("nn.Parameter | None", whole.bias_v))
        for name, weight, bias in zip(INPUTS, *_packed(whole), strict=True):
            self.add_module(f"{name}_proj", _linear(_own(weight), None if bias is None else _own(bias)))
        self.out_proj = _linear(
            cast(nn.Parameter, whole.out_proj.weight), cast("nn.Parameter | None", whole.out_proj.bias)
        )
        _hand_on(whole, self)
        self.train(whole.training)

    @classmethod
    def of(cls, whole: nn.MultiheadAttention) -> SplitAttention | None:
        """Returns the same attention with split projections; None if its weights are computed from others."""
        held = private_torch.parameters(whole)
        names = ["in_proj_weight", *(f"{name}_proj_weight" for name in INPUTS)]
        found = [held[name] for name in names if held.get(name) is not None]
        own = private_torch.parameters(whole.out_proj).keys() >= {"weight", "bias"}
        own &= "in_proj_bias" in private_torch.parameters(whole)
        return cls(whole) if len(found) in (1, 3) and own else None

    @torch.no_grad()
    def whole(self) -> nn.MultiheadAttention | None:
        """Returns the attention with PyTorch's own weights; None if a projection is no dense linear layer."""
        layers = [self.q_proj, self.k_proj, self.v_proj, self.out_proj]
        if any(type(layer) is not nn.Linear for layer in layers):
            return None
        bias, weight = self.out_proj.bias is not None, self.out_proj.weight
        names = ("embed_dim", "num_heads", "dropout", "add_zero_attn", "kdim", "vdim", "batch_first")
        options = {name: getattr(self, name) for name in names} | {"bias": bias, "add_bias_kv": self.bias_k is not None}
        whole: Any = uninitialized(nn.MultiheadAttention, **options, device=weight.device, dtype=weight.dtype)
        whole.__class__ = self.whole_class
        whole.out_proj.weight, whole.out_proj.bias = weight, self.out_proj.bias
        whole.bias_k, whole.bias_v = self.bias_k, self.bias_v
        weights, biases = _packed(whole)
        for layer, own_weight, own_bias in zip(layers, weights, biases, strict=False):
            own_weight.copy_(layer.weight)
            if own_bias is not None:
                own_bias.copy_(layer.bias)
        for name in ("in_proj_weight", *(f"{name}_proj_weight" for name in INPUTS)):
            if getattr(whole, name) is not None:
                getattr(whole, name).requires_grad_(any(layer.weight.requires_grad for layer in layers[:3]))
        _hand_on(self, whole)
        return whole.train(self.training)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Computes attention as `nn.MultiheadAttention.forward` does, whose arguments and results these are.

        Raises:
            ValueError: nested tensors, or `is_causal` without the mask that it is a hint of.
        """
        if query.is_nested or key.is_nested or value.is_nested:
            raise ValueError("attention with sparse projections takes no nested tensors: pad them, and pass the mask")
        if is_causal and attn_mask is None:
            raise ValueError("is_causal is a hint of what attn_mask is: pass the mask, too")
        batched = query.dim() == 3
        if not batched:
            query, key, value = (x.unsqueeze(0) for x in (query, key, value))
            key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
        elif not self.batch_first:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        q, k, v = (
            layer(x) for layer, x in ((self.q_proj, query), (self.k_proj, key), (self.v_proj, value))
        )  # [batch, length, width]
        batch, given = q.shape[0], k.shape[1]  # `len` would make a constant of it in exported programs
        if self.bias_k is not None:
            k = torch.cat([k, self.bias_k.expand(batch, 1, -1)], 1)
            v = torch.cat([v, self.bias_v.expand(batch, 1, -1)], 1)  # type: ignore[union-attr]
        q, k, v = (x.unflatten(2, (self.num_heads, self.head_dim)).transpose(1, 2) for x in (q, k, v))
        if self.add_zero_attn:
            k, v = F.pad(k, (0, 0, 0, 1)), F.pad(v, (0, 0, 0, 1))
        more = k.shape[2] - given
        causal = is_causal and key_padding_mask is None and not need_weights and not more
        mask = None if causal else self._mask(attn_mask, key_padding_mask, batch, more, q.dtype)
        weights, dropout = None, self.dropout if self.training else 0.0
        if need_weights:
            scores = (q * self.head_dim**-0.5) @ k.transpose(2, 3)
            weights = F.softmax(scores if mask is None else scores + mask, dim=-1)
            weights = F.dropout(weights, dropout, self.training)
            mixed = weights @ v
            weights = weights.mean(1) if average_attn_weights else weights
        else:
            mixed = F.scaled_dot_product_attention(q, k, v, mask, dropout, causal)
        output = self.out_proj(mixed.transpose(1, 2).flatten(2))
        if not batched:
            return output[0], None if weights is None else weights[0]
        return output if self.batch_first else output.transpose(0, 1), weights

    def _mask(
        self, attn_mask: Tensor | None, padding: Tensor | None, batch: int, more: int, dtype: torch.dtype
    ) -> Tensor | None:
        """Returns what is added to the scores, `[batch or 1, heads or 1, queries or 1, keys]`; None for nothing.

        Args:
            padding: the mask of keys, `[batch, keys]`.
            more: how many keys the module itself appends, which everything attends to.
        """
        total = None
        if attn_mask is not None:
            total = _added(attn_mask, dtype)
            total = total.unflatten(0, (batch, self.num_heads)) if total.dim() == 3 else total[None, None]
        if padding is not None:
            own = _added(padding, dtype)[:, None, None]
            total = own if total is None else total + own
        return total if total is None or not more else F.pad(total, (0, more))

    # ---- the names of the whole one

    @property
    def in_proj_weight(self) -> Tensor | None:  # type: ignore[override]
        if not self.embed_dim == self.kdim == self.vdim:
            return None
        return self._in_one("weight")

    @in_proj_weight.setter
    def in_proj_weight(self, value: Tensor) -> None:
        self._written("weight", value)

    @property
    def in_proj_bias(self) -> Tensor | None:  # type: ignore[override]
        return None if self.q_proj.bias is None else self._in_one("bias")

    @in_proj_bias.setter
    def in_proj_bias(self, value: Tensor) -> None:
        self._written("bias", value)

    def _written(self, kind: str, value: Any) -> None:
        """Takes what an operation in place (`in_proj_weight *= 2`) assigns once it has written it."""
        if not (isinstance(value, EffectiveWeight) and _Packed.of(self, kind).same(value._layer)):
            raise TypeError(
                f"cannot assign in_proj_{kind}: change it in place, or assign those of q_proj, k_proj, v_proj"
            )

    def _in_one(self, kind: str) -> Tensor:
        packed: Any = _Packed.of(self, kind)
        return packed.dense_weight() if torch.compiler.is_compiling() else EffectiveWeight(packed)

    @property
    def q_proj_weight(self) -> Tensor:  # type: ignore[override]
        return self.q_proj.weight

    @property
    def k_proj_weight(self) -> Tensor:  # type: ignore[override]
        return self.k_proj.weight

    @property
    def v_proj_weight(self) -> Tensor:  # type: ignore[override]
        return self.v_proj.weight

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *arguments: Any) -> None:
        """Takes a state of the whole one, too, for projections that take a dense weight."""
        for kind in ("weight", "bias"):
            packed = state_dict.pop(f"{prefix}in_proj_{kind}", None)
            parts = (None, None, None) if packed is None else packed.chunk(3)
            for name, part in zip(INPUTS, parts, strict=True):
                part = state_dict.pop(f"{prefix}{name}_proj_weight", part) if kind == "weight" else part
                if part is not None:
                    state_dict[f"{prefix}{name}_proj.{kind}"] = part
        super()._load_from_state_dict(state_dict, prefix, *arguments)


class _Packed:
    """The weights or the biases of some projections, one below the other, as `EffectiveWeight` takes a layer."""

    topology = None

    def __init__(self, layers: list[Any], kind: str) -> None:
        self.layers, self.kind = layers, kind
        self.weight_parameters = [parameter_of(layer) if kind == "weight" else layer.bias for layer in layers]
        self.stored = self.weight_parameters[0]
        parts = self._parts()
        self.dense_shape = (sum(map(len, parts)), *parts[0].shape[1:])

    @classmethod
    def of(cls, attention: SplitAttention, kind: str) -> _Packed:
        return cls([attention.q_proj, attention.k_proj, attention.v_proj], kind)

    def same(self, other: Any) -> bool:
        return isinstance(other, _Packed) and (other.layers, other.kind) == (self.layers, self.kind)

    def _parts(self) -> list[Tensor]:
        return [getattr(layer, self.kind) for layer in self.layers]

    def dense_weight(self) -> Tensor:
        return torch.cat([_dense(part) for part in self._parts()])

    def dense_gradient(self) -> Tensor | None:
        gradients = [part.grad for part in self._parts()]
        known = [gradient for gradient in gradients if gradient is not None]
        return torch.cat(known) if len(known) == len(gradients) else None

    def weight_version(self) -> tuple[int, ...]:
        return tuple(map(private_torch.version, self.weight_parameters))

    @torch.no_grad()
    def write_weight(self, dense: Tensor) -> None:
        for own, part in zip(self._parts(), dense.chunk(len(self.layers)), strict=True):
            own.copy_(part)

    def write_gradient(self, dense: Tensor) -> None:
        for own, part in zip(self._parts(), dense.chunk(len(self.layers)), strict=True):
            own.grad.copy_(part)  # type: ignore[union-attr]


def _dense(weight: Tensor) -> Tensor:
    return weight + 0 if isinstance(weight, EffectiveWeight) else weight


def _packed(whole: nn.MultiheadAttention) -> tuple[Any, Any]:
    """Returns the weights and the biases of queries, keys and values."""
    if whole.in_proj_weight is None:
        weights: Any = (whole.q_proj_weight, whole.k_proj_weight, whole.v_proj_weight)
    else:
        weights = whole.in_proj_weight.chunk(3)
    return weights, (None, None, None) if whole.in_proj_bias is None else whole.in_proj_bias.chunk(3)


def _own(part: Tensor) -> nn.Parameter:
    return nn.Parameter(part.detach().clone(), part.requires_grad)


def _linear(weight: Any, bias: Any) -> nn.Linear:
    out, width = weight.shape
    layer: Any = uninitialized(nn.Linear, width, out, bias=bias is not None, device="meta")
    layer.weight = weight
    if bias is not None:
        layer.bias = bias
    return layer


def _added(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Returns a mask, True or -inf where nothing attends, as what is added to the scores."""
    if mask.dtype != torch.bool:
        return mask.to(dtype)
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(mask, -torch.inf)


def _hand_on(old: nn.Module, new: nn.Module) -> None:
    """Gives `new` the attributes of `old` that are no part of its class."""
    example = nn.MultiheadAttention(1, 1, device="meta")
    own = vars(SplitAttention(example) if isinstance(old, SplitAttention) else example)
    vars(new).update({key: value for key, value in vars(old).items() if key not in own and key not in vars(new)})
