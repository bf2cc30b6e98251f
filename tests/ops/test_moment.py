"""The second moment of gradients, the signal-to-noise ratio and the scores that are made of them."""

from collections.abc import Callable

import pytest
import torch
from support import samples
from support.expected import expected, run
from torch import Tensor

from sparsekern import ops
from sparsekern.ops.snr_update import SNR_CAP, snr_update_reference

_ops = torch.ops.sparsekern
MOMENTS = ["gradient_moment", "conv2d_gradient_moment"]
NAMES = [*MOMENTS, "snr_update", "score_step"]
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 1e-5}


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_on_every_instruction_set(name: str, dtype: torch.dtype) -> None:
    for sample in samples.SAMPLES[name](dtype):
        results = run(getattr(_ops, name), sample, name)
        for actual, want in zip(results, expected(name, sample), strict=True):
            scale = float(want.abs().max()) if want.numel() else 1
            torch.testing.assert_close(
                actual.double(),
                want.double(),
                rtol=TOLERANCE[dtype],
                atol=TOLERANCE[dtype] * scale,
                msg=lambda message, s=sample: f"{s.name}: {message}",
            )
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        dtypes = [wide, wide, dtype] if name == "score_step" else [wide, wide]
        assert [result.dtype for result in results] == dtypes[: len(results)]


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


def snr(*per_sample: float) -> float:
    """Of the gradients of single samples; their shares of a mean loss are a B-th of them."""
    shares = torch.tensor(per_sample).div(len(per_sample))[:, None]
    ratio = torch.full((1,), torch.nan)
    ops.snr_update(ratio, shares.sum(0), shares.square().sum(0), len(per_sample), 0.9, True)
    return float(ratio)


@pytest.mark.usefixtures("isa")
def test_signal_to_noise_by_hand() -> None:
    assert snr(1, 2, 3) == pytest.approx(12)
    assert snr(0, 2) == pytest.approx(1)
    assert snr(0, 2) <= 1
    assert snr(1, -1) == snr(0, 0) == 0
    assert snr(3, 3, 3, 3) == snr(1e-18, 1e-18) == SNR_CAP
    assert snr(1e-18, 2e-18, 3e-18) == pytest.approx(12)
    assert snr(1, 1.0001) == SNR_CAP


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_whose_squares_underflow_are_noise(dtype: torch.dtype) -> None:
    """Where a network fits its data, shares of 1e-20 and less have squares that are lost: they would seem to agree."""
    smallest = torch.finfo(dtype).tiny ** 0.5
    for scale, snr_of in ((8 * smallest, 12.0), (smallest / 8, 0.0), (smallest * 1e-3, 0.0), (smallest * 1e-6, 0.0)):
        shares = torch.tensor([[1.0], [2.0], [3.0]], dtype=dtype) * scale
        for update in (ops.snr_update, snr_update_reference):
            ratio = torch.empty(1, dtype=dtype)
            update(ratio, shares.sum(0), shares.square().sum(0), 3, 0.0, True)
            assert ratio.item() == pytest.approx(snr_of, rel=1e-4)


@pytest.mark.parametrize("batch", [5, 8])
def test_mean_of_noise(batch: int) -> None:
    shares = torch.randn(batch, 400_000)
    ratio = torch.empty(400_000)
    ops.snr_update(ratio, shares.sum(0), shares.square().sum(0), batch, 0.0, True)
    assert float(ratio.mean()) == pytest.approx((batch - 1) / (batch - 3), rel=0.03)


def test_the_scale_of_the_loss_cancels() -> None:
    gradient, moment = torch.randn(50), 0.4 + torch.rand(50)
    ratios = [torch.empty(50) for _ in range(2)]
    ops.snr_update(ratios[0], gradient, moment, 16, 0.5, True)
    ops.snr_update(ratios[1], gradient * 2**14, moment * 2.0**28, 16, 0.5, True)
    assert torch.equal(*ratios)


def test_running_ratio_and_nan() -> None:
    ratio = torch.tensor([2.0, 2.0, 2.0])
    ops.snr_update(ratio, torch.tensor([6.0, 0.0, torch.nan]) / 3, torch.tensor([14.0, 1.0, 1.0]) / 9, 3, 0.75, False)
    torch.testing.assert_close(ratio, torch.tensor([0.75 * 2 + 0.25 * 12, 1.5, torch.nan]), equal_nan=True)


def test_a_layout_that_is_not_contiguous() -> None:
    gradient = torch.randn(4, 3, 2, 2).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(4, 3, 2, 2).contiguous(memory_format=torch.channels_last)
    moment, pattern = gradient.square() + 1, samples.Pattern(torch.rand(4, 12) < 0.5)
    ratio, plain = torch.empty(4, 3, 2, 2), torch.empty(4, 3, 2, 2)
    ops.snr_update(ratio, gradient, moment, 4, 0.0, True)
    ops.snr_update(plain, gradient.contiguous(), moment.contiguous(), 4, 0.0, True)
    assert torch.equal(ratio, plain)
    score, buffer, kept = torch.zeros(4, 3, 2, 2), torch.zeros(4, 3, 2, 2), gradient.clone()
    ops.score_step(score, buffer, kept, weight, pattern.row_ptr, pattern.col, lr=0.5, momentum=0.9)
    assert torch.equal(kept, gradient * pattern.mask.reshape(4, 3, 2, 2))
    torch.testing.assert_close(score, -0.5 * gradient * weight)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_score_step_is_sgd(momentum: float) -> None:
    p = samples.patterns()["odd widths"]
    weight = torch.randn(p.mask.shape, dtype=torch.double)
    score = torch.zeros_like(weight)
    theirs, buffer = torch.nn.Parameter(score.clone()), torch.zeros_like(weight)
    optimizer = torch.optim.SGD([theirs], momentum=momentum)
    for lr in (0.1, 0.03, 0.0):
        gradient = torch.randn_like(weight)
        theirs.grad = gradient * weight
        optimizer.param_groups[0]["lr"] = lr
        optimizer.step()
        ops.score_step(score, buffer, gradient, weight, p.row_ptr, p.col, lr=lr, momentum=momentum)
        assert not gradient[~p.mask].any()
        torch.testing.assert_close(score, theirs.detach())


def test_score_step_by_hand() -> None:
    """OptG, equation 10."""
    weight, gradient = torch.tensor([[1.0, -2, 3, 0.5]]), torch.tensor([[0.5, 0.5, -1, -2]])
    score, buffer = torch.zeros(1, 4), torch.zeros(1, 4)
    p = samples.Pattern(torch.tensor([[False, True, True, True]]))
    ops.score_step(score, buffer, gradient, weight, p.row_ptr, p.col, lr=0.1, momentum=0.9)
    torch.testing.assert_close(score, torch.tensor([[-0.05, 0.1, 0.3, 0.1]]))
    assert gradient.tolist() == [[0, 0.5, -1, -2]]


def _errors() -> dict[str, tuple[str, Callable[[], object]]]:
    d, x, image = torch.randn(4, 2), torch.randn(4, 3), torch.randn(2, 4, 5, 5)
    w = torch.randn(2, 3)
    row_ptr, col = torch.tensor([0, 1, 1], dtype=torch.int32), torch.tensor([2], dtype=torch.int32)

    def score(*changed: Tensor, row_ptr: Tensor = row_ptr) -> object:
        args = [*changed, *[w.clone() for _ in range(4 - len(changed))]]
        return ops.score_step(*args, row_ptr, col, lr=0.1, momentum=0.9)  # type: ignore[misc]

    return {
        "no batch": ("with a batch dimension", lambda: ops.gradient_moment(d[0], x[0])),
        "leading": ("same leading dimensions", lambda: ops.gradient_moment(d[:3], x)),
        "dtypes": ("one floating-point dtype", lambda: ops.gradient_moment(d.double(), x)),
        "image": (
            r"must be torch.float32 \(2, 4, 3, 3\)",
            lambda: ops.conv2d_gradient_moment(image, image, kernel_size=3),
        ),
        "groups": ("divisible by 3", lambda: ops.conv2d_gradient_moment(image, image, kernel_size=1, groups=3)),
        "one sample": ("2 or more samples, got 1", lambda: ops.snr_update(w, w, w, 1, 0.5, True)),
        "decay": (r"decay must be in \[0, 1\], got 2", lambda: ops.snr_update(w, w, w, 2, 2, True)),
        "ratio dtype": ("float32 or float64", lambda: ops.snr_update(w.bfloat16(), w, w, 2, 0.5, True)),
        "ratio layout": ("contiguous", lambda: ops.snr_update(w.t(), w.t(), w.t(), 2, 0.5, True)),
        "moment dtype": ("dtype torch.float32 of ratio", lambda: ops.snr_update(w, w, w.double(), 2, 0.5, True)),
        "gradient shape": (r"\(2, 3\), got torch.float32 \(4, 3\)", lambda: ops.snr_update(w, x, w, 2, 0.5, True)),
        "buffer": ("momentum_buffer must be contiguous", lambda: score(w, w.double())),
        "weight": ("dtype torch.float64 of gradient", lambda: score(w, w, w.double())),
        "row_ptr": ("row_ptr must have 3 elements, got 2", lambda: score(row_ptr=row_ptr[:2])),
    }


@pytest.mark.parametrize("case", _errors())
def test_refuses(case: str) -> None:
    message, call = _errors()[case]
    with pytest.raises(ValueError, match=message):
        call()
