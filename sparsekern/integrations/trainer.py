"""The callback of transformers' `Trainer`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.trainer_callback import TrainerCallback

from .optimizers import sparsifier_in, sparsity_of


class SparseCallback(TrainerCallback):
    """Tells the method the mean loss of every epoch, which `snr` decides by, and adds the sparsity to the logs.

    Example:
        >>> optimizer = sk.Sparsifier(model, torch.optim.AdamW(model.parameters()), method)
        >>> trainer = Trainer(model, args, optimizers=(optimizer, None), callbacks=[SparseCallback()], ...)

    The loss is that of the model's output, before it is scaled for accumulated gradients. Of an epoch in which a run
    was resumed it counts the steps since then only.
    """

    def __init__(self) -> None:
        self.losses: list[Tensor] = []
        self.hook: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        self.losses.clear()
        self.hook = model.register_forward_hook(self._watch)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.hook.remove()

    def on_epoch_end(self, args: Any, state: Any, control: Any, optimizer: Any = None, **_: Any) -> None:
        sparsifier = sparsifier_in(optimizer)
        if sparsifier is None:
            return
        if not self.losses:
            raise RuntimeError("the model returned no loss in this epoch; SparseCallback takes that of its output")
        sparsifier.epoch_end(float(torch.stack(self.losses).mean()))
        self.losses.clear()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, optimizer: Any = None, **_: Any) -> None:
        sparsifier = sparsifier_in(optimizer)
        if sparsifier is not None:
            for entry in (logs, state.log_history[-1] if state.log_history else None):
                if entry is not None:
                    entry["sparsity"] = sparsity_of(sparsifier)

    def _watch(self, module: nn.Module, inputs: Any, output: Any) -> None:
        loss = getattr(output, "loss", None)
        if module.training and loss is not None and torch.is_grad_enabled():
            self.losses.append(loss.detach().float().mean())
