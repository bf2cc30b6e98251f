"""The second moment of gradients."""

from collections.abc import Callable

import pytest
import torch
from support import samples
from support.expected import expected, run
from torch import Tensor

from sparsekern import ops

MOMENTS = ["gradient_moment", "conv2d_gradient_moment"]
_ops = torch.ops.sparsekern


def big_moment() -> list[samples.Sample]:
    shapes = [((3, 60, 30), (3, 60, 100)), ((200, 70), (200, 90))]
    return [
        samples.Sample("big", tuple(torch.randn(s) for s in pair), samples.Pattern(torch.ones(1, 1))) for pair in shapes
    ]


@pytest.mark.parametrize("name", MOMENTS)
def test_threads_do_not_matter(name: str, threads: Callable[[int], None]) -> None:
    for sample in [*samples.SAMPLES[name](torch.float32), *(big_moment() if name == "gradient_moment" else [])]:
        results = []
        for n in (1, 2, 5) if ops.extension else (1,):  # products of PyTorch depend on them
            threads(n)
            results.append(run(getattr(_ops, name), sample, name))
        for other in results[1:]:
            assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True)), sample.name


@pytest.mark.usefixtures("isa")
def test_samples_that_are_packed_in_parts() -> None:
    """Images and sequences whose packed form exceeds what is packed at once."""
    generator = torch.Generator().manual_seed(0)

    def integers(*shape: int) -> Tensor:  # whose sums are exact in any order
        return torch.randint(-1, 2, shape, generator=generator).float()

    delta, h = integers(2, 260_000, 9), integers(2, 260_000, 17)
    parts = [d.t() @ x for d, x in zip(delta.double(), h.double(), strict=True)]
    gradient, moment = ops.gradient_moment(delta, h)
    assert torch.equal(gradient.double(), parts[0] + parts[1])
    torch.testing.assert_close(moment.double(), parts[0] ** 2 + parts[1] ** 2, rtol=1e-6, atol=0)
    for size in ((700, 800), (3, 200_001)):
        x, delta = integers(2, 17, *size), integers(2, 5, *size)
        window = ([3, 1], [1, 1], [1, 1, 0, 0], [1, 1], 1)
        sample = samples.Sample("large", (delta, x, *window), samples.Pattern(torch.ones(1, 1)))
        actual, wanted = (
            ops.conv2d_gradient_moment(delta, x, kernel_size=(3, 1), padding=(1, 0)),
            expected(MOMENTS[1], sample),
        )
        assert torch.equal(actual[0].double(), wanted[0])
        torch.testing.assert_close(actual[1].double(), wanted[1], rtol=1e-6, atol=0)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_positions_are_summed_before_squaring(dtype: torch.dtype) -> None:
    h, delta = torch.tensor([[[1.0], [1.0]]], dtype=dtype), torch.tensor([[[1.0], [-1.0]]], dtype=dtype)
    for gradient, moment in (
        ops.gradient_moment(delta, h),
        ops.conv2d_gradient_moment(delta.reshape(1, 1, 1, 2), h.reshape(1, 1, 1, 2), kernel_size=1),
    ):
        assert gradient.flatten().tolist() == moment.flatten().tolist() == [0.0]
        assert moment.dtype == torch.float32


def _errors() -> dict[str, tuple[str, Callable[[], object]]]:
    d, x, image = torch.randn(4, 2), torch.randn(4, 3), torch.randn(2, 4, 5, 5)
    return {
        "no batch": ("with a batch dimension", lambda: ops.gradient_moment(d[0], x[0])),
        "leading": ("same leading dimensions", lambda: ops.gradient_moment(d[:3], x)),
        "dtypes": ("one floating-point dtype", lambda: ops.gradient_moment(d.double(), x)),
        "image": (
            r"must be torch.float32 \(2, 4, 3, 3\)",
            lambda: ops.conv2d_gradient_moment(image, image, kernel_size=3),
        ),
        "groups": ("divisible by 3", lambda: ops.conv2d_gradient_moment(image, image, kernel_size=1, groups=3)),
    }


@pytest.mark.parametrize("case", _errors())
def test_refuses(case: str) -> None:
    message, call = _errors()[case]
    with pytest.raises(ValueError, match=message):
        call()
