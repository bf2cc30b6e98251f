"""Lightning: training by `Trainer`, and its checkpoints. `make test-integrations` has it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import sparsekern as sk

lightning = pytest.importorskip("lightning.pytorch")

from sparsekern.integrations.lightning import SparseCallback  # noqa: E402

EPOCHS, STEPS = 4, 6


class Network(lightning.LightningModule):
    def __init__(self, name: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4))
        self.method = getattr(sk.methods, name)(sparsity=0.8, total_steps=EPOCHS * STEPS, steps_per_epoch=STEPS)
        sk.sparsify(self.net, self.method, include="*", generator=torch.Generator().manual_seed(1))

    def training_step(self, batch: Any, _: int) -> Any:
        x, y = batch
        return nn.functional.cross_entropy(self.net(x), y)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.net.parameters(), lr=0.1, momentum=0.9)
        return sk.Sparsifier(self.net, optimizer, self.method, generator=torch.Generator().manual_seed(2))


def fit(name: str, epochs: int, folder: Path, checkpoint: Path | None = None) -> tuple[Network, Any]:
    x = torch.randn(8 * STEPS, 16, generator=torch.Generator().manual_seed(3))
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, x[:, :4].argmax(1)), batch_size=8)
    model = Network(name)
    trainer = lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        default_root_dir=folder,
        callbacks=[SparseCallback()],
    )
    trainer.fit(model, loader, ckpt_path=checkpoint)
    return model, trainer


@pytest.mark.parametrize(
    "name", ["rigl", "gse_grabo", "dpf", "magnitude_after", "lottery", "rewind", "snr", "snr_frozen", "granet", "gmp"]
)
def test_resumes_bit_for_bit(name: str, tmp_path: Path) -> None:
    whole, _ = fit(name, EPOCHS, tmp_path)
    _, trainer = fit(name, EPOCHS // 2, tmp_path)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    resumed, _ = fit(name, EPOCHS, tmp_path, tmp_path / "half.ckpt")
    for (key, a), (_, b) in zip(whole.state_dict().items(), resumed.state_dict().items(), strict=True):
        assert torch.equal(a, b), key


def test_the_sparsity_is_logged(tmp_path: Path) -> None:
    _, trainer = fit("rigl", 1, tmp_path)
    assert float(trainer.logged_metrics["sparsity"]) == pytest.approx(0.8, abs=1e-3)
