"""Soft Threshold Weight Reparameterization for Learnable Sparsity (Kusupati et al., ICML 2020)."""

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...nn import PatternLayer
from ...topology import Topology
from ..method import Method
from ..parts.schedules import Cadence, constant
from ..rule import Gradient, Rule
from ..sites.layer_site import LayerSite
from ..sites.storage import Master
from .registry import listed
from .request import Request


class SoftThreshold(nn.Module):
    """Computes sign(v) relu(|v| - sigmoid(s)), elementwise, with one learned scalar s."""

    def __init__(self, initial: float, like: Tensor) -> None:
        super().__init__()
        self.threshold = nn.Parameter(torch.tensor(initial, dtype=like.dtype, device=like.device))

    def forward(self, values: Tensor) -> Tensor:
        return values.sign() * (values.abs() - self.threshold.sigmoid()).relu()


class Thresholded(Master):
    """Keeps dense weights, and a threshold in each layer."""

    def __init__(self, initial: float) -> None:
        super().__init__()
        self.initial = initial

    def convert(self, layer: nn.Module, pattern: Topology, backend: str) -> PatternLayer:
        masked = super().convert(layer, pattern, backend)
        masked.transform = SoftThreshold(self.initial, masked.stored).requires_grad_(masked.stored.requires_grad)
        return masked


class LearnedThresholds(Rule):
    """Makes the mask of a layer of the weights above its learned threshold."""

    def gradient(self, step: int) -> Gradient:
        return "active"

    def begin(self, site: LayerSite) -> dict[str, Tensor]:
        threshold = self._threshold(site)
        for group in [] if site.optimizer is None else site.optimizer.param_groups:
            held = any(p is threshold for p in group["params"])
            if held and not group.get("weight_decay") and not threshold.sigmoid() > 0:
                message = f"str: without weight decay the thresholds stay at sigmoid({float(threshold):g}) = 0"
                warnings.warn(f"{message}, and no weight is pruned", stacklevel=4)
        return {}

    def masks(self, sites: Sequence[LayerSite], step: int, losses: Sequence[float]) -> list[Tensor]:
        levels = [self._threshold(site).detach().sigmoid() for site in sites]
        for site, level in zip(sites, levels, strict=True):
            site.facts = {"threshold": level}
        return [site.weight.abs() > level for site, level in zip(sites, levels, strict=True)]

    @staticmethod
    def _threshold(site: LayerSite) -> Any:
        return site.module.transform.threshold


@listed(
    "STR",
    minimum=False,
    paper="Kusupati et al., ICML",
    year=2020,
    storage="dense weights and optimizer state, a threshold for each layer",
    changes="every step",
    gradient="active weights",
    sparsity=None,
)
def str(request: Request, *, initial: float = -3200.0) -> Method:
    """STR: Soft Threshold Weight Reparameterization for Learnable Sparsity (Kusupati et al., ICML 2020, arXiv
    2002.03231). Every layer learns the threshold that prunes it; the sparsity emerges, `sparsity` is not used.

    The network computes with sign(w) relu(|w| - sigmoid(s_l)), one Parameter s_l per layer. The gradient goes through:
    to the weights above the threshold as it is, to the others none, to s_l it is
    -sigmoid'(s_l) sum G sign(w) over the weights above, G being the gradient by what the network computes with. The
    optimizer steps all of w, so that decay and momentum move the weights below the threshold, too, and s_l; they come
    back when it falls. All linear layers and convolutions are pruned. The mask is made anew before every forward pass
    and after the last step.

    What s becomes is up to its start and to the optimizer's weight decay, which pulls s_l towards 0 until the loss
    pulls back: sigmoid(s) matters from about s = -10 on. With learning rate lr, momentum mu and decay wd, s_l gets
    there from `initial` in about ln(initial / -10) (1 - mu) / (lr wd) steps; without weight decay it never does, which
    is told. A shorter run than the paper's takes a higher `initial` or decay. The paper searches both for a sparsity.

    Args:
        initial: s_l at the start (-3200 for ResNet-50 in the official configuration, with decay 2.25e-5 at a learning
            rate of 0.256 for 90 %). Weights begin dense but for those below sigmoid(initial).
    """
    request.emerges()
    return Method(
        request.name,
        constant(0.0),
        request.often(Cadence(1, start=0)),
        storage=Thresholded(initial),
        rule=LearnedThresholds(),
    )
