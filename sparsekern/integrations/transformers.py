"""transformers: `save_pretrained` notes that layers are sparse, and `from_pretrained` gives them back.

The note is a `quantization_config` in `config.json`, since transformers lets others make the layers of such models. In
the file it names no method: where `sparsekern` is not imported, transformers takes that for an error. Of a method that
it does not know it would only warn, and give the layers random weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial, wraps
from typing import Any, cast

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightRenaming
from transformers.modeling_utils import PreTrainedModel
from transformers.quantizers.auto import AutoHfQuantizer, register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from ..nn import PatternLayer
from ..nn.conversion.registry import MASKED, SPARSE, SPLITTERS, register_layer, registered, registered_class
from ..nn.conversion.saved import patterned
from ..sparsity.model.overrides import Assignment, assignment_of
from ..topology import Topology
from .conv1d import Conv1D, MaskedConv1D, SparseConv1D

METHOD = "sparsekern"
NOTE = "import sparsekern before from_pretrained: it makes the sparse layers of this model"
PATTERN, VALUES = ("row_ptr", "col"), ("values", "master")

register_layer(Conv1D, (SparseConv1D, MaskedConv1D))


@register_quantization_config(METHOD)
class SparseConfig(QuantizationConfigMixin):
    """The note in `config.json`.

    Attributes:
        parts: what `sparsify` noted on the layers that overrides or masks have made differ, see `assignments_of`.
    """

    def __init__(self, parts: Sequence[dict[str, Any]] = (), **_: Any) -> None:
        self.quant_method = METHOD  # type: ignore[assignment]
        self.parts = list(parts)

    def to_dict(self) -> dict[str, Any]:
        return {METHOD: NOTE, **({"parts": self.parts} if self.parts else {})}


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
        state = renamed(model, saved(checkpoint_files))
        patterned(model, state, *(partial(blank, classes) for classes in (MASKED, SPARSE)))
        remember(model, getattr(self.quantization_config, "parts", ()))
        note(model)

    def _process_model_after_weight_loading(self, model: PreTrainedModel, **_: Any) -> PreTrainedModel:
        """Nothing is quantized: the model is an ordinary one from here on, but for the note in its configuration."""
        model.is_quantized = False
        model.config._is_quantized = False
        del model.hf_quantizer, model.quantization_method
        return model


def saved(files: Sequence[str]) -> dict[str, Tensor]:
    """Returns the entries of the files: patterns of sparse layers as they are, of others the names alone."""
    nothing = torch.empty(0, device="meta")
    return {
        key: read() if key.rpartition(".")[2] in PATTERN else nothing for path in files for key, read in _entries(path)
    }


def renamed(model: PreTrainedModel, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the patterns of a state whose layers the model has, by their names there.

    Raises:
        ValueError: an entry of a sparse layer is missing, or a layer of the model has no entries while the state has
            sparse layers that the model lacks. transformers would give such layers random weights.
    """
    rename, modules = renaming(model), dict(model.named_modules())
    found, lost, loaded = {}, [], set()
    lasts: dict[str, set[str]] = {}
    for key, entry in state.items():
        name, _, last = key.rpartition(".")
        own = own_name(modules, model.base_model_prefix, name, rename(key).rpartition(".")[0])
        loaded.add(own)
        if last in (*PATTERN, *VALUES):
            lasts.setdefault(name, set()).add(last)
            if own is None:
                lost.append(name)
            else:
                found[f"{own}.{last}"] = entry
    for name, own_lasts in lasts.items():
        wanted = [last for last in PATTERN if last not in own_lasts]
        wanted += [] if own_lasts & {*VALUES} or f"{name}.weight" in state else ["values"]
        if wanted and own_lasts != {"values"}:  # of another kind of layer
            raise ValueError(f"the checkpoint lacks {', '.join(wanted)} of the sparse layer {name}")
    base = f"{model.base_model_prefix}." if hasattr(model, model.base_model_prefix) else ""
    layers = (name for name, layer in modules.items() if registered_class(layer) in SPARSE and name.startswith(base))
    unset = [name for name in layers if name not in loaded]
    if lost and unset:
        raise ValueError(
            f"the checkpoint has a sparse layer {lost[0]}, which {type(model).__name__} does not have, and nothing for "
            f"{', '.join(unset[:4])}{', ...' * (len(unset) > 4)}"
        )
    return found


def renaming(model: PreTrainedModel) -> Callable[[str], str]:
    """Returns how transformers renames the entries of checkpoints for a model, whose files may keep older names."""
    renamings = [entry for entry in get_model_conversion_mapping(model) if isinstance(entry, WeightRenaming)]

    def rename(key: str) -> str:
        for entry in renamings:
            key = entry.rename_source_key(key)[0]
        return key

    return rename


def _entries(path: str) -> Iterator[tuple[str, Any]]:
    if str(path).endswith(".safetensors"):
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118
                yield key, lambda key=key: file.get_tensor(key)
    else:
        for key, tensor in torch.load(path, map_location="cpu", weights_only=True, mmap=True).items():
            yield key, lambda tensor=tensor: tensor


def own_name(modules: Mapping[str, nn.Module], base: str, *names: str) -> str | None:
    """Returns the name of a layer in a model, which may be the model with or without a head; None if it has no such
    layer. What layers that are yet to be split are split into counts.

    Args:
        modules: those of the model, by name.
        base: the name of the model without a head in that with one.
        names: of the layer in a file; the last one that fits counts.
    """
    prefix = f"{base}."
    for name in reversed(names):
        for own in (name, prefix + name, name.removeprefix(prefix)):
            around = type(modules.get(own.rpartition(".")[0]))
            if own in modules or registered(around) in SPLITTERS:
                return own
    return None


def blank(classes: Mapping[type[nn.Module], type[PatternLayer]], layer: Any, topology: Topology) -> PatternLayer:
    """Makes the sparse or masked layer that takes the place of a dense one, on its device, its weights unset."""
    return classes[cast(Any, registered_class(layer))].blank(layer, topology)


def assignments_of(model: nn.Module) -> list[dict[str, Any]]:
    """Returns which layers share an `Assignment`, by name, and whether masks gave their patterns; none where there were
    neither overrides nor masks."""
    found: dict[tuple[Assignment, bool], list[str]] = {}
    for name, layer in model.named_modules():
        if isinstance(layer, PatternLayer) and (own := assignment_of(layer)) is not None:
            found.setdefault((own, layer.pattern_given), []).append(name)
    if not any(own.key or given for own, given in found):
        return []
    return [{**own._asdict(), "given": given, "layers": names} for (own, given), names in found.items()]


def remember(model: PreTrainedModel, parts: Sequence[dict[str, Any]]) -> None:
    """Notes `assignments_of` another model on the layers of this one."""
    layers = dict(model.named_modules())
    for group in parts:
        assignment = Assignment(group["method"], group["key"], group["sparsity"])
        for name in group["layers"]:
            layer = layers.get(own_name(layers, model.base_model_prefix, name) or name)
            if isinstance(layer, PatternLayer):
                vars(layer).update(assignment=assignment, pattern_given=group["given"])


def note(model: nn.Module) -> None:
    """Notes in the configurations of models whether they have sparse layers, by the names in the outermost model that
    has this configuration."""
    seen: set[int] = set()
    for part in model.modules():
        if not isinstance(part, PreTrainedModel) or id(part.config) in seen:
            continue
        seen.add(id(part.config))
        noted: Any = getattr(part.config, "quantization_config", None)
        sparse = any(isinstance(layer, PatternLayer) for layer in part.modules())
        if sparse and (noted is None or is_ours(noted)):
            part.config.quantization_config = SparseConfig(assignments_of(part))
        elif is_ours(noted) and not sparse:
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
