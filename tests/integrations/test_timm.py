"""timm: the habits of its training script with a sparse model. `make test-integrations` has it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import sparsekern as sk
from sparsekern import models
from sparsekern.errors import UsageError
from sparsekern.nn import SparseLayer

timm = pytest.importorskip("timm")
from timm.models import load_checkpoint, resume_checkpoint  # noqa: E402
from timm.optim import create_optimizer_v2, param_groups_layer_decay, param_groups_weight_decay  # noqa: E402
from timm.scheduler import create_scheduler_v2  # noqa: E402
from timm.utils import CheckpointSaver, ModelEmaV3, NativeScaler  # noqa: E402

STEPS, EPOCH = 12, 4


def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(STEPS, 4, 3, 32, 32, generator=generator)
    return [(part.contiguous(memory_format=torch.channels_last), torch.arange(4)) for part in x]


class Script:
    """What timm's `train.py` makes, in its order, with a `Sparsifier` around its optimizer."""

    def __init__(self, name: str, architecture: str, folder: Path, resume: Path | None = None) -> None:
        torch.manual_seed(0)
        model = timm.create_model(architecture, num_classes=4).to(memory_format=torch.channels_last)
        self.method = sk.methods.get(name)(sparsity=0.8, total_steps=STEPS, steps_per_epoch=EPOCH, every=2)
        self.model = sk.sparsify(model, self.method, generator=torch.Generator().manual_seed(1))
        inner, generator = create_optimizer_v2(self.model, "adamw", lr=1e-3, weight_decay=0.05), torch.Generator()
        self.optimizer: Any = sk.Sparsifier(self.model, inner, self.method, generator=generator.manual_seed(2))
        self.scaler = NativeScaler("cpu")
        if resume:
            resume_checkpoint(self.model, str(resume), self.optimizer, self.scaler, log_info=False)
        self.ema = ModelEmaV3(self.model, decay=0.9)
        if resume:
            load_checkpoint(self.ema.module, str(resume), use_ema=True)
        self.optimizer.follow(self.ema.module)
        self.schedule, _ = create_scheduler_v2(self.optimizer, "cosine", num_epochs=3, warmup_epochs=1)
        self.saver = CheckpointSaver(
            self.model, self.optimizer, model_ema=self.ema, amp_scaler=self.scaler, checkpoint_dir=str(folder)
        )

    def epoch(self, number: int) -> None:
        self.model.train()
        for x, y in batches()[number * EPOCH : (number + 1) * EPOCH]:
            with torch.autocast("cpu", torch.bfloat16):
                loss = nn.functional.cross_entropy(self.model(x), y)
            self.scaler(loss, self.optimizer, clip_grad=1.0, parameters=self.model.parameters())
            self.optimizer.zero_grad()
            self.ema.update(self.model, step=self.optimizer.steps)
        self.optimizer.epoch_end(1.0)
        self.schedule.step(number + 1)
        self.saver.save_checkpoint(number, metric=float(number))


@pytest.mark.parametrize("architecture", ["test_resnet", "test_vit"])
@pytest.mark.parametrize("name", ["rigl", "gse_grabo"])
def test_the_training_script(name: str, architecture: str, tmp_path: Path) -> None:
    whole = Script(name, architecture, tmp_path)
    for number in range(3):
        whole.epoch(number)
    (tmp_path / "resumed").mkdir()
    resumed = Script(name, architecture, tmp_path / "resumed", tmp_path / "checkpoint-1.pth.tar")
    resumed.schedule.step(2)
    resumed.epoch(2)
    for a, b in ((whole.model, resumed.model), (whole.ema.module, resumed.ema.module)):
        for (key, x), (_, y) in zip(a.state_dict().items(), b.state_dict().items(), strict=True):
            assert torch.equal(x, y), key
    layers = [m for m in whole.ema.module.modules() if isinstance(m, SparseLayer)]
    assert layers
    assert any(row["flips"] for row in whole.optimizer.report().rows)


def groups_of(model: nn.Module, groups: Any) -> dict[str, tuple[float, float]]:
    names = {id(p): name.replace(".values", ".weight") for name, p in model.named_parameters()}
    found = {}
    for group in groups:
        facts = (group["weight_decay"], group.get("lr_scale", 1.0))
        found |= {names[id(p)]: facts for p in group["params"]}
    return found


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
@pytest.mark.parametrize("options", [{}, {"layer_decay": 0.7}])
def test_nonzeros_are_decayed_as_the_weights_of_the_dense_twin_are(name: str, options: dict[str, float]) -> None:
    dense = timm.create_model(name, num_classes=4)
    sparse = sk.sparsify(timm.create_model(name, num_classes=4), 0.8)
    found = []
    for model in (sparse, dense):
        optimizer = create_optimizer_v2(model, "adamw", lr=1e-3, weight_decay=0.05, **options)
        found.append(groups_of(model, optimizer.param_groups))
        function = param_groups_layer_decay if options else param_groups_weight_decay
        left_out = getattr(model, "no_weight_decay", tuple)()
        again = function(model, weight_decay=0.05, no_weight_decay_list=left_out, **options)
        assert groups_of(model, again) == found[-1]
    assert found[0] == found[1]
    assert {decay for decay, _ in found[0].values()} == {0.0, 0.05}


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_efficientnet"])
def test_models_by_name(name: str) -> None:
    model = models.build(f"timm:{name}", (1, 48, 48), 6)
    assert model(torch.randn(2, 1, 48, 48)).shape == (2, 6)


def test_models_that_do_not_fit() -> None:
    with pytest.raises(UsageError, match=r"unknown model of timm 'test_resnett'; did you mean test_resnet"):
        models.build("timm:test_resnett", (3, 32, 32), 6)
    with pytest.raises(UsageError, match="--width does not apply to timm:test_resnet"):
        models.build("timm:test_resnet", (3, 32, 32), 6, width=0.5)
