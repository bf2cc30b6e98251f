"""Files for other programs: dense weights, CSR tensors, safetensors that hold the nonzeros only, ONNX graphs.

`docs/files.md` describes what they hold.

Example:
    >>> from sparsekern import export
    >>> export.save(model, "nonzeros.safetensors", "safetensors")
    >>> model = export.load(build_network(), "nonzeros.safetensors")  # exchanges its dense layers
    >>> export.save(model, "model.onnx", "onnx", example=torch.randn(1, 3, 32, 32))
"""

from ..nn.saved import metadata
from .files import FORMATS, load, save
from .states import csr_state, nonzeros

__all__ = ["FORMATS", "csr_state", "load", "metadata", "nonzeros", "save"]
