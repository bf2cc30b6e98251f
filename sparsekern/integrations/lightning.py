"""The callback of Lightning's `Trainer`."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback
from lightning.pytorch.callbacks import StochasticWeightAveraging, WeightAveraging
from torch import Tensor

from .optimizers import EpochLoss, sparsifier_in, sparsity_of


class SparseCallback(Callback):
    """Tells the method the mean loss of every epoch, which `snr` decides by, and logs the sparsity.

    The averages of Lightning's `WeightAveraging`, `EMAWeightAveraging` and `StochasticWeightAveraging` follow the
    changes of pattern; without this callback the first change refuses them.

    Examples:
        >>> from lightning.pytorch import LightningModule, Trainer
        >>> class Network(LightningModule):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.method = sk.methods.snr(total_steps=10_000, steps_per_epoch=100)
        ...         self.net = sk.sparsify(nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 10)), self.method)
        ...
        ...     def training_step(self, batch, index):
        ...         x, y = batch
        ...         return nn.functional.cross_entropy(self.net(x), y)
        ...
        ...     def configure_optimizers(self):
        ...         return sk.Sparsifier(self.net, torch.optim.SGD(self.net.parameters(), lr=0.1), self.method)
        >>> Trainer(callbacks=[SparseCallback()], max_epochs=2).fit(Network(), loader)

    The loss is what `training_step` returns. Checkpoints hold what an epoch has summed up so far.
    """

    def __init__(self) -> None:
        self.loss = EpochLoss()

    def state_dict(self) -> dict[str, Any]:
        return self.loss.state()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.loss.load(state_dict)

    def on_fit_start(self, trainer: Any, module: Any) -> None:
        averages = [
            callback._average_model
            for callback in trainer.callbacks
            if isinstance(callback, WeightAveraging | StochasticWeightAveraging) and callback._average_model is not None
        ]
        for sparsifier in filter(None, map(sparsifier_in, trainer.optimizers)):
            for average in averages:
                if trainer.ckpt_path is None:  # since it was copied, the method may have begun with another pattern
                    part = getattr(average, "module", average)
                    part.load_state_dict(module.state_dict())
                sparsifier.follow(average)

    def on_train_epoch_start(self, trainer: Any, module: Any) -> None:
        self.loss.clear()

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        """Stops what moves weights while `StochasticWeightAveraging`, which has put its average into the model, passes
        over the data for batch norm: Lightning still steps the optimizer at the end, without a backward pass."""
        if getattr(trainer.fit_loop, "_skip_backward", False):
            for sparsifier in filter(None, map(sparsifier_in, trainer.optimizers)):
                if not sparsifier.frozen:
                    sparsifier.freeze()
                sparsifier.zero_grad()

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if isinstance(loss, Tensor):
            self.loss.add(loss)

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        sparsifiers = [*filter(None, map(sparsifier_in, trainer.optimizers))]
        if not sparsifiers:
            return
        if not self.loss.count:
            raise RuntimeError("training_step returned no loss in this epoch; SparseCallback takes it from there")
        mean = self.loss.take()
        for sparsifier in sparsifiers:
            sparsifier.epoch_end(mean)
            module.log("sparsity", sparsity_of(sparsifier))
