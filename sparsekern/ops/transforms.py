"""What sparse layers say where they are differentiated in a way that they do not know."""

import torch

from .. import private_torch

# Backward operators have no formula of their own: their results would pass for constants.
NO_SECOND_DERIVATIVES = "sparse layers have no second derivatives by create_graph=True: take those of torch.func"
RECORDING = (
    "layers with a pattern take the transforms of torch.func unless they record second moments or statistics for "
    "growth, and not within torch.compile: do without them in such a step, or densify the model"
)


def refuse_transforms() -> None:
    """Raises a `RuntimeError` under a transform of `torch.func`, which would ask for functions of another form."""
    if not torch.compiler.is_compiling() and private_torch.transforming():
        raise RuntimeError(RECORDING)
