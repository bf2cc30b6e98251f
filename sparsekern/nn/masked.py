"""Layers with a dense master weight and a mask, whose zeros are not multiplied."""

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling

from ..ops import active_values, straight_through
from ..ops.straight_through import effective
from ..private_torch import transformed
from ..shards import LOAD, class_as, is_sharded, put, sharded_as, whole
from ..sparse_weight import SparseWeight
from ..topology import Topology
from . import copies, live_states
from .conv import Conv2dProduct, SparseConv2d
from .layer import PatternLayer
from .linear import LinearProduct, SparseLinear
from .marks import hand_on_marks
from .moment import GradientMoment
from .plain import plain_output
from .planned import refine
from .saved import adopt_pattern, is_csr
from .sparse import SparseLayer
from .weight_storage import draw

Gradient = Literal["dense", "active", "moment"]
GRADIENTS = get_args(Gradient)


class MaskedLayer(PatternLayer):
    """A layer that multiplies the entries of its dense weight at its pattern: forward and input gradient cost what a
    layer that holds its nonzeros costs, and a change of pattern moves no weight. Patterns of one capacity
    (`Topology.from_mask(mask, capacity=...)`) keep compiled code valid.

    Attributes:
        master: Parameter of the dense twin's shape; entries off the pattern keep their values.
        weight: what the layer computes with: the master weight, zero off the pattern.
        weight_gradient: "dense": `master.grad` is the gradient of the masked weight at every entry, absent ones too
            (straight-through); "active": it is zero off the pattern, and nothing dense is multiplied for it; "moment":
            that of "dense", and every backward pass adds to `gradient_moment`.
        gradient_moment: the second moment of the gradient over samples; `moment` and `samples` are its parts.
        transform: None, or a module that makes what is multiplied of the entries of the weight, elementwise and 0 at 0;
            it is differentiated with `weight_gradient="active"`, and so are its Parameters.
    """

    WEIGHT = "master"
    SPARSE: ClassVar[type[SparseLayer]]  # the layer that holds the nonzeros only
    master: nn.Parameter
    transform: nn.Module | None

    def __init__(self, *arguments: Any, weight_gradient: Gradient = "dense", **options: Any) -> None:
        if weight_gradient not in GRADIENTS:
            raise ValueError(f"weight_gradient must be one of {', '.join(GRADIENTS)}, got {weight_gradient!r}")
        super().__init__(*arguments, **options)
        self.weight_gradient = weight_gradient
        self.gradient_moment = GradientMoment()
        self.register_module("transform", None)

    @property
    def moment(self) -> Tensor | None:
        """Sum over samples of the square of what each contributes to the gradient."""
        return self.gradient_moment.total

    @property
    def samples(self) -> int:
        """The number of samples that `moment` is the sum of."""
        return self.gradient_moment.samples

    @property
    def weight_parameters(self) -> list[nn.Parameter]:
        return [self.master, *([] if self.transform is None else self.transform.parameters())]

    def forward(self, input: Tensor) -> Tensor:
        if self.outdated:
            copies.check(self)
        if is_compiling():
            if torch.onnx.is_in_onnx_export():
                return plain_output(self, input)
        elif self.refined <= (self.training and torch.is_grad_enabled()) and not transformed():
            refine(self, input)
        input, weight, gradient = self.prepare(input), self.master, self.weight_gradient
        trained = torch.is_grad_enabled() and weight.requires_grad
        recorded = trained and gradient == "moment"
        record = self.gradient_moment.recorder(input, weight, self.BATCHED) if recorded else None
        if transformed() and record is None:
            output = self.dense_product(input, self._differentiable_weight())
        elif not trained or gradient == "active" or (gradient == "dense" and (self._unmasked or self._fused)):
            output = self._multiply(input, weight)
        elif gradient == "dense" and self._straight:
            output = self.product(input, weight)
        else:
            output = self._multiply(input, weight.detach())
            output = straight_through(output, input, weight, self.operation, record)
        return output if self.probe is None else self.probe.watch(output, input, weight)

    def _differentiable_weight(self) -> Tensor:
        """Returns the weight of the dense twin by PyTorch's own operators, which know its tangents."""
        weight = self.master if self.transform is None else self.transform(self.master)
        mask = self.topology.mask()
        if self.weight_gradient == "active":
            return weight * mask
        return torch.where(mask, weight, weight - weight.detach())  # 0, and yet what straight-through asks for

    def _multiply(self, input: Tensor, weight: Tensor) -> Tensor:
        if self._unmasked and self.transform is None:
            return self.dense_product(input, weight)
        if self._fused:
            return self.masked_product(input, weight, self.weight_gradient == "active")
        return self.product(input, self.active_weight(weight))

    @property
    def _fused(self) -> bool:
        """Whether the operator masks the weight itself."""
        return self.kernel == "bits" and self.transform is None

    @property
    def _straight(self) -> bool:
        """Whether the product takes the weight itself and gives it a gradient at every entry. Under autocast it would
        convert the whole weight."""
        if self.expands or self.kernel == "masked" or torch.is_autocast_enabled(self._index.row_ptr.device.type):
            return False
        return self.transform is None and type(self).active_weight is MaskedLayer.active_weight

    @property
    def copied(self) -> bool:
        """Whether products take a copy of the active entries of the weight, not the weight itself."""
        return not self._fused and (not self._unmasked or self.transform is not None)

    def active_weight(self, weight: Tensor) -> Tensor:
        """Returns the values that are multiplied, `[capacity]`: the entries of `weight` at the pattern, transformed."""
        entries = active_values(weight, self.index_on(weight.device))
        return entries if self.transform is None else self.transform(entries)

    @torch.no_grad()
    def shed(self, move: Callable[[Tensor, float], Tensor] | None = None) -> None:
        """Turns this layer, in place, into the one that holds its nonzeros only, a `SparseLinear` or `SparseConv2d`.

        The weight makes way for `values`, a new Parameter: give it to the optimizer (`Sparsifier` does).

        Args:
            move: makes the values of the weight; None: they are gathered, and transformed.
        """
        weight, topology = self.master, self.topology.with_capacity(self.topology.nnz)
        entries = topology.gather(whole(weight)) if move is None else move(weight, 0.0)
        entries = entries if self.transform is None else self.transform(entries)
        values = nn.Parameter(sharded_as(entries, weight), weight.requires_grad)
        hand_on_marks(weight, values)
        for name in ("master", "weight_gradient", "transform", "gradient_moment", "_unmasked"):
            delattr(self, name)
        self.__class__ = class_as(self.SPARSE, type(self))  # type: ignore[assignment]
        self.register_parameter("values", values)
        self.register_parameter("bias", self._parameters.pop("bias"))  # behind it, as everywhere
        if topology.device.type != "cpu":
            self.plan = None  # nonzeros have another one there
        self.set_topology(topology)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "gradient_moment" not in state:  # whose parts were the layer's own
            vars(self).update(gradient_moment=GradientMoment())
            for name in ("moment", "signature", "samples", "_passes"):
                vars(self).pop(name, None)

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *arguments: Any) -> None:
        """Also loads the state of a `SparseLayer`: this layer becomes one first."""
        old, name = prefix + "weight", prefix + self.WEIGHT
        bare = prefix + "values" in state_dict or is_csr(state_dict.get(old))
        if old in state_dict and name not in state_dict and not bare:  # of a dense layer, or of version 0.1
            rest = {key: value for key, value in state_dict.items() if key != old}
            state_dict = {**rest, name: self.rows_of(state_dict[old])}
        if bare and name not in state_dict:
            if is_sharded(self.master):
                arguments[-1].append(f"{name}: the state has nonzeros, but the sharded layer a dense weight: {LOAD}")
                return
            live_states.end(self)
            self.shed()
            self._load_from_state_dict(state_dict, prefix, *arguments)  # that of its new class
        else:
            super()._load_from_state_dict(state_dict, prefix, *arguments)

    def _install(self, topology: Topology, kernel: str, reason: str) -> None:
        super()._install(topology, kernel, reason)
        whole = topology.nnz == prod(self.weight_shape)
        self._unmasked = whole and self.backend != "sparse" and kernel != "csr"  # the weight itself is multiplied

    @property
    def sparse_weight(self) -> SparseWeight:
        return SparseWeight(self.active_weight(self.master), self.topology)

    def entries(self, coordinates: Tensor) -> Tensor:
        entries = self.master.reshape(-1).gather(0, coordinates)
        return entries if self.transform is None else self.transform(entries)

    def dense_weight(self) -> Tensor:
        if transformed():
            return self.weight_of(self._differentiable_weight())
        master = whole(self.master)
        active = self.active_weight(master)
        if self.weight_gradient == "active":
            return self.weight_of(self.topology.dense(active))
        return self.weight_of(effective(master, self.topology.dense(active.detach())))

    def dense_gradient(self) -> Tensor | None:
        return None if self.master.grad is None else self.weight_of(whole(self.master.grad))

    @torch.no_grad()
    def write_weight(self, dense: Tensor) -> None:
        if self.transform is not None:
            raise RuntimeError(
                f"the weight of this {type(self).__name__} is a function of its master weight: write to layer.master"
            )
        master = whole(self.master.detach())
        put(self.master, torch.where(self.topology.mask(), self.rows_of(dense), master, out=master))

    def pattern_repr(self) -> str:
        return f"{super().pattern_repr()}, weight_gradient={self.weight_gradient}"

    def empty_weight(self, capacity: int, **factory: Any) -> Tensor:
        return torch.empty(self.weight_shape, **factory)

    def reset_weight(self, generator: torch.Generator | None) -> None:
        """Draws weights as the dense twin does."""
        draw(self.master, partial(nn.init.kaiming_uniform_, a=5**0.5), generator)

    def take_weight(self, module: nn.Module) -> None:
        if isinstance(module, MaskedLayer):
            self.master.copy_(module.master)
        else:
            dense: Any = module.dense_weight() if isinstance(module, SparseLayer) else module.weight
            self.master.copy_(self.rows_of(dense))

    def adopt(self, weight: Tensor, row_ptr: Tensor, col: Tensor) -> Tensor:
        if prod(self.weight_shape):
            live_states.check(weight)
        if weight.shape != self.weight_shape:
            raise ValueError(f"expected a weight of shape {self.weight_shape}, got {tuple(weight.shape)}")
        adopt_pattern(self, row_ptr, col, max(col.numel(), self.topology.capacity))
        return sharded_as(weight, self.master)


class MaskedLinear(LinearProduct, MaskedLayer):
    """`y = x (m * W)^T + b` with a dense master weight W and a sparse mask m, whose zeros are not multiplied.

    The constructor is that of `nn.Linear` plus exactly one of `sparsity` (a random pattern, G(n, M)) and `topology`;
    weights are drawn as there. `set_topology` changes the mask.

    Attributes:
        master: Parameter `[out_features, in_features]`; entries off the pattern keep their values.
        weight: what the layer computes with: the master weight, zero off the pattern.
        weight_gradient: "dense" (straight-through; the default), "active" (zero off the pattern) or "moment" (dense,
            with the second moment of the samples' shares).
        bias: Parameter `[out_features]` or None.
        kernel, reason: the kernel in use ("csr", "tiled", "bits", "dense" or "masked") and why.

    Shapes: input `[..., in_features]`, output `[..., out_features]`. `state_dict` holds `master` and the pattern as
    `row_ptr` and `col` `[nnz]`, and loads into a layer of any pattern.

    Raises:
        ValueError: not exactly one of `sparsity` and `topology`, or one that does not fit; an unknown `backend` or
            `weight_gradient`.

    Examples:
        >>> layer = sk.MaskedLinear(512, 256, sparsity=0.9)
        >>> layer(torch.randn(32, 512)).shape, layer.master.shape
        (torch.Size([32, 256]), torch.Size([256, 512]))
        >>> int(layer.weight.count_nonzero())
        13108
    """

    SPARSE = SparseLinear


class MaskedConv2d(Conv2dProduct, MaskedLayer):
    """2-D convolution with a dense master weight and a sparse mask, whose zeros are not multiplied.

    The constructor is that of `nn.Conv2d` plus exactly one of `sparsity` (a random pattern, G(n, M)) and `topology`
    (of the weight's shape); weights are drawn as there. `set_topology` changes the mask.

    Attributes:
        master: Parameter `[out, in / groups, kernel height, kernel width]`; entries off the pattern keep their values.
        weight: what the layer computes with: the master weight, zero off the pattern.
        weight_gradient: "dense" (straight-through; the default), "active" (zero off the pattern) or "moment" (dense,
            with the second moment of the samples' shares).
        bias: Parameter `[out_channels]` or None.
        kernel, reason: the kernel in use ("csr", "bits", "dense" or "masked") and why.

    Shapes: input `[batch, in_channels, height, width]` or without the batch, output alike and in the same memory
    format. `state_dict` holds `master` and the pattern as `row_ptr` and `col` `[nnz]`, and loads into a layer of any
    pattern.

    Raises:
        ValueError: not exactly one of `sparsity` and `topology`, or one that does not fit; an unknown `backend` or
            `weight_gradient`; a geometry that `nn.Conv2d` does not take.

    Examples:
        >>> layer = sk.MaskedConv2d(16, 32, 3, padding=1, sparsity=0.9)
        >>> layer(torch.randn(8, 16, 28, 28)).shape, layer.master.shape
        (torch.Size([8, 32, 28, 28]), torch.Size([32, 16, 3, 3]))
    """

    SPARSE = SparseConv2d
