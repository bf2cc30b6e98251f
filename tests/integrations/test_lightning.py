"""Lightning: every method resumes bit for bit, and averages of the model follow. `make test-integrations` has it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from support.trajectories import EPOCH, NAMES, OPTIMIZERS, STEPS, batches, make, network
from torch import nn

import sparsekern as sk

lightning = pytest.importorskip("lightning.pytorch")
from lightning.pytorch.callbacks import (  # noqa: E402
    EMAWeightAveraging,
    ModelCheckpoint,
    StochasticWeightAveraging,
)

from sparsekern.integrations.lightning import SparseCallback  # noqa: E402

loss_fn = nn.functional.cross_entropy


class Network(lightning.LightningModule):
    def __init__(self, name: str) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.data, self.method = batches("conv"), make(name)
        self.net = sk.sparsify(network("conv"), self.method, batches=self.data[:4], loss=loss_fn)

    def training_step(self, batch: Any, _: int) -> Any:
        x, y = self.data[self.trainer.global_step % STEPS]  # a loader of Lightning's begins anew where a run is resumed
        return loss_fn(self.net(x), y)

    def configure_optimizers(self) -> Any:
        inner = OPTIMIZERS["momentum"](self.net.parameters())
        generator = torch.Generator().manual_seed(2)
        return sk.Sparsifier(self.net, inner, self.method, batches=self.data[:4], loss=loss_fn, generator=generator)


def fit(name: str, folder: Path, *callbacks: Any, resume: Path | None = None) -> tuple[Network, Any]:
    others = [] if any(isinstance(callback, SparseCallback) for callback in callbacks) else [SparseCallback()]
    model = Network(name)
    trainer = lightning.Trainer(
        max_epochs=STEPS // EPOCH,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=[*callbacks, *others],
        enable_checkpointing=any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
    )
    trainer.fit(model, torch.utils.data.DataLoader(range(EPOCH)), ckpt_path=resume, weights_only=False)
    return model, trainer


def saving(folder: Path) -> list[Any]:
    within = ModelCheckpoint(folder, "within-{step}", every_n_train_steps=EPOCH + 2, save_top_k=-1)
    between = ModelCheckpoint(folder, "between-{step}", every_n_epochs=2, save_on_train_epoch_end=True, save_top_k=-1)
    return [within, between]


def same(a: nn.Module, b: nn.Module) -> None:
    for (key, x), (_, y) in zip(a.state_dict().items(), b.state_dict().items(), strict=True):
        assert torch.equal(x, y), key


@pytest.mark.parametrize("name", NAMES)
def test_resumes_bit_for_bit(name: str, tmp_path: Path) -> None:
    whole, trainer = fit(name, tmp_path, *saving(tmp_path))
    losses = trainer.optimizers[0].losses
    assert len(losses) == STEPS // EPOCH
    for file in (f"within-step={EPOCH + 2}.ckpt", f"between-step={2 * EPOCH}.ckpt"):
        resumed, again = fit(name, tmp_path, resume=tmp_path / file)
        assert again.optimizers[0].losses == losses
        same(whole, resumed)


def test_the_sparsity_is_logged(tmp_path: Path) -> None:
    _, trainer = fit("rigl", tmp_path)
    assert float(trainer.logged_metrics["sparsity"]) == pytest.approx(0.7, abs=1e-2)


class Watched(EMAWeightAveraging):
    """Also averages densely, outside of the model: the average of a weight since it last grew."""

    decay = 0.5

    def __init__(self) -> None:
        super().__init__(decay=self.decay)
        self.dense: dict[str, torch.Tensor] = {}

    def on_train_batch_end(self, trainer: Any, module: Any, *arguments: Any) -> None:
        layers = {name: m for name, m in module.named_modules() if isinstance(m, sk.SparseLinear | sk.SparseConv2d)}
        if not self.dense:
            self.dense = {name: layer.dense_weight().detach().clone() for name, layer in layers.items()}
            super().on_train_batch_end(trainer, module, *arguments)
            return
        super().on_train_batch_end(trainer, module, *arguments)
        for name, layer in layers.items():
            weight, mask = layer.dense_weight().detach(), layer.topology.mask()
            self.dense[name] = (self.decay * self.dense[name] + (1 - self.decay) * weight) * mask


@pytest.mark.parametrize("name", ["rigl", "gse_grabo"])
def test_an_average_follows_the_pattern(name: str, tmp_path: Path) -> None:
    average = Watched()
    model, trainer = fit(name, tmp_path, average)
    assert any(row["iou_first"] < 1 for row in trainer.optimizers[0].report().rows)
    for key, expected in average.dense.items():  # which Lightning has put into the model at the end
        torch.testing.assert_close(model.get_submodule(key).dense_weight().detach(), expected)


@pytest.mark.parametrize("name", NAMES)
def test_an_average_resumes(name: str, tmp_path: Path) -> None:
    """With the average of every method, and refused by none."""
    whole, _ = fit(name, tmp_path, EMAWeightAveraging(decay=0.5), *saving(tmp_path))
    resumed, _ = fit(name, tmp_path, EMAWeightAveraging(decay=0.5), resume=tmp_path / f"within-step={EPOCH + 2}.ckpt")
    same(whole, resumed)


@pytest.mark.parametrize("name", ["rigl", "gse_grabo", "dpf", "gmp", "snr"])
def test_stochastic_weight_averaging(name: str, tmp_path: Path) -> None:
    average = StochasticWeightAveraging(swa_lrs=0.05, swa_epoch_start=1)
    model, trainer = fit(name, tmp_path, average)
    kept = dict(model.net.named_parameters())
    assert trainer.optimizers[0].frozen
    for key, layer in trainer.optimizers[0].followers[0].items():
        assert torch.equal(layer.stored, kept[f"{key}.{layer.WEIGHT}"])  # no step has moved it since


def test_without_the_callback_an_average_is_refused(tmp_path: Path) -> None:
    class Silent(SparseCallback):
        def on_fit_start(self, trainer: Any, module: Any) -> None:
            pass

    with pytest.raises(RuntimeError, match=r"pass an average of the model \(EMA, SWA\) to Sparsifier"):
        fit("rigl", tmp_path, EMAWeightAveraging(decay=0.5), Silent())
