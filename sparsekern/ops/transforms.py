"""What sparse layers say where they are differentiated in a way that they do not know."""

import torch

from .. import private_torch

# Backward operators have no formula of their own: their results would pass for constants.
NO_SECOND_DERIVATIVES = "sparse layers have no second derivatives: do without create_graph=True and torch.func"
FORWARD_MODE_ONLY = (
    "of the transforms of torch.func, sparse layers take jvp and linearize, masked layers all, unless they record "
    "second moments or statistics for growth: do without the others, or densify the model"
)


def refuse_transforms() -> None:
    """Raises a `RuntimeError` under a transform of `torch.func`, which would ask for functions of another form."""
    if not torch.compiler.is_compiling() and private_torch.transforming():
        raise RuntimeError(FORWARD_MODE_ONLY)
