"""Files for other programs: dense weights, CSR tensors, safetensors that hold the nonzeros only, ONNX graphs.

`docs/files.md` describes what they hold.

Examples:
    >>> from sparsekern import export
    >>> model = sk.sparsify(torchvision.models.resnet18(), 0.9)
    >>> export.save(model, "nonzeros.safetensors", "safetensors")
    >>> model = export.load(torchvision.models.resnet18(), "nonzeros.safetensors")  # exchanges its dense layers
"""

from ..nn.saved import metadata
from .files import FORMATS, load, save
from .states import csr_state, nonzeros

__all__ = ["FORMATS", "csr_state", "load", "metadata", "nonzeros", "save"]
