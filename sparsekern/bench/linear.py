"""Linear layers: what `sparsekern bench kernels` measures on a CPU, and on a GPU."""

from dataclasses import dataclass
from itertools import product

from .case import Case, cases

SPARSITIES = (0.3, 0.4, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99)
SHAPES = [(784, 512, 128), (1024, 1024, 32), (1024, 1024, 128), (1024, 1024, 512), (4096, 4096, 128)]
# Of the map of crossovers.
WIDTHS, BATCHES = (256, 512, 1024, 2048, 4096), (1, 8, 32, 128, 512)
MAP_SPARSITIES = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98)

GPU_DTYPES = ("bfloat16", "float32")
GPU_SPARSITIES = (0.8, 0.9, 0.95, 0.98)
GPU_SHAPES = [(4096, 4096, batch) for batch in (1, 16, 64, 128, 256, 1024, 8192)]
GPU_SHAPES += [(1024, 1024, batch) for batch in (128, 8192)]
GPU_OPS = ("forward", "input_gradient", "weight_gradient")


@dataclass(frozen=True)
class Linear:
    """A linear layer at one batch size."""

    in_features: int
    out_features: int
    batch: int
    sparsity: float
    dtype: str = "float32"

    @property
    def shape(self) -> str:
        return f"{self.in_features}x{self.out_features}"

    @property
    def macs(self) -> int:
        """Multiply-adds of one dense product."""
        return self.in_features * self.out_features * self.batch

    @property
    def weight_shape(self) -> tuple[int, ...]:
        return (self.out_features, self.in_features)

    @property
    def input_shape(self) -> tuple[int, ...]:
        return (self.batch, self.in_features)

    @property
    def output_shape(self) -> tuple[int, ...]:
        return (self.batch, self.out_features)


def cpu_cases(quick: bool = False) -> list[Case]:
    if quick:
        return cases((Linear(784, 512, 128, s) for s in (0.8, 0.95)), ("forward", "step"))
    found = cases(Linear(*shape, sparsity) for shape in SHAPES for sparsity in SPARSITIES)
    high = (0.8, 0.9, 0.95, 0.98)
    for batch, dtype, sparsities in ((128, "bfloat16", (0.3, 0.5, *high)), (128, "float64", high)):
        found += cases((Linear(1024, 1024, batch, s, dtype) for s in sparsities), ("forward", "step"))
    found += cases((Linear(1024, 1024, 32, s, "bfloat16") for s in (0.3, 0.5, *high)), ("step",))
    return found + cases([Linear(16, 16, 1, 0.5)], ("step",))  # which is what the call of a layer costs


def crossover_cases(quick: bool = False) -> list[Case]:
    sizes = [(64, 8)] if quick else product(WIDTHS, BATCHES)
    return cases((Linear(w, w, batch, s) for (w, batch), s in product(sizes, MAP_SPARSITIES)), ("step",))


def gpu_cases(quick: bool = False) -> list[Case]:
    shapes = [(96, 160, 8)] if quick else GPU_SHAPES
    return cases((Linear(*shape, s, dtype) for dtype, shape, s in product(GPU_DTYPES, shapes, GPU_SPARSITIES)), GPU_OPS)
