"""peft: LoRA on sparse layers computes what it does on their dense twins; merges keep the zeros.
`make test-integrations` has it."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sparsekern as sk
from sparsekern.nn import PatternLayer

peft = pytest.importorskip("peft")
from peft import LoraConfig, PeftModel, get_peft_model  # noqa: E402

MERGES = "ignore:a merge keeps the zeros"


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.wide, self.narrow, self.head = nn.Linear(8 * 16, 32), nn.Linear(32, 32), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).relu().flatten(1)
        return self.head(self.narrow(self.wide(x).relu()).relu())


def images() -> Tensor:
    return torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def config(**changes: Any) -> LoraConfig:
    return LoraConfig(**{"r": 4, "target_modules": ["conv", "wide", "narrow"], "init_lora_weights": False, **changes})


def twins(storage: str = "sparse", **changes: Any) -> tuple[Any, Any]:
    """A sparse model and its dense twin, with the same adapters."""
    if storage == "sparse":
        model: Any = sk.sparsify(Network(), 0.8, exclude=["head"])
    else:
        model = sk.sparsify(Network(), sk.methods.dnw(sparsity=0.8, total_steps=9, steps_per_epoch=3), exclude=["head"])
    made = []
    for one in (copy.deepcopy(model), sk.densify(copy.deepcopy(model))):
        torch.manual_seed(2)
        made.append(get_peft_model(one, config(**changes)))
    return made[0], made[1]


def layers(model: nn.Module) -> dict[str, Any]:
    return {name: m for name, m in model.named_modules() if isinstance(m, PatternLayer)}


@pytest.mark.parametrize("storage", ["sparse", "masked"])
def test_trains_as_on_the_dense_twin(storage: str) -> None:
    sparse, dense = twins(storage)
    assert len(layers(sparse)) == 3
    trainable = [name for name, p in sparse.named_parameters() if p.requires_grad]
    assert trainable == [name for name, p in dense.named_parameters() if p.requires_grad]
    assert all("lora_" in name for name in trainable)
    for model in (sparse, dense):
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            model(images()).square().mean().backward()
            optimizer.step()
    torch.testing.assert_close(sparse(images()), dense(images()))


@pytest.mark.filterwarnings(MERGES)
@pytest.mark.parametrize("storage", ["sparse", "masked"])
@pytest.mark.parametrize("safe", [False, True])
def test_a_merge_keeps_the_zeros(storage: str, safe: bool) -> None:
    sparse, dense = twins(storage)
    before = {name: layer.dense_weight().detach().clone() for name, layer in layers(sparse).items()}
    masks = {name: layer.topology.mask() for name, layer in layers(sparse).items()}
    dense.merge_adapter(safe_merge=safe)
    sparse.merge_adapter(safe_merge=safe)
    for name, layer in layers(sparse).items():
        expected = dense.get_submodule(name).weight * masks[name]
        torch.testing.assert_close(layer.dense_weight(), expected)
        assert not torch.equal(layer.dense_weight(), before[name])
    sparse.unmerge_adapter()
    for name, layer in layers(sparse).items():
        torch.testing.assert_close(layer.dense_weight().detach(), before[name])
    merged = sparse.merge_and_unload(safe_merge=safe)
    assert isinstance(merged.wide, PatternLayer)
    assert isinstance(merged.conv, PatternLayer)
    for name, layer in layers(merged).items():
        expected = dense.base_model.model.get_submodule(f"{name}.base_layer").weight * layer.topology.mask()
        torch.testing.assert_close(layer.dense_weight(), expected)


def test_a_merge_warns() -> None:
    with pytest.warns(UserWarning, match="what the adapter changes elsewhere is lost"):
        twins()[0].merge_adapter()


def test_adapters_are_saved_and_loaded(tmp_path: Path) -> None:
    model, _ = twins()
    base = sk.sparsify(Network(), 0.8, exclude=["head"])
    base.load_state_dict(copy.deepcopy(model).unload().state_dict())
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(base, tmp_path)
    assert torch.equal(again(images()), model.eval()(images()))


def test_all_linear_means_sparse_layers_too() -> None:
    model = get_peft_model(sk.sparsify(Network(), 0.8, exclude=["head"]), config(target_modules="all-linear"))
    assert {n.rpartition(".")[2] for n in model.targeted_module_names} == {"wide", "narrow", "head"}


@pytest.mark.parametrize(
    "changes", [{"use_dora": True}, {"init_lora_weights": "pissa"}, {"init_lora_weights": "olora"}]
)
def test_what_a_sparse_layer_cannot_do_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(
        ValueError, match=r"use_dora|init_lora_weights='(pissa|olora)' leaves the layer a weight without"
    ):
        get_peft_model(sk.sparsify(Network(), 0.8), config(**changes))


@pytest.mark.filterwarnings(MERGES)
@pytest.mark.parametrize("target", ["all-linear", ["c_attn"], None])
def test_gpt2(target: Any) -> None:
    """Its layers are `Conv1D`, whose weight is [in, out]."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"vocab_size": 50, "n_positions": 16, "n_embd": 32, "n_layer": 2, "n_head": 2}
    model: Any = sk.sparsify(transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes)), 0.8).eval()
    pair = []
    for one in (copy.deepcopy(model), sk.densify(copy.deepcopy(model))):
        torch.manual_seed(2)
        changes = {} if target is None else {"target_modules": target}
        pair.append(get_peft_model(one, LoraConfig(r=4, init_lora_weights=False, **changes)).eval())
    ids = torch.arange(16)[None]
    torch.testing.assert_close(pair[0](ids).logits, pair[1](ids).logits)
    merged = [each.merge_and_unload() for each in pair]
    changed = 0
    for name, layer in layers(merged[0]).items():
        weight, mask = merged[1].get_submodule(name).weight, layer.weight_of(layer.topology.mask())
        torch.testing.assert_close(layer.weight, weight * mask)
        changed += not torch.equal(layer.weight, model.get_submodule(name).weight)
    assert changed == (8 if target == "all-linear" else 2)
