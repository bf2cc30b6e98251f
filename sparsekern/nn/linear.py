"""A linear layer that holds its nonzeros only."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .. import ops
from ..ops.backend import choose
from ..topology import SparseWeight, Topology, is_pattern, kept
from .probe import Probe

INDEX = ("row_ptr", "col", "t_ptr", "t_row", "t_pos", "tile_ptr", "t_tile_ptr")


class SparseLinear(nn.Module):
    """`y = x W^T + b` with a sparse W of which only the nonzeros exist.

    The constructor is that of `nn.Linear` plus exactly one of `sparsity` (a random pattern, G(n, M)) and `topology`.
    New weights are uniform with variance 1 / fan-in, the fan-in being the number of nonzeros of the row (GraBo).

    Attributes:
        values: Parameter `[capacity]`, the used slots first, in row-major order; the only weight Parameter.
        bias: Parameter `[out_features]` or None.
        kernel, reason: the kernel in use ("csr", "tiled", "dense" or "masked") and why.

    Shapes: input `[..., in_features]`, output `[..., out_features]`. `state_dict` holds row-major `values` and `col`
    `[nnz]` with `row_ptr`, and loads into a layer of any capacity.
    """

    values: nn.Parameter
    bias: nn.Parameter | None
    row_ptr: Tensor
    col: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        sparsity: float | None = None,
        topology: Topology | None = None,
        backend: str = "auto",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        shape = (out_features, in_features)
        if topology is None and sparsity is not None:
            topology = Topology.random(shape, kept(sparsity, out_features * in_features), generator=generator)
        elif topology is None or sparsity is not None:
            raise ValueError("expected exactly one of sparsity and topology")
        if topology.shape != shape:
            raise ValueError(f"topology must have shape {shape} (out_features, in_features), got {topology.shape}")
        self.in_features, self.out_features, self.backend = in_features, out_features, backend
        self.probe: Probe | None = None
        self.loads = 0  # how often a state dict brought another pattern
        self.set_topology(topology if device is None else topology.to(device))
        factory: dict[str, Any] = {"device": self.col.device, "dtype": dtype}
        self.values = nn.Parameter(torch.empty(topology.capacity, **factory))
        self.register_parameter("bias", nn.Parameter(torch.empty(out_features, **factory)) if bias else None)
        self.reset_parameters(generator)

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Weights uniform in +-sqrt(3 / fan-in of the row), bias as in `nn.Linear`."""
        fan_in = self.row_ptr.diff()
        bound = (3.0 / fan_in.clamp(min=1)).sqrt().repeat_interleave(fan_in)
        drawn = torch.rand(bound.numel(), generator=generator).to(bound.device)
        self.values.zero_()
        self.values[: bound.numel()] = (bound * (2 * drawn - 1)).to(self.values.dtype)
        if self.bias is not None:
            limit = max(1, self.in_features) ** -0.5
            drawn = torch.rand(self.out_features, generator=generator).to(bound.device)
            self.bias.copy_(limit * (2 * drawn - 1))

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

    @property
    def weight_shape(self) -> tuple[int, int]:
        return (self.out_features, self.in_features)

    def set_topology(self, topology: Topology) -> None:
        """Installs a pattern, and the kernel that suits it; `values` is the caller's to rearrange."""
        self._install(topology, *choose(*self.weight_shape, 1 - topology.sparsity, backend=self.backend))

    def set_kernel(self, kernel: str, reason: str) -> None:
        """Uses `kernel` until the pattern changes."""
        self._install(self.topology, kernel, reason)

    def _install(self, topology: Topology, kernel: str, reason: str) -> None:
        self.kernel, self.reason = kernel, reason
        for name, tensor in zip(INDEX, topology.with_tiles(kernel == "tiled").index, strict=True):
            self.register_buffer(name, tensor, persistent=False)

    # ---- computation

    def forward(self, input: Tensor) -> Tensor:
        if self.kernel == "masked":
            output = nn.functional.linear(input, self.topology.dense(self.values), self.bias)
        elif self.kernel == "dense":
            output = ops.expanded_linear(input, self.values, self.index, self.bias, self.out_features)
        else:
            output = ops.sparse_linear(input, self.values, self.index, self.bias, self.out_features)
        return output if self.probe is None else self.probe.tap(output, input)

    def extra_repr(self) -> str:
        topology = self.topology
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}, "
            f"nnz={topology.nnz}, sparsity={topology.sparsity:.4f}, kernel={self.kernel}"
        )

    # ---- conversion

    @classmethod
    def from_dense(cls, module: nn.Linear, mask: Tensor, *, backend: str = "auto") -> SparseLinear:
        """The layer with the bias of `module` and its weights where `mask` (bool, the weight's shape) is True."""
        if mask.shape != module.weight.shape:
            raise ValueError(f"mask must have shape {tuple(module.weight.shape)}, got {tuple(mask.shape)}")
        return cls.from_topology(module, Topology.from_mask(mask.to(module.weight.device)), backend=backend)

    @classmethod
    def from_topology(cls, module: nn.Linear, topology: Topology, *, backend: str = "auto") -> SparseLinear:
        """The layer with the bias of `module` and its weights on `topology`."""
        weight, bias = module.weight, module.bias
        layer = cls(
            module.in_features,
            module.out_features,
            bias is not None,
            weight.device,
            weight.dtype,
            topology=topology,
            backend=backend,
        )
        with torch.no_grad():
            layer.values.copy_(layer.topology.gather(weight))
            if layer.bias is not None:
                layer.bias.copy_(bias)
                layer.bias.requires_grad_(bias.requires_grad)
        layer.values.requires_grad_(weight.requires_grad)
        return layer.train(module.training)

    @torch.no_grad()
    def to_dense(self) -> nn.Linear:
        """An ordinary `nn.Linear` with the zeros in place."""
        factory: dict[str, Any] = {"device": self.values.device, "dtype": self.values.dtype}
        linear: Any = nn.utils.skip_init(
            nn.Linear, self.in_features, self.out_features, self.bias is not None, **factory
        )
        linear.weight.copy_(self.topology.dense(self.values)).requires_grad_(self.values.requires_grad)
        if self.bias is not None:
            linear.bias.copy_(self.bias).requires_grad_(self.bias.requires_grad)
        return linear.train(self.training)

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
        nnz, device = col.numel(), self.values.device
        if row_ptr.numel() != self.out_features + 1 or int(row_ptr[-1]) != nnz or values.shape != (nnz,):
            raise ValueError(
                f"expected {self.out_features} rows and a value for each of {nnz} columns, got "
                f"{row_ptr.numel() - 1} rows and values of shape {tuple(values.shape)}"
            )
        if not is_pattern(row_ptr, col, self.in_features):
            raise ValueError(f"expected ascending columns in [0, {self.in_features}) within ascending row pointers")
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
