"""What scores lowest is dropped: functions of a site, one score for each weight or for each unit of a view."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from .site import LayerSite

Criterion = Callable[[LayerSite], Tensor]


def magnitude(site: LayerSite) -> Tensor:
    """|w|."""
    return site.weight.abs()


def filter_norm(site: LayerSite) -> Tensor:
    """||F||_2 of the weights of every output channel, `[rows]`."""
    return site.weight.flatten(1).norm(dim=1)


def filter_rms(site: LayerSite) -> Tensor:
    """||F||_2 / sqrt(fan-in), `[rows]`."""
    return filter_norm(site) / max(1, site.weight[0].numel()) ** 0.5


@dataclass(frozen=True)
class _Tracked:
    name: str

    def __call__(self, site: LayerSite) -> Tensor:
        return site.tracked[self.name]


def tracked(name: str) -> Criterion:
    """The numbers that the method's rule keeps under this name."""
    return _Tracked(name)
