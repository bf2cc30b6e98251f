"""transformers: `save_pretrained` notes that layers are sparse, and `from_pretrained` gives them back.

The note is a `quantization_config` in `config.json`, since transformers lets others make the layers of such models. In
the file it names no method: where `sparsekern` is not imported, transformers takes that for an error. Of a method that
it does not know it would only warn, and give the layers random weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import wraps
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers.modeling_utils import PreTrainedModel
from transformers.quantizers.auto import AutoHfQuantizer, register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from ..nn import PatternLayer
from ..nn.conversion.exchange import exchange
from ..nn.conversion.parts import put_together, take_apart
from ..nn.conversion.registry import MASKED, SPARSE, register_layer, twin_of
from ..topology import Topology
from .conv1d import Conv1D, MaskedConv1D, SparseConv1D

METHOD = "sparsekern"
NOTE = "import sparsekern before from_pretrained: it makes the sparse layers of this model"
PATTERN = ("row_ptr", "col")

register_layer(Conv1D, (SparseConv1D, MaskedConv1D))


@register_quantization_config(METHOD)
class SparseConfig(QuantizationConfigMixin):
    """The note in `config.json`."""

    def __init__(self, **_: Any) -> None:
        self.quant_method = METHOD  # type: ignore[assignment]

    def to_dict(self) -> dict[str, Any]:
        return {METHOD: NOTE}


@register_quantizer(METHOD)
class SparseLoader(HfQuantizer):
    """Gives a model the sparse layers of its checkpoint before their weights are read."""

    is_trainable = True
    is_qat_trainable = True
    is_compileable = True

    def is_serializable(self) -> bool:
        return True

    def _process_model_before_weight_loading(
        self, model: PreTrainedModel, checkpoint_files: Sequence[str] | None = None, **_: Any
    ) -> None:
        if not checkpoint_files:
            raise ValueError("a checkpoint with sparse layers is loaded from its files, not from a state_dict")
        patterns = [*saved_patterns(checkpoint_files)]
        prefix = f"{model.base_model_prefix}."
        wanted = [own for n, *_ in patterns for own in (n, prefix + n, n.removeprefix(prefix))]
        model, originals = take_apart(model, wanted)
        twins = {}
        for name, kind, row_ptr, col in patterns:
            own = own_name(model, name)
            if own is not None:
                twins[own] = twin(model.get_submodule(own), name, kind, row_ptr, col)
        exchange(model, twins)
        put_together(model, originals)

    def _process_model_after_weight_loading(self, model: PreTrainedModel, **_: Any) -> PreTrainedModel:
        """Nothing is quantized: the model is an ordinary one from here on, but for the note in its configuration."""
        model.is_quantized = False
        model.config._is_quantized = False
        del model.hf_quantizer, model.quantization_method
        return model


def saved_patterns(files: Sequence[str]) -> Iterator[tuple[str, str, Tensor, Tensor]]:
    """Yields name, weight ("values" or "master"), row_ptr and col of every sparse layer in the files."""
    found: dict[str, Tensor] = {}
    weights: dict[str, str] = {}
    for path in files:
        for key, read in _entries(path):
            layer, _, last = key.rpartition(".")
            if last in PATTERN:
                found[key] = read()
            elif last in ("values", "master"):
                weights[layer] = last
    for layer, kind in weights.items():
        if all(f"{layer}.{part}" in found for part in PATTERN):
            yield layer, kind, *(found[f"{layer}.{part}"] for part in PATTERN)


def _entries(path: str) -> Iterator[tuple[str, Any]]:
    if str(path).endswith(".safetensors"):
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118
                yield key, lambda key=key: file.get_tensor(key)
    else:
        for key, tensor in torch.load(path, map_location="cpu", weights_only=True, mmap=True).items():
            yield key, lambda tensor=tensor: tensor


def own_name(model: PreTrainedModel, name: str) -> str | None:
    """Returns the name of a saved layer in this model, which may be the model with or without a head; None if it has no
    such layer."""
    prefix = f"{model.base_model_prefix}."
    names = dict(model.named_modules())
    return next((n for n in (name, prefix + name, name.removeprefix(prefix)) if n in names), None)


def twin(layer: Any, name: str, kind: str, row_ptr: Tensor, col: Tensor) -> PatternLayer:
    """Makes the sparse or masked twin of a dense layer, on its device, its weights unset.

    Raises:
        ValueError: the layer is of another class or shape than the saved one.
    """
    classes: dict[Any, type[PatternLayer]] = {**(SPARSE if kind == "values" else MASKED)}
    made = classes.get(twin_of(layer))
    if made is None:
        raise ValueError(f"{name} is sparse in the checkpoint, but a {type(layer).__name__} in this model")
    shape = tuple(made.rows_of(layer.weight.detach().to("meta")).shape)
    if row_ptr.numel() != shape[0] + 1:
        raise ValueError(f"{name} has {row_ptr.numel() - 1} outputs in the checkpoint, but {shape[0]} in this model")
    topology = Topology(shape, row_ptr.to(torch.int32), col.to(torch.int32))
    return made.blank(layer, topology)


def note(model: nn.Module) -> None:
    """Notes in the configurations of models whether they have sparse layers."""
    for part in model.modules():
        if isinstance(part, PreTrainedModel):
            noted: Any = getattr(part.config, "quantization_config", None)
            sparse = any(isinstance(layer, PatternLayer) for layer in part.modules())
            if sparse and noted is None:
                part.config.quantization_config = SparseConfig()
            elif is_ours(noted) and not any(isinstance(layer, PatternLayer) for layer in model.modules()):
                del part.config.quantization_config


def is_ours(noted: Any) -> bool:
    """Tells whether a note says that layers are sparse, that of an earlier release included."""
    if isinstance(noted, dict):
        return METHOD in noted or noted.get("quant_method") == METHOD
    return isinstance(noted, SparseConfig)


def _knowing(supports: Callable[[Any], bool]) -> Callable[[Any], bool]:
    @wraps(supports)
    def supports_quant_method(noted: Any) -> bool:
        if not is_ours(noted):
            return supports(noted)
        if isinstance(noted, dict):
            noted["quant_method"] = METHOD
        return True

    return supports_quant_method


AutoHfQuantizer.supports_quant_method = staticmethod(_knowing(AutoHfQuantizer.supports_quant_method))
