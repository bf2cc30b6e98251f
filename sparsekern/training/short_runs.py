"""Options that a training run gives to a method where nobody has set them."""

from math import ceil
from typing import Any

RECOVERY = 80  # steps in which a network recovers from a mask of OptG


def options(method: str, steps: int, epoch: int, given: dict[str, Any]) -> dict[str, Any]:
    """Returns the options of a method in a run of `steps`, with `epoch` of them an epoch.

    OptG makes a mask every epoch, and prunes in few of them where epochs are few (`sk.methods.optg`). On few data an
    epoch is over before the network has recovered. So masks are made every 80 steps or more, as far as that is no more
    than a tenth of the run, and alpha is the paper's, 0.5, or with fewer than 20 masks what reaches the sparsity.
    """
    if method != "optg" or "every" in given or "steepness" in given:
        return given
    every = epoch * max(1, min(ceil(RECOVERY / epoch), steps // (10 * epoch)))
    return {"every": every, "steepness": max(0.5, 10 * every / steps), **given}
