"""peft: LoRA on sparse layers, in every `LoraConfig`, since peft has no registry of layers but that of a config.

The adapter stays dense. A merge keeps the zeros: it adds to the active weights only. What the adapter changes elsewhere
is lost, and a warning says so.
"""

from __future__ import annotations

import warnings
from copy import copy
from dataclasses import fields
from functools import wraps
from typing import Any

from peft.tuners import tuners_utils
from peft.tuners.lora.config import LoraConfig
from peft.tuners.lora.layer import Conv2d, Linear
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.constants import INCLUDE_LINEAR_LAYERS_SHORTHAND as ALL
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from ..nn import PatternLayer
from ..nn.linear import LinearProduct

# Other initialisations move a part of the weight into the adapter and leave the rest, which has no zeros, to the layer.
INITIAL = ("gaussian", "orthogonal", "eva")


class SparseLora:
    """The common part of the adapters of linear layers and convolutions."""

    lora_variants = {(): None}  # noqa: RUF012  peft's: others compute with the dense weight

    def _get_in_out_features(self, module: Any) -> tuple[int, int]:
        outputs, inputs, *_ = module.weight_shape
        return inputs * getattr(module, "groups", 1), outputs

    def update_layer(self, adapter_name: str, *arguments: Any, config: LoraConfig, **options: Any) -> None:
        initial = config.init_lora_weights
        if isinstance(initial, str) and initial.lower() not in INITIAL:
            raise ValueError(
                f"init_lora_weights={initial!r} leaves the layer a weight without zeros, which a sparse layer does not "
                f"hold: expected True, False, {', '.join(INITIAL)}, or sk.densify(model) first"
            )
        variants = [
            field.name
            for field in fields(config)
            if field.metadata.get("is_lora_variant") and getattr(config, field.name)
        ]
        if variants:
            raise ValueError(
                f"{', '.join(variants)} of LoraConfig computes with the dense weight, which a sparse layer does not "
                "hold: leave it out, or sk.densify(model) first"
            )
        super().update_layer(adapter_name, *arguments, config=config, **options)

    def get_delta_weight(self, adapter: str) -> Tensor:
        """Returns what a merge adds to the weight, zero where the layer has none."""
        base = self.get_base_layer()
        return super().get_delta_weight(adapter) * base.weight_of(base.topology.mask())

    def merge(self, *arguments: Any, **options: Any) -> None:
        warnings.warn(
            "a merge keeps the zeros of sparse layers: what the adapter changes elsewhere is lost. To keep it, "
            "sk.densify(model) before get_peft_model",
            stacklevel=2,
        )
        super().merge(*arguments, **options)


class SparseLinearLora(SparseLora, Linear):
    """The adapter of a linear layer, that of transformers' `Conv1D` included."""


class SparseConv2dLora(SparseLora, Conv2d):
    """The adapter of a convolution."""

    def update_layer(self, adapter_name: str, *arguments: Any, **options: Any) -> None:
        layer, self.base_layer = self.base_layer, self.base_layer.to_dense()  # peft makes others of its class
        try:
            super().update_layer(adapter_name, *arguments, **options)
        finally:
            self.base_layer = layer


def adapted(layer: Any, adapter_name: str, *, config: LoraConfig, **options: Any) -> nn.Module | None:
    """Returns a layer with an adapter; None of a kind that has none, of which peft then says so."""
    base = layer.get_base_layer() if isinstance(layer, BaseTunerLayer) else layer
    kinds: dict[type, type[SparseLora]] = {nn.Conv2d: SparseConv2dLora}
    kind = kinds.get(base.DENSE, SparseLinearLora if isinstance(base, LinearProduct) else None)  # type: ignore[arg-type]
    if kind is None:
        return None
    if kind is SparseLinearLora:
        turned = base.DENSE is Conv1D  # its weight is [in, out]
        config, options["is_target_conv_1d_layer"] = copy(config), turned
        config.fan_in_fan_out = turned
    return kind(layer, adapter_name, config=config, **options)  # type: ignore[call-arg,return-value]


def _register(post_init: Any) -> Any:
    @wraps(post_init)
    def register(config: LoraConfig) -> None:
        post_init(config)
        config._register_custom_module({PatternLayer: adapted})

    return register


def _see_sparse_layers(include: Any) -> Any:
    """`target_modules="all-linear"` means sparse ones, too."""

    @wraps(include)
    def see(config: Any, model: nn.Module) -> Any:
        named = getattr(config, "target_modules", None)
        config = include(config, model)
        if isinstance(named, str) and named.lower() == ALL:
            head = getattr(model, "get_output_embeddings", lambda: None)()
            layers = [(name, m) for name, m in model.named_modules() if isinstance(m, LinearProduct) and m is not head]
            config.target_modules |= {name for name, _ in layers if not name.endswith("base_layer")}
        return config

    return see


LoraConfig.__post_init__ = _register(LoraConfig.__post_init__)
tuners_utils._maybe_include_all_linear_layers = _see_sparse_layers(tuners_utils._maybe_include_all_linear_layers)
