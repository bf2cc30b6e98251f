"""GPT-2, whose linear layers are transformers' `Conv1D`: the weight lies the other way round."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sparsekern as sk
from sparsekern.nn import MaskedLayer, SparseLayer, prunable_layers

transformers = pytest.importorskip("transformers")
from transformers import GPT2Config, GPT2LMHeadModel  # noqa: E402
from transformers.pytorch_utils import Conv1D  # noqa: E402

from sparsekern.integrations.conv1d import MaskedConv1D, SparseConv1D  # noqa: E402

METHODS: dict[str, Any] = {
    "set": lambda: sk.methods.set(sparsity=0.7, total_steps=12, every=3),
    "rigl": lambda: sk.methods.rigl(sparsity=0.7, total_steps=12, every=3),
    "gse_grabo": lambda: sk.methods.gse_grabo(sparsity=0.7, total_steps=12, every=3, stop=1.0),
    "gmp": lambda: sk.methods.gmp(sparsity=0.7, total_steps=12, every=3),
    "snfs": lambda: sk.methods.snfs(sparsity=0.7, total_steps=12, every=3),
    "dpf_filter": lambda: sk.methods.dpf_filter(sparsity=0.5, total_steps=12, steps_per_epoch=4, every=3),
    "snr_frozen": lambda: sk.methods.snr_frozen(sparsity=0.7, total_steps=12, steps_per_epoch=4, every=2),
    "snip": lambda: sk.methods.snip(sparsity=0.7, total_steps=12),
    "synflow": lambda: sk.methods.synflow(sparsity=0.7, total_steps=12, rounds=3),
}


def gpt2() -> Any:
    torch.manual_seed(0)
    sizes = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 12, "vocab_size": 40}
    return GPT2LMHeadModel(GPT2Config(**sizes, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0))


def tokens(n: int = 4) -> Tensor:
    return torch.randint(40, (n, 8), generator=torch.Generator().manual_seed(1))


def loss_of(model: Any, ids: Tensor) -> Tensor:
    return model(input_ids=ids, labels=ids).loss


@pytest.mark.parametrize("kind", [SparseConv1D, MaskedConv1D])
def test_a_layer_is_that_of_its_dense_twin(kind: Any) -> None:
    dense = Conv1D(6, 9)
    nn.init.normal_(dense.bias)
    mask, x = torch.rand(dense.weight.shape) < 0.4, torch.randn(2, 5, 9, requires_grad=True)
    layer, twin = kind.from_dense(dense, mask), copy.deepcopy(dense)
    twin.weight.data.mul_(mask)
    same = x.detach().clone().requires_grad_()
    delta = torch.randn(2, 5, 6)
    layer(x).backward(delta)
    twin(same).backward(delta)
    torch.testing.assert_close(layer(x), twin(x))
    torch.testing.assert_close(x.grad, same.grad)
    whole = twin.weight.grad if kind is MaskedConv1D else twin.weight.grad * mask
    torch.testing.assert_close(layer.weight.grad, whole)
    assert layer.weight.shape == (9, 6)
    assert layer.topology.shape == (6, 9)
    assert (layer.nf, layer.nx) == (6, 9)
    back = layer.to_dense()
    assert type(back) is Conv1D
    torch.testing.assert_close(back.weight, twin.weight, rtol=0, atol=0)
    with torch.no_grad():
        layer.weight[:, 0] = 3.0
    assert torch.equal(layer.weight[:, 0] == 3, mask[:, 0])
    with pytest.raises(ValueError, match=r"mask must have shape \(9, 6\), got \(6, 9\)"):
        kind.from_dense(dense, mask.t())


@pytest.mark.parametrize("name", METHODS)
def test_training_equals_that_of_the_masked_twin(name: str) -> None:
    runs = []
    batches = [({"input_ids": ids, "labels": ids}, None) for ids in tokens(8).split(4)]
    for backend in ("auto", "masked"):
        method = METHODS[name]()
        torch.manual_seed(5)
        model = sk.sparsify(gpt2().double(), method, batches=batches, loss=lambda out, _: out.loss, backend=backend)
        layers = prunable_layers(model)
        assert "transformer.h.0.attn.c_attn" in layers
        assert "lm_head" not in layers
        optimizer = sk.Sparsifier(model, torch.optim.AdamW(model.parameters(), lr=0.01), method)
        losses = []
        for step in range(12):
            optimizer.zero_grad()
            loss = loss_of(model, tokens())
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
            if step % 4 == 3:
                optimizer.epoch_end(float(loss))
        runs.append((torch.stack(losses), [site.active.mask() for site in optimizer.sites]))
    torch.testing.assert_close(runs[0][0], runs[1][0])
    assert all(torch.equal(a, b) for a, b in zip(runs[0][1], runs[1][1], strict=True))
    assert runs[0][0][-1] < runs[0][0][0]
    expected = model.eval()(tokens()).logits
    dense = sk.densify(model)
    assert type(dense.transformer.h[0].attn.c_attn) is Conv1D
    torch.testing.assert_close(dense(tokens()).logits, expected)


@pytest.mark.parametrize(
    ("method", "kind"),
    [(0.8, SparseLayer), (sk.methods.dpf(sparsity=0.5, total_steps=9, steps_per_epoch=3, every=1), MaskedLayer)],
    ids=["nonzeros", "master"],
)
def test_saved_and_loaded(method: Any, kind: type, tmp_path: Path) -> None:
    model = sk.sparsify(gpt2(), method).eval()
    assert isinstance(model.transformer.h[1].mlp.c_fc, kind)
    model.save_pretrained(tmp_path)
    again = GPT2LMHeadModel.from_pretrained(tmp_path)
    assert type(again.transformer.h[1].mlp.c_fc) is type(model.transformer.h[1].mlp.c_fc)
    torch.testing.assert_close(again(tokens()).logits, model(tokens()).logits)
    other = sk.sparsify(gpt2(), method)
    other.load_state_dict(model.state_dict())
    torch.testing.assert_close(other.eval()(tokens()).logits, model(tokens()).logits)


def test_zeros_of_a_pruned_model_and_masks_in_the_layout_of_the_weight() -> None:
    model = gpt2()
    name = "transformer.h.0.mlp.c_fc"
    weight = model.get_submodule(name).weight
    mask = torch.rand_like(weight) < 0.3
    weight.data.mul_(mask)
    for sparse in (sk.sparsify(copy.deepcopy(model), masks="nonzero"), sk.sparsify(model, masks={name: mask})):
        layer: Any = sparse.get_submodule(name)
        assert type(layer) is SparseConv1D
        assert torch.equal(layer.weight != 0, mask)
