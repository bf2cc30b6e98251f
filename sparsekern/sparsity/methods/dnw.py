"""Discovering Neural Wirings (Wortsman, Farhadi, Rastegari, NeurIPS 2019)."""

from dataclasses import replace

from ..method import Method
from ..parts import views
from ..parts.schedules import Cadence, constant
from .registry import ALL, listed
from .request import Request


@listed(
    "Discovering neural wirings",
    paper="Wortsman, Farhadi, Rastegari, NeurIPS",
    year=2019,
    storage="dense weights and optimizer state",
    changes="every step",
    gradient="dense",
    structures=ALL,
)
def dnw(request: Request, *, min_per_layer: int = 0) -> Method:
    """DNW: Discovering Neural Wirings (Wortsman, Farhadi, Rastegari, NeurIPS 2019, arXiv 1906.00586), section 4.3, for
    sparse networks.

    Before every step each layer's mask becomes that of its largest |w|, all layers at the sparsity s from the first
    step on; the dense gradient at m w goes to all of w (straight-through), so that absent weights may come
    back. `dpf_layerwise` with every=1 and no ramp, but over all linear layers and convolutions, as in the paper's
    sparse ResNet-50. Weight decay is the optimizer's, on the dense weight, and the mask is made a last time after the
    last step. The official code rounds the number of each layer down; here the number of all is exact.

    Args:
        min_per_layer: weights that stay in every layer.
    """
    return Method(
        request.name,
        constant(request.sparsity),
        request.often(Cadence(1, start=0)),
        storage="master",
        view=replace(views.layer, min_per_layer=min_per_layer),
    )
