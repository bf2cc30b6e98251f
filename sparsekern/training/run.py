"""A training run: everything that decides its next step, saved and restored."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from .. import Method, Sparsifier, memory_report, methods, sparsify
from ..data import Data
from ..errors import RunError, UsageError, first_line
from ..models import build
from ..nn import prunable_layers
from ..nn.memory import COLUMNS
from ..private_torch import BatchNorm
from ..settings import brief
from ..sparsity import parallel
from . import batches, ranks, short_runs
from .learning_rate import learning_rate
from .overrides import built
from .run_folder import VERSION


class Run:
    """Model, data, optimizer and counters of one configuration.

    `state_dict` holds all that the next step depends on: a run restored from it continues bit for bit. The
    configuration's seed and number of threads become torch's own.

    Where `torch.distributed` has been initialised, all ranks make the same run, and each trains on its part of every
    batch. A step is that of one process on whole batches, but for the rounding of sums and for batch norm, which takes
    the statistics of a rank's part.

    Args:
        config: from `configure`.
        data: from `sparsekern.data.load`.

    Raises:
        UsageError: the method, the model and the data do not fit together.
    """

    def __init__(self, config: dict, data: Data) -> None:
        self.config = config
        self.device = ranks.device(config["device"])
        self.part = slice(parallel.rank(), None, parallel.ranks())  # of every batch
        self.data = data.to(self.device)
        self.steps_per_epoch = math.ceil(len(data.train) / config["batch_size"])
        self.epoch = self.step = 0
        self.seconds: list[float] = []
        self.cpu_seconds = 0.0  # of a step of the last epoch, over all threads
        self.most_bytes = 0  # that the weights and what goes with them took in the last epoch
        self.history: list[dict] = []
        torch.set_num_threads(config["threads"])
        torch.manual_seed(config["seed"])
        self.loss = _loss(config["label_smoothing"])
        self.model = build(config["model"], data.shape, data.classes, config["width"]).to(self.device)
        try:
            self._sparsify()
            self.weights()  # there have to be some
        except ValueError as error:
            raise UsageError(str(error)) from error
        amp = {"bf16": torch.bfloat16, "fp16": torch.float16, None: None}[config["amp"]]
        self.autocast = torch.autocast(self.device.type, amp) if amp else contextlib.nullcontext()
        self.scaler = torch.GradScaler(self.device.type, enabled=config["amp"] == "fp16")
        # On a GPU compiled code is replayed from CUDA graphs, which are recorded anew where a pattern has changed.
        mode = "reduce-overhead" if self.device.type == "cuda" else "default"
        self.forward: Callable[[Tensor], Tensor] = (
            torch.compile(self.model, mode=mode) if config["compile"] else self.model
        )
        if parallel.ranks() > 1:
            self.forward = DistributedDataParallel(cast(nn.Module, self.forward))

    def _sparsify(self) -> None:
        config = self.config
        generator = torch.Generator().manual_seed(config["seed"])
        method = self._method(config["method"], config["sparsity"], config["set"])
        overrides = built(config["overrides"], self._method, config["sparsity"])
        every = [*(value for value in overrides.values() if isinstance(value, Method)), method]
        options: dict = {"exclude": config["exclude"], "backend": config["backend"], "generator": generator}
        if config["distribution"]:
            options["distribution"] = config["distribution"]
        scoring = next((each for each in every if each.needs_batches), None)
        if scoring is not None:  # every rank scores on all batches: not all scores are sums over samples
            options |= {"batches": batches.scored(self.data, config, scoring), "loss": self.loss}
        self.model = sparsify(self.model, method, overrides=overrides, **options)
        self.optimizer: Any = self._optimizer()
        for each in every:
            count = each.grow.batches if each.grow is not None else 1
            if count > self.steps_per_epoch:
                raise ValueError(f"--set batches={count} is more than the {self.steps_per_epoch} batches of an epoch")
            self.optimizer = Sparsifier(
                self.model,
                self.optimizer,
                each,
                batches=lambda step: ((x, (y, weight)) for x, y, weight in self._parts(batches.SCORED - 1 - step)),
                loss=lambda output, target: self.loss(output, target[0]) * target[1],
                generator=generator,
            )

    def _method(self, name: str, sparsity: float | None, options: dict) -> Method:
        total = self.config["horizon"] * self.steps_per_epoch
        options = short_runs.options(name, total, self.steps_per_epoch, options)
        return methods.get(name)(sparsity, total, self.steps_per_epoch, **options)

    def _optimizer(self) -> torch.optim.Optimizer:
        config, parameters = self.config, self.model.parameters()
        common = {"lr": config["lr"], "weight_decay": config["weight_decay"]}
        if config["optimizer"] == "sgd":
            return torch.optim.SGD(parameters, momentum=config["momentum"], nesterov=config["nesterov"], **common)
        return (torch.optim.Adam if config["optimizer"] == "adam" else torch.optim.AdamW)(parameters, **common)

    def _parts(self, epoch: int) -> Iterator[tuple[Tensor, Tensor, float]]:
        """Yields this rank's part of each training batch, and the factor of its mean loss by which the mean over the
        ranks is that over the batch."""
        left, size = len(self.data.train), self.config["batch_size"]
        for x, y in batches.of_epoch(self.data, self.config, epoch, part=self.part):
            yield x, y, len(y) * parallel.ranks() / min(left, size)
            left -= size

    def check_batches(self) -> None:
        """Raises a `UsageError` if batch norm, or a method that compares the gradients of samples, would have to learn
        from a batch of one sample, or a rank from none."""
        rows, batch = len(self.data.train), self.config["batch_size"]
        smallest, count = rows % batch or min(rows, batch), parallel.ranks()
        if smallest < count:
            raise UsageError(
                f"--batch-size {batch} leaves {smallest} of {rows} training samples in a batch, fewer than the {count} "
                "ranks; choose another"
            )
        normed = any(isinstance(m, BatchNorm) for m in self.model.modules())
        compares = self.optimizer.method.rule.gradient(0) == "moment"
        if (normed and smallest // count == 1) or (compares and smallest == 1):
            raise UsageError(
                f"--batch-size {batch} leaves one of {rows} training samples alone in a batch, from which "
                f"{'batch norm' if normed else self.config['method']} cannot learn; choose another"
            )

    def train_epoch(self, tick: Callable[[], None] = lambda: None) -> float:
        """Passes once over the training rows; calls `tick` after each step. Returns the mean loss over the rows.

        Nothing here waits for the device: the loss is summed in a tensor and read once.

        Raises:
            RunError: the loss is not finite.
        """
        self.model.train()
        if parallel.ranks() > 1:  # each draws for samples of its own, dropout say, whatever number of them goes on
            torch.manual_seed(hash((self.config["seed"], self.epoch, parallel.rank())) % 2**63)
        total = torch.zeros((), device=self.device)
        self.most_bytes = 0
        start, start_cpu = time.perf_counter(), time.process_time()
        try:
            for x, y, weight in self._parts(self.epoch):
                self._train_step(x, y, weight, total)
                self.most_bytes = self.most_bytes or self.bytes  # patterns that shrink are largest here
                tick()
        except ValueError as error:  # perhaps of the NaN that a method finds in its scores
            state = [total, *(t for p in self.model.parameters() for t in (p.detach(), p.grad) if t is not None)]
            if all(t.isfinite().all() for t in state):
                raise
            reason = first_line(error)
            raise RunError(f"training diverged in epoch {self.epoch + 1}: {reason}; try a smaller --lr") from error
        mean = parallel.total(total).item() / len(self.data.train)
        self.seconds.append((time.perf_counter() - start) / self.steps_per_epoch)
        self.cpu_seconds = (time.process_time() - start_cpu) / self.steps_per_epoch
        self.most_bytes = max(self.most_bytes, self.bytes)
        if not math.isfinite(mean):
            raise RunError(f"training diverged in epoch {self.epoch + 1}: the loss is {mean}; try a smaller --lr")
        self.optimizer.epoch_end(mean)
        self.epoch += 1
        return mean

    def _train_step(self, x: Tensor, y: Tensor, weight: float, total: Tensor) -> None:
        """Takes one step on a batch, or on a part of it of this `weight`; adds its summed loss to `total`."""
        optimizer, scaler = self.optimizer, self.scaler
        rate = learning_rate(self.config, optimizer.method.rule.clock(self.step), self.steps_per_epoch)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        with self.autocast:
            loss = self.loss(self.forward(x), y)
        total.add_(loss.detach(), alpha=len(y))
        scaler.scale(loss if weight == 1 else loss * weight).backward()
        if self.config["clip"]:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config["clip"])
        scaler.step(optimizer)
        scaler.update()
        self.step += 1

    @torch.no_grad()
    def evaluate(self, tick: Callable[[], None] = lambda: None) -> tuple[float, float]:
        """Returns mean cross-entropy and accuracy on the test rows, of every token in them; calls `tick` after each
        batch."""
        self.model.eval()
        ranks.share_buffers(self.model)
        loss = torch.zeros((), device=self.device)
        right = torch.zeros((), dtype=torch.int64, device=self.device)
        rows = torch.arange(len(self.data.test))
        own = rows[self.part]
        # as much memory as training takes, which needs the activations of every layer at once, or little
        inputs = math.prod(self.data.shape) * (self.data.classes if self.data.tokens else 1)
        batch = max(self.config["batch_size"], min(2048, 2**18 // inputs))
        for x, y in self.data.test.batches(own, batch, torch.Generator()) if len(own) else ():
            with self.autocast:
                output = self.model(x).float()
            loss += nn.functional.cross_entropy(output.flatten(0, -2), y.flatten(), reduction="sum")
            right += output.argmax(-1).eq(y).sum()
            tick()
        count = len(rows) * (math.prod(self.data.shape) if self.data.tokens else 1)
        return parallel.total(loss).item() / count, parallel.total(right).item() / count

    def weights(self) -> tuple[int, int]:
        """Returns how many prunable weights are stored, and how many there are; excluded layers do not count."""
        rows = self.optimizer.report().rows
        if not rows:
            layers: dict[str, Any] = prunable_layers(self.model, self.config["exclude"])
            size = sum(layer.weight.numel() for layer in layers.values())
            return size, size
        return sum(row["nnz"] for row in rows), sum(math.prod(row["shape"]) for row in rows)

    @property
    def memory(self) -> Any:
        """Measured bytes of the model and its optimizer (`memory_report`)."""
        return memory_report(self.model, self.optimizer)

    @property
    def bytes(self) -> int:
        """Bytes of values, indices, slack, gradients, optimizer state and workspace now, all layers together."""
        total = self.memory.total
        return sum(total[column] for column in COLUMNS)

    def state_dict(self) -> dict:
        """Returns the content of a checkpoint: plain values and tensors, which `load_state_dict` takes."""
        return {
            "version": VERSION,
            "config": self.config,
            "data": self.data.facts,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
            "epoch": self.epoch,
            "step": self.step,
            "seconds": self.seconds,
            "history": self.history,
        }

    def load_state_dict(self, state: dict) -> None:
        """Restores a state of the same configuration.

        Raises:
            UsageError: a state of other data or of another model.
        """
        facts = self.data.facts
        for name, value in state["data"].items():  # older checkpoints have no names of classes
            if value != facts.get(name):
                raise UsageError(
                    f"the checkpoint was trained on other data: {name} {brief(value)}, now {brief(facts.get(name))}"
                )
        try:
            self.model.load_state_dict(state["model"])  # first, since it brings the pattern
            self.optimizer.load_state_dict(state["optimizer"])
            self.scaler.load_state_dict(state["scaler"])
            torch.set_rng_state(state["rng"])
            if self.device.type == "cuda" and state["cuda_rng"] is not None:
                torch.cuda.set_rng_state(state["cuda_rng"], self.device)
        except Exception as error:  # what does not fit raises whatever it leads to
            raise UsageError(f"the checkpoint is of another model: {first_line(error)}") from error
        self.epoch, self.step = state["epoch"], state["step"]
        self.seconds, self.history = list(state["seconds"]), list(state["history"])


def _loss(label_smoothing: float) -> Callable[[Tensor, Tensor], Tensor]:
    """Returns the mean cross-entropy of logits `[*, classes]` and targets `[*]`."""
    loss = nn.CrossEntropyLoss(label_smoothing=label_smoothing)
    return lambda output, target: loss(output.flatten(0, -2), target.flatten())
