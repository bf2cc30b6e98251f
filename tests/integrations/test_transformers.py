"""transformers: checkpoints, and training by `Trainer`. `make test-integrations` has it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch as safetensors
import torch
from torch import Tensor, nn

import sparsekern as sk

transformers = pytest.importorskip("transformers")
from transformers import (  # noqa: E402  # noqa: E402
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    Trainer,
    TrainingArguments,
)

from sparsekern.integrations.trainer import SparseCallback  # noqa: E402

STEPS, EPOCH = 12, 6


def bert(**changes: Any) -> Any:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = {"vocab_size": 50, "max_position_embeddings": 16, "num_labels": 3, **sizes, **changes}
    return BertForSequenceClassification(BertConfig(**config)).eval()


def tokens() -> Tensor:
    return torch.randint(50, (2, 8), generator=torch.Generator().manual_seed(1))


class Sentences(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 8 * EPOCH

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        ids = torch.randint(50, (8,), generator=torch.Generator().manual_seed(i))
        return {"input_ids": ids, "labels": torch.tensor(i % 3)}


def query(model: Any) -> Any:
    return model.bert.encoder.layer[0].attention.self.query


# ---- checkpoints


def vit() -> Any:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.ViTConfig(**sizes, image_size=16, patch_size=8)
    return transformers.ViTForImageClassification(config).eval()


def test_layers_that_files_name_otherwise_are_found(tmp_path: Path) -> None:
    model = sk.sparsify(vit(), 0.8)
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    assert loaded.state_dict().keys() == model.state_dict().keys()
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(loaded.eval()(x).logits, model(x).logits)
    base = transformers.ViTModel.from_pretrained(tmp_path, add_pooling_layer=False).eval()
    assert torch.equal(base(x).last_hidden_state, model.vit(x).last_hidden_state)


@pytest.mark.parametrize("entry", ["values", "row_ptr", "col"])
def test_a_damaged_file_gives_no_random_weights(entry: str, tmp_path: Path) -> None:
    sk.sparsify(bert(), 0.8).save_pretrained(tmp_path)
    path, layer = tmp_path / "model.safetensors", "bert.encoder.layer.1.output.dense"
    entries = safetensors.load_file(path)
    del entries[f"{layer}.{entry}"]
    safetensors.save_file(entries, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=f"lacks {entry} of the sparse layer {layer}"):
        BertForSequenceClassification.from_pretrained(tmp_path)


def test_a_checkpoint_of_other_layers_gives_no_random_weights(tmp_path: Path) -> None:
    sk.sparsify(bert(), 0.8).save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    entries = {key.replace("layer.1.", "stratum.1."): entry for key, entry in safetensors.load_file(path).items()}
    safetensors.save_file(entries, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"a sparse layer bert\.encoder\.stratum\.1.* and nothing for bert\.enc"):
        BertForSequenceClassification.from_pretrained(tmp_path)


@pytest.mark.parametrize("shards", ["10GB", "20KB"])
def test_from_pretrained_gives_the_sparse_model_back(shards: str, tmp_path: Path) -> None:
    model = sk.sparsify(bert(), 0.8)
    model.save_pretrained(tmp_path, max_shard_size=shards)
    assert len(list(tmp_path.glob("*.safetensors"))) > (shards == "20KB")
    for kind in (BertForSequenceClassification, AutoModelForSequenceClassification):
        again = kind.from_pretrained(tmp_path)
        assert isinstance(query(again), sk.SparseLinear)
        assert query(again).topology.same_pattern(query(model).topology)
        assert torch.equal(again(tokens()).logits, model(tokens()).logits)
    again.save_pretrained(tmp_path / "again")
    twice = BertForSequenceClassification.from_pretrained(tmp_path / "again")
    assert torch.equal(twice(tokens()).logits, model(tokens()).logits)


def test_another_dtype(tmp_path: Path) -> None:
    model = sk.sparsify(bert(), 0.8)
    model.save_pretrained(tmp_path)
    again = BertForSequenceClassification.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert query(again).values.dtype == torch.bfloat16
    torch.testing.assert_close(query(again).values, query(model).values.bfloat16())


def test_without_the_head_and_with_another(tmp_path: Path) -> None:
    model = sk.sparsify(bert(), 0.8)
    model.save_pretrained(tmp_path / "whole")
    base = BertModel.from_pretrained(tmp_path / "whole").eval()
    assert torch.equal(base(tokens()).pooler_output, model.bert(tokens()).pooler_output)
    base.save_pretrained(tmp_path / "base")
    other = BertForSequenceClassification.from_pretrained(tmp_path / "base", num_labels=3)
    assert type(other.classifier) is nn.Linear
    assert torch.equal(other.bert(tokens()).pooler_output, model.bert(tokens()).pooler_output)


@pytest.mark.parametrize("name", ["snr", "snr_frozen", "dnw", "optg"])
def test_masked_layers(name: str, tmp_path: Path) -> None:
    method = getattr(sk.methods, name)(sparsity=0.8, total_steps=STEPS, steps_per_epoch=EPOCH)
    model = sk.sparsify(bert(), method, include="*")
    model.save_pretrained(tmp_path)
    again = BertForSequenceClassification.from_pretrained(tmp_path)
    assert type(query(again)) is type(query(model))
    assert torch.equal(again(tokens()).logits, model(tokens()).logits)


def test_overrides_and_masks_are_remembered(tmp_path: Path) -> None:
    """So that the method goes on with the sparsities that it had, bit for bit."""
    method = sk.methods.gmp(0.8, STEPS, EPOCH, every=2)
    overrides = {"*.query": 0.5, "classifier": None}

    def trained_on(model: Any, optimizer: Any, steps: range) -> Any:
        for t in steps:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(tokens()).logits, torch.tensor([0, t % 3])).backward()
            optimizer.step()
        return model.state_dict(), optimizer.state_dict()

    def driven(model: Any) -> Any:
        return sk.Sparsifier(model, torch.optim.AdamW(model.parameters(), lr=1e-3), method)

    model = sk.sparsify(bert(), method, overrides=overrides)
    optimizer = driven(model)
    _, state = trained_on(model, optimizer, range(5))
    model.save_pretrained(tmp_path)
    torch.save(state, tmp_path / "optimizer.pt")
    whole, _ = trained_on(model, optimizer, range(5, STEPS))
    again = BertForSequenceClassification.from_pretrained(tmp_path)
    continuation = driven(again)
    continuation.load_state_dict(torch.load(tmp_path / "optimizer.pt"))
    resumed, _ = trained_on(again, continuation, range(5, STEPS))
    for key, tensor in whole.items():
        assert torch.equal(tensor, resumed[key]), key
    queries = [row for row in continuation.report().rows if row["name"].endswith("query")]
    assert [row["nnz"] for row in queries] == [512, 512]
    base = BertModel.from_pretrained(tmp_path)
    assert len(sk.Sparsifier(base, torch.optim.AdamW(base.parameters()), method).engine.own) == 2
    given = sk.sparsify(bert(), sk.methods.rigl(0.9, STEPS), masks={"classifier": torch.rand(3, 32) < 0.5})
    given.save_pretrained(tmp_path / "given")
    given = BertForSequenceClassification.from_pretrained(tmp_path / "given")
    method = sk.methods.rigl(0.9, STEPS)
    assert len(sk.Sparsifier(given, torch.optim.SGD(given.parameters(), lr=0.1), method).sites) == 1


def test_a_densified_model_is_an_ordinary_one(tmp_path: Path) -> None:
    model = sk.densify(sk.sparsify(bert(), 0.8))
    model.save_pretrained(tmp_path)
    assert "sparsekern" not in (tmp_path / "config.json").read_text()
    again = BertForSequenceClassification.from_pretrained(tmp_path)
    assert type(query(again)) is nn.Linear
    assert torch.equal(again(tokens()).logits, model(tokens()).logits)


def test_without_this_package_it_is_an_error(tmp_path: Path) -> None:
    """And not random weights under a warning."""
    sk.sparsify(bert(), 0.8).save_pretrained(tmp_path)
    code = f"from transformers import AutoModelForSequenceClassification as M; M.from_pretrained({str(tmp_path)!r})"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 1
    assert "ValueError: The model's quantization config from the arguments has no `quant_method`" in result.stderr
    assert "import sparsekern before from_pretrained" in (tmp_path / "config.json").read_text()


def test_a_note_of_an_earlier_release(tmp_path: Path) -> None:
    model = sk.sparsify(bert(), 0.8)
    model.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    note = json.loads(path.read_text()) | {"quantization_config": {"quant_method": "sparsekern"}}
    path.write_text(json.dumps(note))
    again = BertForSequenceClassification.from_pretrained(tmp_path)
    assert torch.equal(again(tokens()).logits, model(tokens()).logits)


def test_a_checkpoint_of_another_shape(tmp_path: Path) -> None:
    sk.sparsify(bert(), 0.8).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="row_ptr must have 97 elements, got 65"):
        BertForSequenceClassification.from_pretrained(tmp_path, intermediate_size=96)


# ---- Trainer


def trained(method: Any, out: Path, *, resume: Path | None = None, model: Any = None) -> Any:
    """A model that was trained by `Trainer` under a method, and the trainer."""
    model = bert() if model is None else model
    options: dict[str, Any] = {}
    if method is not None:
        if method.needs_batches:
            rows = [Sentences()[i] for i in range(40)]
            pairs = [({"input_ids": row["input_ids"][None]}, row["labels"][None]) for row in rows]
            options = {"batches": pairs, "loss": lambda output, y: nn.functional.cross_entropy(output.logits, y)}
        model = sk.sparsify(model, method, include="*", **options)
    torch.manual_seed(2)
    optimizer: Any = torch.optim.AdamW(model.parameters(), lr=1e-3)
    if method is not None:
        optimizer = sk.Sparsifier(model, optimizer, method, generator=torch.Generator().manual_seed(3))
    arguments = TrainingArguments(
        str(out),
        max_steps=STEPS,
        per_device_train_batch_size=8,
        save_steps=5,
        logging_steps=5,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
    )
    trainer = Trainer(
        model, arguments, train_dataset=Sentences(), optimizers=(optimizer, None), callbacks=[SparseCallback()]
    )
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    return model, trainer


@pytest.mark.parametrize("name", ["rigl", "snr"])  # every method: test_trainer.py
def test_resumes_bit_for_bit(name: str, tmp_path: Path) -> None:
    def method() -> Any:
        return getattr(sk.methods, name)(sparsity=0.8, total_steps=STEPS, steps_per_epoch=EPOCH)

    whole, _ = trained(method(), tmp_path)
    resumed, _ = trained(method(), tmp_path / "other", resume=tmp_path / "checkpoint-5")
    for (key, a), (_, b) in zip(whole.state_dict().items(), resumed.state_dict().items(), strict=True):
        assert torch.equal(a, b), key


def test_fine_tunes_a_pruned_model_with_its_zeros_kept(tmp_path: Path) -> None:
    """The plain optimizer will do, and the checkpoint that comes of it is loaded by others."""
    model = bert()
    for layer in model.modules():
        if isinstance(layer, nn.Linear) and layer.out_features > 3:
            nn.utils.prune.l1_unstructured(layer, "weight", amount=0.6)
    model = sk.sparsify(model, masks="nonzero")
    before = query(model).dense_weight().detach().clone()
    model, trainer = trained(None, tmp_path, model=model)
    after = query(model).dense_weight()
    assert torch.equal(before == 0, after == 0)
    assert not torch.equal(before, after)
    trainer.save_model(str(tmp_path / "saved"))
    again = BertForSequenceClassification.from_pretrained(tmp_path / "saved")
    assert torch.equal(query(again).values, query(model).values)
    torch.testing.assert_close(again(tokens()).logits, model.eval()(tokens()).logits)  # by kernels for other batches


def test_the_sparsity_is_logged(tmp_path: Path) -> None:
    _, trainer = trained(sk.methods.rigl(sparsity=0.8, total_steps=STEPS), tmp_path)
    logged = [entry["sparsity"] for entry in trainer.state.log_history if "loss" in entry]
    assert logged == pytest.approx([0.8, 0.8], abs=1e-3)


def test_a_model_without_a_loss(tmp_path: Path) -> None:
    class Own(Trainer):
        def compute_loss(self, model: Any, inputs: Any, **_: Any) -> Tensor:
            labels = inputs.pop("labels")
            return nn.functional.cross_entropy(model(**inputs).logits, labels)

    method = sk.methods.rigl(sparsity=0.8, total_steps=STEPS)
    model = sk.sparsify(bert(), method)
    optimizer: Any = sk.Sparsifier(model, torch.optim.AdamW(model.parameters()), method)
    arguments = TrainingArguments(str(tmp_path), max_steps=STEPS, report_to=[], disable_tqdm=True, use_cpu=True)
    own = Own(model, arguments, train_dataset=Sentences(), optimizers=(optimizer, None), callbacks=[SparseCallback()])
    with pytest.raises(RuntimeError, match="the model returned no loss"):
        own.train()
