"""transformers' `Trainer`: every method resumes bit for bit, within an epoch and between two.

`make test-integrations` has it.
"""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from support.trajectories import EPOCH, NAMES, OPTIMIZERS, STEPS, batches, make, network
from torch import Tensor, nn

import sparsekern as sk

transformers = pytest.importorskip("transformers")
from transformers import Trainer, TrainingArguments  # noqa: E402

from sparsekern.integrations.trainer import SparseCallback  # noqa: E402


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = network("conv")

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Any:
        logits = self.net(x)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits} if labels is not None else logits


class Rows(torch.utils.data.Dataset):
    def __init__(self) -> None:
        self.rows = [(x, y) for part in batches("conv", EPOCH) for x, y in zip(*part, strict=True)]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        return dict(zip(("x", "labels"), self.rows[i], strict=True))


class Heard(SparseCallback):
    """Also keeps what the method was told."""

    def __init__(self, told: list[float] | None = None) -> None:
        super().__init__()
        self.told = [] if told is None else told

    def on_epoch_begin(self, *arguments: Any, optimizer: Any = None, **options: Any) -> None:
        super().on_epoch_begin(*arguments, optimizer=optimizer, **options)
        self.told[:] = optimizer.optimizer.losses

    def on_train_end(self, *arguments: Any, optimizer: Any = None, **options: Any) -> None:
        super().on_train_end(*arguments, optimizer=optimizer, **options)
        self.told[:] = optimizer.optimizer.losses


def trained(name: str, out: Path, resume: int = 0, **changes: Any) -> tuple[Any, list[float]]:
    """A model that was trained by `Trainer`, and the losses of the epochs that its method was told."""
    torch.manual_seed(3)
    data, loss = batches("conv", 4), nn.functional.cross_entropy
    method, model = make(name), Classifier()
    sk.sparsify(model.net, method, batches=data, loss=loss)
    inner = OPTIMIZERS["momentum"](model.parameters())
    optimizer: Any = sk.Sparsifier(model, inner, method, batches=data, loss=loss)
    arguments = TrainingArguments(
        str(out),
        max_steps=STEPS,
        per_device_train_batch_size=8,
        save_steps=1 if resume == 0 else STEPS,
        save_total_limit=None,
        remove_unused_columns=False,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        **changes,
    )
    heard = Heard()
    trainer = Trainer(model, arguments, train_dataset=Rows(), optimizers=(optimizer, None), callbacks=[heard])
    trainer.train(resume_from_checkpoint=str(out / f"checkpoint-{resume}") if resume else None)
    return model, heard.told


@pytest.mark.parametrize("name", NAMES)
def test_resumes_bit_for_bit(name: str, tmp_path: Path) -> None:
    whole, told = trained(name, tmp_path)
    assert len(told) == STEPS // EPOCH
    for step in (EPOCH + 2, 2 * EPOCH):
        resumed, again = trained(name, tmp_path, step)
        assert again == told
        for (key, a), (_, b) in zip(whole.state_dict().items(), resumed.state_dict().items(), strict=True):
            assert torch.equal(a, b), (key, step)


def test_the_loss_of_an_epoch_with_accumulated_gradients(tmp_path: Path) -> None:
    _, alone = trained("random", tmp_path / "alone")
    _, halves = trained("random", tmp_path / "halves", gradient_accumulation_steps=2)
    assert halves[0] == pytest.approx(alone[0], rel=0.2)  # the mean, not the sum of two


class Judged(Trainer):
    """Takes the evaluation at step `best` for the best one, and keeps the weights of that moment."""

    best = 4
    kept: dict[str, Tensor]

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        if self.state.global_step == self.best:
            self.kept = sk.densify(copy.deepcopy(self.model)).state_dict()
        found = {"eval_loss": float(abs(self.state.global_step - self.best))}
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, found)
        return found


@pytest.mark.parametrize("name", ["gmp", "dpf", "magnitude_after", "lottery", "snr_frozen"])
def test_the_best_checkpoint_comes_back_whole(name: str, tmp_path: Path) -> None:
    """Also one from before the layers held their nonzeros only."""
    torch.manual_seed(3)
    data, loss = batches("conv", 4), nn.functional.cross_entropy
    method, model = make(name), Classifier()
    sk.sparsify(model.net, method, batches=data, loss=loss)
    optimizer: Any = sk.Sparsifier(model, OPTIMIZERS["momentum"](model.parameters()), method)
    arguments = TrainingArguments(
        str(tmp_path),
        max_steps=STEPS,
        per_device_train_batch_size=8,
        save_steps=4,
        eval_steps=4,
        eval_strategy="steps",
        load_best_model_at_end=True,
        remove_unused_columns=False,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
    )
    callbacks, rows = [SparseCallback()], Rows()
    trainer = Judged(
        model, arguments, train_dataset=rows, eval_dataset=rows, optimizers=(optimizer, None), callbacks=callbacks
    )
    trainer.train()
    for key, tensor in sk.densify(model).state_dict().items():
        assert torch.equal(tensor, trainer.kept[key]), key


def test_a_checkpoint_without_the_state_of_the_optimizer_is_noticed(tmp_path: Path) -> None:
    trained("gmp", tmp_path, save_only_model=True)
    with pytest.warns(UserWarning, match=r"resumed at step 7, .* \(save_only_model\): gmp begins at step 0"):
        trained("gmp", tmp_path, 7)
