"""The callback of transformers' `Trainer`."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import nn
from transformers.trainer_callback import ExportableState, TrainerCallback

from .optimizers import EpochLoss, sparsifier_in, sparsity_of


class SparseCallback(TrainerCallback, ExportableState):
    """Tells the method the mean loss of every epoch, which `snr` decides by, and adds the sparsity to the logs.

    Examples:
        >>> from transformers import Trainer
        >>> model = sk.sparsify(model, method)
        >>> optimizer = sk.Sparsifier(model, torch.optim.AdamW(model.parameters()), method)
        >>> trainer = Trainer(model, optimizers=(optimizer, None), callbacks=[SparseCallback()])

    The loss is that of the model's output, before it is scaled for accumulated gradients. Checkpoints hold what an
    epoch has summed up so far.
    """

    def __init__(self) -> None:
        self.loss = EpochLoss()
        self.hook: Any = None

    def state(self) -> dict[str, Any]:
        """Returns what transformers writes into `trainer_state.json`."""
        return {"args": {}, "attributes": {"saved": self.loss.state()}}

    def on_train_begin(
        self, args: Any, state: Any, control: Any, model: Any = None, optimizer: Any = None, **_: Any
    ) -> None:
        self.loss.clear()
        sparsifier = sparsifier_in(optimizer)
        if (
            sparsifier is not None
            and state.global_step > 0
            and not sparsifier.steps
            and sparsifier.method.when.stop > 0
        ):
            warnings.warn(
                f"training is resumed at step {state.global_step}, but the checkpoint has no state of the optimizer "
                f"(save_only_model): {sparsifier.method.name} begins at step 0, and its schedule ends as much later",
                stacklevel=2,
            )
        # transformers gives states back to callbacks only if it is asked to, and wants those that it will save.
        saved = state.stateful_callbacks.setdefault(type(self).__name__, self.state())
        if state.global_step > 0 and isinstance(saved, dict):
            self.loss.load(saved["attributes"]["saved"])
        if self.hook is not None:  # of a run that was interrupted, as auto_find_batch_size does
            self.hook.remove()
        self.hook = model.register_forward_hook(self._watch)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.hook.remove()

    def on_epoch_begin(self, args: Any, state: Any, control: Any, optimizer: Any = None, **_: Any) -> None:
        if self.loss.count and float(state.epoch or 0).is_integer():
            self._tell(optimizer)  # of the epoch with whose last step the checkpoint was saved, before its end

    def on_epoch_end(self, args: Any, state: Any, control: Any, optimizer: Any = None, **_: Any) -> None:
        if sparsifier_in(optimizer) is not None and not self.loss.count:
            raise RuntimeError("the model returned no loss in this epoch; SparseCallback takes that of its output")
        self._tell(optimizer)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, optimizer: Any = None, **_: Any) -> None:
        sparsifier = sparsifier_in(optimizer)
        if sparsifier is not None:
            for entry in (logs, state.log_history[-1] if state.log_history else None):
                if entry is not None:
                    entry["sparsity"] = sparsity_of(sparsifier)

    def _tell(self, optimizer: Any) -> None:
        sparsifier = sparsifier_in(optimizer)
        if sparsifier is not None:
            sparsifier.epoch_end(self.loss.take())

    def _watch(self, module: nn.Module, inputs: Any, output: Any) -> None:
        loss = output.get("loss") if isinstance(output, dict) else getattr(output, "loss", None)
        if module.training and loss is not None and torch.is_grad_enabled():
            self.loss.add(loss)
