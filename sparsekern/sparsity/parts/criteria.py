"""What scores lowest is dropped: functions of a site, one score for each weight or for each unit of a view."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor


class Scored(Protocol):
    """What a criterion asks of a site."""

    tracked: dict[str, Tensor]

    @property
    def weight(self) -> Tensor: ...


Criterion = Callable[[Any], Tensor]


def magnitude(site: Scored) -> Tensor:
    """|w|."""
    return site.weight.abs()


def filter_norm(site: Scored) -> Tensor:
    """||F||_2 of the weights of every output channel, `[rows]`."""
    return site.weight.flatten(1).norm(dim=1)


def filter_rms(site: Scored) -> Tensor:
    """||F||_2 / sqrt(fan-in), `[rows]`."""
    return filter_norm(site) / max(1, site.weight[0].numel()) ** 0.5


@dataclass(frozen=True)
class _Tracked:
    name: str

    def __call__(self, site: Scored) -> Tensor:
        return site.tracked[self.name]


def tracked(name: str) -> Criterion:
    """The numbers that the method's rule keeps under this name."""
    return _Tracked(name)
