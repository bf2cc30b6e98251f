"""The base of all layers with a sparsity pattern."""

from __future__ import annotations

from math import prod
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..ops.index import Index
from ..ops.views import BITMASK
from ..private_torch import version
from ..topology import PACKED, Topology, nnz_at
from . import copies, saved
from .effective import EffectiveWeight, Parameters, assigned, is_weight_of
from .kernel_choice import KernelPlan
from .planned import TRAINED, UNSEEN, Workload, choose_kernel
from .probe import Probe
from .product import Product
from .weight_storage import WeightStorage

Layer = TypeVar("Layer", bound="PatternLayer")
BITS_BELOW = 3 / 64  # the density at which bits and pointers of segments, 1.5 bits an entry, are as large as columns


class PatternLayer(Product, WeightStorage, nn.Module):
    """A layer whose weight has a sparsity pattern: the base of all.

    A layer inherits from two subclasses of it. One multiplies (`LinearProduct`, `Conv2dProduct`): it defines what
    `Product` lists. The other stores the weight (`SparseLayer`, `MaskedLayer`): it defines what `WeightStorage` lists.

    Attributes:
        bias: Parameter `[out]` or None.
        kernel, reason: the kernel in use and why.
        plan: the kernels for all densities; None until the layer has a pattern (`planned.py`).
        workload: what the plan was refined by; None before.
        refined: whether an input in evaluation (`EVALUATED`) or in training (`TRAINED`) has refined it.
        dense_class: the subclass of `DENSE` that the layer was made of, which `to_dense` makes again; None for `DENSE`
            itself.
        probe: what records the statistics of a step; None in a layer that is not armed.
        outdated: whether it is a copy of a layer whose pattern has changed since.
        loads: how often a state dict brought another pattern.
        pattern_given: whether masks gave the pattern, so that its sparsity is not checked against the method's.
        assignment: the method and the override that this layer was made for.
    """

    bias: nn.Parameter | None
    kernel: str
    reason: str
    plan: KernelPlan | None = None
    workload: Workload | None = None
    refined: int = UNSEEN
    dense_class: type[nn.Module] | None = None
    probe: Probe | None
    outdated = False

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
        self._parameters = Parameters()
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
        self.loads, self.pattern_given = 0, False
        self.assignment: Any = None
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        self.register_parameter(self.WEIGHT, nn.Parameter(self.empty_weight(topology.capacity, **factory)))
        self.register_parameter("bias", nn.Parameter(torch.empty(weight_shape[0], **factory)) if bias else None)
        self.set_topology(topology.to(self._index_device(topology)))
        self.reset_parameters(generator)

    # ---- the weight of the dense twin

    @property
    def weight(self) -> Tensor:
        """The dense weight that the layer computes with, zeros in place, for code that reads `.weight`.

        It is made when something computes with it; the layer itself never does. Changes in place reach the active
        weights; a weight that is assigned must be zero where this one is. See `EffectiveWeight`."""
        return self.dense_weight() if torch.compiler.is_compiling() else EffectiveWeight(self)

    @weight.setter
    def weight(self, value: Tensor) -> None:
        if is_weight_of(self, value):  # `layer.weight -= update` has written it already
            return
        raise TypeError(
            f"cannot assign {type(value).__name__} as the weight of a {type(self).__name__}: expected an nn.Parameter, "
            "or change layer.weight.data in place"
        )

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        """Registers a Parameter; `layer.weight = nn.Parameter(...)` changes the values of the weight that exists."""
        if not assigned(self, name, param):
            super().register_parameter(name, param)

    def weight_version(self) -> tuple[Any, ...]:
        """Returns a value that stays equal as long as nobody changes the weight."""
        return version(self.stored), self.topology

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

    def set_topology(self, topology: Topology) -> None:
        """Installs a pattern, and the kernel that suits it; stored nonzeros are the caller's to rearrange."""
        if topology.shape != self.weight_shape:
            raise ValueError(f"topology must have the weight's shape {self.weight_shape}, got {topology.shape}")
        self._install(topology, *choose_kernel(self, topology))

    def set_kernel(self, kernel: str, reason: str) -> None:
        """Uses `kernel` until the pattern changes."""
        self.refined = TRAINED  # no input undoes it
        self._install(self.topology, kernel, reason)

    def set_unused_topology(self, topology: Topology) -> None:
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
        return BITMASK if 1 - topology.sparsity >= BITS_BELOW else frozenset()

    def pattern_repr(self) -> str:
        topology = self.topology
        return f"nnz={topology.nnz}, sparsity={topology.sparsity:.4f}, kernel={self.kernel}"

    # ---- conversion

    @classmethod
    def from_dense(
        cls: type[Layer], module: nn.Module, mask: Tensor, *, backend: str = "auto", **options: Any
    ) -> Layer:
        """Makes a layer with the bias of `module` and its weights where `mask` (bool, the weight's shape) is True."""
        cls.check_twin(module)
        weight: Any = module.weight
        if mask.shape != weight.shape:
            raise ValueError(f"mask must have shape {tuple(weight.shape)}, got {tuple(mask.shape)}")
        topology = Topology.from_mask(cls.rows_of(mask.to(weight.device)))
        return cls.from_topology(module, topology, backend=backend, **options)

    @classmethod
    def from_topology(
        cls: type[Layer], module: nn.Module, topology: Topology, *, backend: str = "auto", **options: Any
    ) -> Layer:
        """Makes a layer with the bias of `module` and its weights on `topology`; weights that it lacks are zero.

        Args:
            module: the dense twin, or another layer with a pattern that has the same twin.
        """
        cls.check_twin(module)
        layer = cls.blank(module, topology, backend=backend, **options)
        with torch.no_grad():
            layer.take_weight(module)
            if layer.bias is not None:
                bias: Any = module.bias
                layer.bias.copy_(bias).requires_grad_(bias.requires_grad)
        layer.stored.requires_grad_(parameter_of(module).requires_grad)
        return layer

    @classmethod
    def blank(cls: type[Layer], module: nn.Module, topology: Topology, **options: Any) -> Layer:
        """Makes a layer like `module`, on its device, with new weights on `topology`."""
        weight = parameter_of(module)
        made: Any = cls
        layer = made(
            **cls.settings_of(module),
            bias=getattr(module, "bias", None) is not None,
            device=weight.device,
            dtype=weight.dtype,
            topology=topology,
            **options,
        )
        kind = module.dense_class if isinstance(module, PatternLayer) else type(module)
        if kind not in (None, cls.DENSE):
            layer.dense_class = kind
        return layer.train(module.training)

    @classmethod
    def check_twin(cls, module: nn.Module) -> None:
        if not isinstance(module, cls.DENSE) and getattr(module, "DENSE", None) is not cls.DENSE:
            raise ValueError(f"expected a torch.nn.{cls.DENSE.__name__}, got {type(module).__name__}")

    @torch.no_grad()
    def to_dense(self) -> nn.Module:
        """Returns the dense twin, zeros in place."""
        factory = {"device": self.stored.device, "dtype": self.stored.dtype}
        dense: Any = self.new_dense(self.settings_of(self), self.bias is not None, **factory)
        dense.weight.copy_(self.dense_weight()).requires_grad_(self.stored.requires_grad)
        if self.bias is not None:
            dense.bias.copy_(self.bias).requires_grad_(self.bias.requires_grad)
        if self.dense_class is not None:
            dense.__class__ = self.dense_class
        return dense.train(self.training)

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draws new weights by the rule of the storage, and a bias as the dense layer does."""
        self.reset_weight(generator)
        if self.bias is not None:
            limit = max(1, prod(self.weight_shape[1:])) ** -0.5
            drawn = torch.rand(self.bias.numel(), generator=generator, device="cpu").to(self.bias.device)
            self.bias.copy_(limit * (2 * drawn - 1))

    # ---- copies and files

    def __deepcopy__(self, memo: dict[int, Any]) -> PatternLayer:
        return saved.copy_of(self, memo)

    def __getstate__(self) -> dict[str, Any]:
        """Returns the state of copies and pickles. They are not armed, whatever this layer records at the moment, and
        they are in step with this layer, whatever it is a copy of."""
        return {**self.__dict__, "probe": None, "outdated": False}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(saved.renamed(state))
        saved.update(self)

    def _save_to_state_dict(self, destination: dict, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        saved.save(self, destination, prefix)

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *arguments: Any) -> None:
        saved.load(self, state_dict, prefix, *arguments)


Twin = PatternLayer  # as it was called in version 0.1, until 0.3


def parameter_of(layer: nn.Module) -> nn.Parameter:
    """Returns the Parameter that holds the weight of a dense layer or of one with a pattern."""
    return layer.stored if isinstance(layer, PatternLayer) else layer.weight  # type: ignore[return-value]
