"""The base of all layers with a sparsity pattern."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..ops.index import Index
from ..ops.straight_through import Geometry
from ..private_torch import unrecorded
from ..topology import PACKED, Topology, nnz_at
from . import copies
from .planned import UNSEEN
from .probe import Probe
from .twins import Twin

BITS_BELOW = 3 / 64  # the density at which bits and pointers of segments, 1.5 bits an entry, are as large as columns


def draw(weight: Tensor, fill: Callable[..., Any], generator: torch.Generator | None) -> None:
    """Fills a weight by an initializer of `nn.init`. A generator is of the CPU: numbers are drawn there and copied."""
    if generator is None or weight.device.type == "cpu":
        fill(weight, generator=generator)
    else:
        weight.copy_(fill(torch.empty_like(weight, device="cpu"), generator=generator))


class PatternLayer(Twin):
    """A layer whose weight has a sparsity pattern.

    A layer inherits from two subclasses. One stores the weight (`SparseLayer`, `MaskedLayer`): it names the Parameter
    (`WEIGHT`) and moves weights in and out. The other multiplies (`LinearProduct`, `Conv2dProduct`): it names the dense
    twin (`DENSE`) and the attributes that give the shape of both (`SETTINGS`).

    What they share stands in four files: `effective.py` (`layer.weight`), `planned.py` (the kernel and why), `twins.py`
    (the dense twin) and `saved.py` (copies and state dicts).

    Attributes:
        bias: Parameter `[out]` or None.
        weight_shape: shape of the weight as the pattern has it.
        kernel, reason: the kernel in use and why; see `Planned`.
    """

    WEIGHT: ClassVar[str]
    VIEWS: ClassVar[dict[str, frozenset[str]]]  # the parts of the index that each kernel reads

    def __init__(
        self,
        settings: dict[str, Any],
        weight_shape: tuple[int, ...],
        bias: bool,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
        sparsity: float | None,
        topology: Topology | None,
        backend: str,
        generator: torch.Generator | None,
    ) -> None:
        super().__init__()
        self.__module__ = f"torch.nn/{__name__}"  # by which torch.fx tells layers that it keeps whole
        for name, value in settings.items():
            setattr(self, name, value)
        if topology is None and sparsity is not None:
            topology = Topology.random(weight_shape, nnz_at(sparsity, prod(weight_shape)), generator=generator)
        elif topology is None or sparsity is not None:
            raise ValueError("expected exactly one of sparsity and topology")
        elif device is None:
            device = topology.device
        self.weight_shape, self.backend, self.dense_class = weight_shape, backend, None
        self.probe: Probe | None = None
        self.workload, self.refined = None, UNSEEN
        self.loads = 0  # how often a state dict brought another pattern
        self.pattern_given = False  # by masks, so that its sparsity is not checked against the method's
        self.assignment: Any = None  # the method and the override that this layer was made for
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        self.register_parameter(self.WEIGHT, nn.Parameter(self.empty_weight(topology.capacity, **factory)))
        self.register_parameter("bias", nn.Parameter(torch.empty(weight_shape[0], **factory)) if bias else None)
        self.set_topology(topology.to(self._index_device(topology)))
        self.reset_parameters(generator)

    # ---- the product, which a subclass defines

    window: Geometry | None = None  # of a product other than that of a linear layer
    expands: ClassVar[bool] = False  # whether every call makes the whole dense weight
    hidden: ClassVar[bool] = False  # whether its inputs and output gradients stay inside PyTorch's recurrence
    BATCHED: ClassVar[int] = 2  # how many dimensions an input with a batch has, as it is multiplied

    def multiplications_per_weight(self, input: Tensor, output: Tensor) -> int:
        """Returns how often a pass multiplies each weight: at each position of the output of every sample."""
        return output.numel() // max(1, self.weight_shape[0])

    def prepare(self, input: Tensor) -> Tensor:
        """Returns the input that is multiplied: padded, where the padding mode is not zeros."""
        return input

    def product(self, input: Tensor, values: Tensor) -> Tensor:
        """Multiplies a prepared input by the values `[capacity]` with the kernel in use (SpMM), and adds the bias."""
        raise NotImplementedError

    def dense_product(self, input: Tensor, weight: Tensor) -> Tensor:
        """Multiplies a prepared input by a dense weight as the dense twin does, bit for bit, and adds the bias."""
        raise NotImplementedError

    def masked_product(self, input: Tensor, weight: Tensor, active: bool) -> Tensor:
        """Multiplies a prepared input by a dense weight under the bitmask of the pattern, and adds the bias.

        Args:
            active: whether the gradient of the weight is zero off the pattern.
        """
        raise NotImplementedError

    def new_probe(self) -> Probe:
        """Returns a recorder for the statistics of one step of this layer."""
        raise NotImplementedError

    # ---- the storage, which another subclass defines

    def empty_weight(self, capacity: int, **factory: Any) -> Tensor:
        """Returns an uninitialised tensor for the Parameter."""
        raise NotImplementedError

    def entries(self, coordinates: Tensor) -> Tensor:
        """Returns the active entries of the weight by operators of PyTorch alone.

        Args:
            coordinates: their flat indices, int64 `[nnz]`, ascending.
        """
        raise NotImplementedError

    @property
    def stored(self) -> nn.Parameter:
        """The Parameter of the weight."""
        return getattr(self, self.WEIGHT)

    # ---- graphs for other programs

    def plain(self, input: Tensor) -> Tensor:
        """Computes the forward pass by operators of PyTorch alone, the only ones that ONNX and `torch.func` know."""
        return self.dense_product(self.prepare(input), self.plain_weight())

    def plain_weight(self) -> Tensor:
        """Returns the weight as a dense tensor of `weight_shape`, scattered from its entries by operators of PyTorch.

        In a graph for ONNX both are constants, and what runs the graph scatters once, when it loads it: the file holds
        the nonzeros only."""
        with unrecorded():
            coordinates = self.topology.coordinates()
            if prod(self.weight_shape) < 2**31:
                coordinates = coordinates.int()  # half the size in the file
        coordinates = coordinates.long()
        entries = self.entries(coordinates)
        weight = entries.new_zeros(prod(self.weight_shape)).scatter(0, coordinates, entries)
        return weight.reshape(self.weight_shape)

    # ---- pattern

    @property
    def topology(self) -> Topology:
        """The pattern in use, a frozen value."""
        return self._topology

    @property
    def row_ptr(self) -> Tensor:
        return self._topology.row_ptr

    @property
    def col(self) -> Tensor:
        return self._topology.col

    @property
    def index(self) -> Index:
        """The index tensors of the pattern (`topology.index`), on the device of the weight."""
        return self.index_on(self.stored.device)

    def index_on(self, device: torch.device) -> Index:
        """Returns `index`, given the device of the weight: modules look up Parameters slowly."""
        if self._index.row_ptr.device != device:
            if device.type == "meta":
                return Index(*(tensor.to(device) for tensor in self._index))
            self._follow_weight()
        return self._index

    def saved_weight(self, weight: Tensor) -> Tensor:
        """Returns what a state dict holds of `weight`, the Parameter or a tensor of the same memory."""
        return weight

    def set_topology(self, topology: Topology) -> None:
        """Installs a pattern, and the kernel that suits it; stored nonzeros are the caller's to rearrange."""
        if topology.shape != self.weight_shape:
            raise ValueError(f"topology must have the weight's shape {self.weight_shape}, got {topology.shape}")
        self._install(topology, *self.choose_kernel(topology))

    def park_topology(self, topology: Topology) -> None:
        """Installs a pattern in the smallest form that there is: the layer gets another before it multiplies."""
        self._install(topology, "dense", "for the moment")

    def _install(self, topology: Topology, kernel: str, reason: str) -> None:
        topology = topology.with_views(self._views(kernel, topology))
        index = topology.index  # made before anything changes
        self.kernel, self.reason, self._topology, self._index = kernel, reason, topology, index

    def _index_device(self, topology: Topology) -> torch.device:
        """Returns the device of the index: that of the weight, except that a weight on the meta device has a real
        pattern."""
        device = self.stored.device
        return topology.device if device.type == "meta" else device

    def _apply(self, fn: Any, recurse: bool = True) -> PatternLayer:
        """Moves the index along with the weight; another device may have another kernel."""
        with copies.moved(self):
            super()._apply(fn, recurse)
        self._follow_weight()
        return self

    def _follow_weight(self) -> None:
        device = self._index_device(self.topology)
        if device != self.topology.device:
            moved = self.topology.to(device)
            if device.type == self.topology.device.type:
                self._install(moved, self.kernel, self.reason)
            else:
                self.set_topology(moved)

    def _views(self, kernel: str, topology: Topology) -> frozenset[str]:
        """Returns what of the index a kernel reads. Dense products read bits: on the CPU in the place of columns, on a
        GPU beside them, unless these are smaller: the few nonzeros are scattered then."""
        if kernel in self.VIEWS:
            return self.VIEWS[kernel]
        if topology.device.type == "cpu":
            return PACKED
        return frozenset({"bits"}) if 1 - topology.sparsity >= BITS_BELOW else frozenset()

    def pattern_repr(self) -> str:
        topology = self.topology
        return f"nnz={topology.nnz}, sparsity={topology.sparsity:.4f}, kernel={self.kernel}"
