"""The kernel that a layer of some density takes."""

from typing import Any

from sparsekern.nn.kernel_choice import Choice, conv_plan, linear_plan


def choose(rows: int, cols: int, density: float, **options: Any) -> Choice:
    return linear_plan(rows, cols, **options).at(density)


def choose_conv(
    out: int, channels: int, kernel_size: tuple[int, int], stride: tuple[int, int], density: float, **options: Any
) -> Choice:
    return conv_plan(out, channels, kernel_size, stride, **options).at(density)
