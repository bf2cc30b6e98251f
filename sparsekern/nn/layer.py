"""What layers that hold their nonzeros only have in common."""

from __future__ import annotations

from math import prod
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from ..ops.backend import Choice
from ..topology import SparseWeight, Topology, is_pattern, kept
from .probe import Probe

Layer = TypeVar("Layer", bound="SparseLayer")
INDEX = ("row_ptr", "col", "t_ptr", "t_row", "t_pos", "tile_ptr", "t_tile_ptr")


class SparseLayer(nn.Module):
    """A layer with a weight of which only the nonzeros exist: its pattern, its kernel, conversion and files.

    A subclass computes, chooses among its kernels and names its dense twin: a class (`DENSE`) and those of its
    attributes that describe the shape of both (`SETTINGS`).

    Attributes:
        values: Parameter `[capacity]`, the used slots first, in row-major order; the only weight Parameter.
        bias: Parameter `[out]` or None.
        weight_shape: shape of the weight of the dense twin.
        kernel, reason: the kernel in use and why.
    """

    DENSE: ClassVar[type[nn.Module]]
    SETTINGS: ClassVar[tuple[str, ...]]

    values: nn.Parameter
    bias: nn.Parameter | None
    row_ptr: Tensor
    col: Tensor

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
        for name, value in settings.items():
            setattr(self, name, value)
        if topology is None and sparsity is not None:
            topology = Topology.random(weight_shape, kept(sparsity, prod(weight_shape)), generator=generator)
        elif topology is None or sparsity is not None:
            raise ValueError("expected exactly one of sparsity and topology")
        if topology.shape != weight_shape:
            raise ValueError(f"topology must have the weight's shape {weight_shape}, got {topology.shape}")
        self.weight_shape, self.backend = weight_shape, backend
        self.probe: Probe | None = None
        self.loads = 0  # how often a state dict brought another pattern
        self.set_topology(topology if device is None else topology.to(device))
        factory: dict[str, Any] = {"device": self.col.device, "dtype": dtype}
        self.values = nn.Parameter(torch.empty(topology.capacity, **factory))
        self.register_parameter("bias", nn.Parameter(torch.empty(weight_shape[0], **factory)) if bias else None)
        self.reset_parameters(generator)

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Weights uniform in +-sqrt(3 / fan-in of the row), bias as in the dense layer."""
        fan_in = self.row_ptr.diff()
        bound = (3.0 / fan_in.clamp(min=1)).sqrt().repeat_interleave(fan_in)
        drawn = torch.rand(bound.numel(), generator=generator).to(bound.device)
        self.values.zero_()
        self.values[: bound.numel()] = (bound * (2 * drawn - 1)).to(self.values.dtype)
        if self.bias is not None:
            limit = max(1, prod(self.weight_shape[1:])) ** -0.5
            drawn = torch.rand(self.bias.numel(), generator=generator).to(bound.device)
            self.bias.copy_(limit * (2 * drawn - 1))

    # ---- what a subclass says

    def choose_kernel(self, density: float) -> Choice:
        """The kernel for a pattern of this density."""
        raise NotImplementedError

    def new_probe(self) -> Probe:
        """What records the statistics of one step of this layer."""
        raise NotImplementedError

    # ---- pattern

    @property
    def topology(self) -> Topology:
        """The pattern in use, a frozen value."""
        row_ptr, col, *views = self.index
        return Topology(self.weight_shape, row_ptr, col, self.kernel == "tiled", tuple(views))

    @property
    def index(self) -> list[Tensor]:
        buffers = self._buffers
        return [buffers[name] for name in INDEX]  # type: ignore[misc]

    def set_topology(self, topology: Topology) -> None:
        """Installs a pattern, and the kernel that suits it; `values` is the caller's to rearrange."""
        self._install(topology, *self.choose_kernel(1 - topology.sparsity))

    def set_kernel(self, kernel: str, reason: str) -> None:
        """Uses `kernel` until the pattern changes."""
        self._install(self.topology, kernel, reason)

    def _install(self, topology: Topology, kernel: str, reason: str) -> None:
        self.kernel, self.reason = kernel, reason
        for name, tensor in zip(INDEX, topology.with_tiles(kernel == "tiled").index, strict=True):
            self.register_buffer(name, tensor, persistent=False)

    def pattern_repr(self) -> str:
        topology = self.topology
        return f"nnz={topology.nnz}, sparsity={topology.sparsity:.4f}, kernel={self.kernel}"

    # ---- conversion

    @classmethod
    def from_dense(cls: type[Layer], module: nn.Module, mask: Tensor, *, backend: str = "auto") -> Layer:
        """The layer with the bias of `module` and its weights where `mask` (bool, the weight's shape) is True."""
        weight = cls._weight(module)
        if mask.shape != weight.shape:
            raise ValueError(f"mask must have shape {tuple(weight.shape)}, got {tuple(mask.shape)}")
        return cls.from_topology(module, Topology.from_mask(mask.to(weight.device)), backend=backend)

    @classmethod
    def from_topology(cls: type[Layer], module: nn.Module, topology: Topology, *, backend: str = "auto") -> Layer:
        """The layer with the bias of `module`, the dense twin or a layer of this class, and its weights on `topology`;
        weights that it does not have are zero."""
        weight: Any = module.values if isinstance(module, cls) else cls._weight(module)
        bias: Any = module.bias
        layer = cls(
            **{name: getattr(module, name) for name in cls.SETTINGS},
            bias=bias is not None,
            device=weight.device,
            dtype=weight.dtype,
            topology=topology,
            backend=backend,
        )
        topology = layer.topology
        with torch.no_grad():
            if not isinstance(module, cls):
                layer.values.copy_(topology.gather(weight))
            elif topology.same_pattern(module.topology):
                layer.values.copy_(topology.from_csr(module.topology.to_csr(weight)))
            else:
                layer.values.copy_(topology.gather(module.topology.dense(weight)))
            if layer.bias is not None:
                layer.bias.copy_(bias).requires_grad_(bias.requires_grad)
        layer.values.requires_grad_(weight.requires_grad)
        return layer.train(module.training)

    @classmethod
    def _weight(cls, module: nn.Module) -> Tensor:
        if not isinstance(module, cls.DENSE):
            raise ValueError(f"expected a torch.nn.{cls.DENSE.__name__}, got {type(module).__name__}")
        return module.weight  # type: ignore[return-value]

    @torch.no_grad()
    def to_dense(self) -> nn.Module:
        """The dense twin, zeros in place."""
        dense: Any = nn.utils.skip_init(
            self.DENSE,
            **{name: getattr(self, name) for name in self.SETTINGS},
            bias=self.bias is not None,
            device=self.values.device,
            dtype=self.values.dtype,
        )
        dense.weight.copy_(self.topology.dense(self.values)).requires_grad_(self.values.requires_grad)
        if self.bias is not None:
            dense.bias.copy_(self.bias).requires_grad_(self.bias.requires_grad)
        return dense.train(self.training)

    @property
    def weight(self) -> Tensor:
        """The weight as a dense tensor, differentiable in `values`: for modules that read the weights of their layers.
        Made anew at every read; the layer itself never does."""
        return self.topology.dense(self.values)

    @property
    def sparse_weight(self) -> SparseWeight:
        return SparseWeight(self.values, self.topology)

    # ---- files

    def __getstate__(self) -> dict[str, Any]:
        """Of copies and pickles: they are not armed, whatever this layer records at the moment."""
        return {**self.__dict__, "probe": None}

    def _save_to_state_dict(self, destination: dict, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        nnz = self.topology.nnz
        destination[prefix + "values"] = destination[prefix + "values"][:nnz]
        destination[prefix + "row_ptr"] = self.row_ptr
        destination[prefix + "col"] = self.col[:nnz]

    def _load_from_state_dict(
        self,
        state_dict: dict,
        prefix: str,
        local_metadata: dict,
        strict: bool,
        missing_keys: list,
        unexpected_keys: list,
        error_msgs: list,
    ) -> None:
        own = {key: value for key, value in state_dict.items() if key.startswith(prefix)}
        saved = [own.get(prefix + "values"), own.pop(prefix + "row_ptr", None), own.pop(prefix + "col", None)]
        if all(tensor is not None for tensor in saved):
            try:
                own[prefix + "values"] = self._adopt(*saved)  # type: ignore[arg-type]
            except ValueError as error:
                error_msgs.append(f"{prefix}values: {error}")
                return
        elif strict:
            missing_keys.extend(
                prefix + name for name, tensor in zip(("row_ptr", "col"), saved[1:], strict=True) if tensor is None
            )
            own.pop(prefix + "values", None)
        super()._load_from_state_dict(own, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs)

    @torch.no_grad()
    def _adopt(self, values: Tensor, row_ptr: Tensor, col: Tensor) -> Tensor:
        """Installs a saved pattern; returns its values padded to the capacity."""
        rows, cols = self.weight_shape[0], prod(self.weight_shape[1:])
        nnz, device = col.numel(), self.values.device
        if row_ptr.numel() != rows + 1 or int(row_ptr[-1]) != nnz or values.shape != (nnz,):
            raise ValueError(
                f"expected {rows} rows and a value for each of {nnz} columns, got "
                f"{row_ptr.numel() - 1} rows and values of shape {tuple(values.shape)}"
            )
        if not is_pattern(row_ptr, col, cols):
            raise ValueError(f"expected ascending columns in [0, {cols}) within ascending row pointers")
        capacity, old = max(nnz, self.values.numel()), self.topology
        if capacity != self.values.numel():  # in place: the Parameter stays the one that the optimizer holds
            self.values.data = self.values.new_zeros(capacity)
            self.values.grad = None
        padded = torch.zeros(capacity, dtype=torch.int32, device=device)
        padded[:nnz] = col
        # A copy: a state dict holds the tensors of the model it was taken from.
        topology = Topology(self.weight_shape, row_ptr.to(device, torch.int32, copy=True), padded)
        self.loads += capacity != old.capacity or not topology.same_pattern(old)
        self.set_topology(topology)
        return topology.from_csr(values.to(device, self.values.dtype))
