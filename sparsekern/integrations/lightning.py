"""The callback of Lightning's `Trainer`."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback
from torch import Tensor

from .optimizers import sparsifier_in, sparsity_of


class SparseCallback(Callback):
    """Tells the method the mean loss of every epoch, which `snr` decides by, and logs the sparsity.

    Example:
        >>> class Network(LightningModule):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.method = sk.methods.snr(total_steps=10_000, steps_per_epoch=100)
        ...         self.net = sk.sparsify(network(), self.method)
        ...
        ...     def configure_optimizers(self):
        ...         return sk.Sparsifier(self.net, torch.optim.SGD(self.net.parameters(), lr=0.1), self.method)
        >>> Trainer(callbacks=[SparseCallback()], max_epochs=100).fit(Network(), loader)

    The loss is what `training_step` returns. Of an epoch in which a run was resumed it counts the steps since
    then only.
    """

    def __init__(self) -> None:
        self.losses: list[Tensor] = []

    def on_train_epoch_start(self, trainer: Any, module: Any) -> None:
        self.losses.clear()

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if isinstance(loss, Tensor):
            self.losses.append(loss.detach().float().mean())

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        for optimizer in trainer.optimizers:
            sparsifier = sparsifier_in(optimizer)
            if sparsifier is None:
                continue
            if not self.losses:
                raise RuntimeError("training_step returned no loss in this epoch; SparseCallback takes it from there")
            sparsifier.epoch_end(float(torch.stack(self.losses).mean()))
            module.log("sparsity", sparsity_of(sparsifier))
