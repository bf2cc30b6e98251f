"""A layer with a pattern and its dense twin: which is made of which."""

from __future__ import annotations

from math import prod
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from ..topology import Topology
from .planned import Planned

Layer = TypeVar("Layer", bound="Twin")


class Twin(Planned):
    """A layer that takes the place of a dense one, its twin.

    Attributes:
        DENSE: the class of the twin.
        SETTINGS: the attributes of both that give their shape, which their constructors take by these names.
        dense_class: the subclass of `DENSE` that the layer was made of, which `to_dense` makes again; None for `DENSE`
            itself.
        weight_shape: shape of the weight as the pattern has it: one output in each row.
        dense_shape: shape of the weight of the twin, and of `weight`.
    """

    DENSE: ClassVar[type[nn.Module]]
    SETTINGS: ClassVar[tuple[str, ...]]
    dense_class: type[nn.Module] | None = None

    bias: nn.Parameter | None

    @classmethod
    def new_dense(cls, settings: dict[str, Any], bias: bool, **factory: Any) -> nn.Module:
        """Makes a twin with these settings, its weights unset."""
        return nn.utils.skip_init(cls.DENSE, **settings, bias=bias, **factory)

    @staticmethod
    def refuses(layer: Any) -> str | None:
        """Returns why this class takes no dense layer with such settings; None if it does."""
        return None

    # ---- what a storage defines

    def take_weight(self, module: nn.Module) -> None:
        """Copies the weights of the dense twin or of a layer with a pattern."""
        raise NotImplementedError

    # ---- conversion

    @classmethod
    def settings_of(cls, module: nn.Module) -> dict[str, Any]:
        return {name: getattr(module, name) for name in cls.SETTINGS}

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
        kind = module.dense_class if isinstance(module, Twin) else type(module)
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

    # ---- new weights

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draws new weights by the rule of the storage, and a bias as the dense layer does."""
        self.reset_weight(generator)
        if self.bias is not None:
            limit = max(1, prod(self.weight_shape[1:])) ** -0.5
            drawn = torch.rand(self.bias.numel(), generator=generator, device="cpu").to(self.bias.device)
            self.bias.copy_(limit * (2 * drawn - 1))

    def reset_weight(self, generator: torch.Generator | None) -> None:
        """Draws new weights."""
        raise NotImplementedError


def parameter_of(layer: nn.Module) -> nn.Parameter:
    """The Parameter that holds the weight of a dense layer or of one with a pattern."""
    return layer.stored if isinstance(layer, Twin) else layer.weight  # type: ignore[return-value]
