"""Launches kernels with one of a few configurations, the first unless another was measured to be faster."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cache
from importlib import resources
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

Grid = Callable[[dict[str, int]], tuple[int, ...]]


class Config(NamedTuple):
    """Constants of a kernel that only matter to its speed."""

    blocks: dict[str, int]
    warps: int = 4
    stages: int = 3


class Launch(NamedTuple):
    """A launch that was recorded in place of being made."""

    kernel: Any
    arguments: tuple
    constants: dict[str, Any]
    configs: Sequence[Config]


_recording: list[Launch] | None = None
_tuning: dict[str, dict[str, int]] | None = None


def launch(
    kernel: Any,
    grid: Grid,
    *arguments: Tensor | float | None,
    configs: Sequence[Config],
    sizes: Sequence[int] = (),
    **constants: Any,
) -> None:
    """Runs `kernel(*arguments, **constants, **blocks)` with the blocks of one of `configs`.

    Args:
        grid: how many programs, given the blocks; nothing is launched where that is none.
        sizes: numbers on whose magnitude the fastest configuration depends: extents, never a count of nonzeros.
    """
    if _recording is not None:
        _recording.append(Launch(kernel, arguments, constants, configs))
        return
    device = next(a.device for a in arguments if isinstance(a, Tensor))
    # Triton launches on the current device, whatever the tensors are on.
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        config = (
            configs[0] if len(configs) == 1 else configs[_chosen(kernel, grid, arguments, configs, sizes, constants)]
        )
        _run(kernel, grid, arguments, config, constants)


def precision(convolution: bool = False) -> str:
    """Returns how matrix units may round fp32 operands: "tf32" where PyTorch's own products may, else "ieee"."""
    allowed = torch.backends.cudnn.conv if convolution else torch.backends.cuda.matmul
    return "tf32" if allowed.fp32_precision == "tf32" else "ieee"


def exact(allowed: str) -> str:
    """Returns the precision of sums that are compared with each other: fp32 by three products of TF32 where these are
    allowed. A weight that a single sample moves then has a moment that is the square of its gradient."""
    return "tf32x3" if allowed == "tf32" else allowed


@contextmanager
def recorded() -> Iterator[list[Launch]]:
    """Collects launches instead of running them. Arguments may then be meta tensors."""
    global _recording
    _recording = launches = []
    try:
        yield launches
    finally:
        _recording = None


@contextmanager
def tuning(found: dict[str, dict[str, int]] | None = None) -> Iterator[dict[str, dict[str, int]]]:
    """Measures every configuration at the first launch of a kernel with new sizes, and takes the fastest from then on.
    Kernels run many times on the arguments of that launch.

    Args:
        found: an entry of configurations.json, which is added to; what it has is not measured again.

    Yields:
        The entry.
    """
    global _tuning
    _tuning = {} if found is None else found
    try:
        yield _tuning
    finally:
        _tuning = None


def _run(kernel: Any, grid: Grid, arguments: tuple, config: Config, constants: dict) -> None:
    programs = grid(config.blocks)
    if all(programs):
        options = {"num_warps": config.warps, "num_stages": config.stages}
        kernel[programs](*arguments, **constants, **config.blocks, **options)


def _chosen(
    kernel: Any, grid: Grid, arguments: tuple, configs: Sequence[Config], sizes: Sequence[int], constants: dict
) -> int:
    """Chooses a configuration, by its place in the list."""
    device = next(a.device for a in arguments if isinstance(a, Tensor))
    if device.type != "cuda":
        return 0
    dtype = next(str(a.dtype).removeprefix("torch.") for a in arguments if isinstance(a, Tensor))
    rounded = constants.get("PRECISION", "ieee")
    parts = [dtype, *([rounded] if rounded != "ieee" else []), *(str(size.bit_length()) for size in sizes)]
    key, name = "-".join(parts), f"{kernel.fn.__module__.rpartition('.')[2]}.{kernel.fn.__name__}"
    if _tuning is not None and key not in _tuning.setdefault(name, {}):
        times = [
            triton.testing.do_bench(lambda c=config: _run(kernel, grid, arguments, c, constants)) for config in configs
        ]
        _tuning[name][key] = times.index(min(times))
    table = _tuning if _tuning is not None else configurations().get(torch.cuda.get_device_name(device), {})
    return min(table.get(name, {}).get(key, 0), len(configs) - 1)


@cache
def configurations() -> dict[str, dict[str, dict[str, int]]]:
    """The configurations that were measured to be the fastest: of a card, of a kernel, by dtype and magnitudes."""
    return json.loads(resources.files("sparsekern.ops.triton").joinpath("configurations.json").read_text())
