"""Generated patterns and scores through the operators that move and select: their results are exact."""

import random
from unittest.mock import patch

import torch
from support import samples
from support.expected import expected, run
from support.patterns import Pattern

from .settings import ISAS, THREADS, running

OPERATORS = (*samples.INDICES, "expand", "expand_bits", "collect", "topk_mask", "topk_bits", "kth_largest")


def pattern(r: random.Random) -> Pattern:
    rows, cols = (r.choice([1, r.randint(2, 9), r.randint(60, 70), r.randint(120, 200)]) for _ in range(2))
    mask = torch.rand(rows, cols) < r.choice([0.0, 0.01, 0.1, 0.5, 2.0])
    if r.random() < 0.3:
        mask[torch.rand(rows) < 0.5] = False
    return Pattern(mask, slack=r.choice([0, 0, 1, 7]))


def check(seed: int) -> None:
    r = random.Random(seed)
    torch.manual_seed(seed)
    name, isa, threads = r.choice(OPERATORS), r.choice(ISAS), r.choice(THREADS)
    dtype, generated = r.choice(samples.DTYPES[name]), pattern(r)
    with running(isa, threads), patch.object(samples, "patterns", lambda: {"generated": generated}):
        for sample in samples.SAMPLES[name](dtype):
            told = f"{name} of {dtype}, {tuple(generated.mask.shape)} {isa} {threads} threads: {sample.name}"
            got = run(getattr(torch.ops.sparsekern, name), sample, name)
            for a, b in zip(got, expected(name, sample), strict=True):
                assert a.shape == b.shape, f"{told}: {tuple(a.shape)} instead of {tuple(b.shape)}"
                assert torch.equal(a, b.to(a.dtype)), told
