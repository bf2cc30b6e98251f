"""The running signal-to-noise ratio of gradients."""

from collections.abc import Callable

import pytest
import torch

from sparsekern import ops
from sparsekern.ops.snr_update import SNR_CAP, snr_update_reference


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
    moment = gradient.square() + 1
    ratio, plain = torch.empty(4, 3, 2, 2), torch.empty(4, 3, 2, 2)
    ops.snr_update(ratio, gradient, moment, 4, 0.0, True)
    ops.snr_update(plain, gradient.contiguous(), moment.contiguous(), 4, 0.0, True)
    assert torch.equal(ratio, plain)


def _errors() -> dict[str, tuple[str, Callable[[], object]]]:
    x, w = torch.randn(4, 3), torch.randn(2, 3)
    return {
        "one sample": ("2 or more samples, got 1", lambda: ops.snr_update(w, w, w, 1, 0.5, True)),
        "decay": (r"decay must be in \[0, 1\], got 2", lambda: ops.snr_update(w, w, w, 2, 2, True)),
        "ratio dtype": ("float32 or float64", lambda: ops.snr_update(w.bfloat16(), w, w, 2, 0.5, True)),
        "ratio layout": ("contiguous", lambda: ops.snr_update(w.t(), w.t(), w.t(), 2, 0.5, True)),
        "moment dtype": ("dtype torch.float32 of ratio", lambda: ops.snr_update(w, w, w.double(), 2, 0.5, True)),
        "gradient shape": (r"\(2, 3\), got torch.float32 \(4, 3\)", lambda: ops.snr_update(w, x, w, 2, 0.5, True)),
    }


@pytest.mark.parametrize("case", _errors())
def test_refuses(case: str) -> None:
    message, call = _errors()[case]
    with pytest.raises(ValueError, match=message):
        call()
