"""Weighted draws of inactive coordinates: their law, and what no set may hold."""

import pytest
import torch
from support import samples
from support.devices import moved
from support.laws import chi_square, chi_square_bound, successive_law
from support.samples import Pattern

from sparsekern import ops


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_guided_sample_draws_successively(n: int, device: str) -> None:
    mask = torch.tensor([[False, True, False, False], [False, False, True, False]])
    row_ptr, index = moved((Pattern(mask).row_ptr, Pattern(mask).col), device)
    row, col = torch.tensor([1.0, 3.0], device=device), torch.tensor([4.0, 1.0, 2.0, 0.7], device=device)
    flat = (row[:, None] * col).flatten()
    law = successive_law({i: float(flat[i]) for i in (~mask).flatten().nonzero().flatten().tolist()}, n)
    counts: dict[tuple, int] = {}
    for seed in range(4000):
        chosen, rest = ops.guided_sample(row, col, row_ptr, index, n, seed)
        counts[tuple(chosen.tolist())] = counts.get(tuple(chosen.tolist()), 0) + 1
        assert rest == 0
    assert chi_square(counts, law) < chi_square_bound(len(law) - 1)
    even = dict.fromkeys(law, 1 / len(law))
    assert chi_square(counts, even) > chi_square_bound(len(law) - 1), "the test could not tell laws apart"


def test_guided_sample_fills_uniformly_beyond_the_support() -> None:
    p = Pattern(torch.tensor([[False, True, False], [False, False, True]]))
    counts: dict[tuple, int] = {}
    for seed in range(2000):
        chosen, rest = ops.guided_sample(torch.tensor([1.0, 0.0]), torch.ones(3), p.row_ptr, p.col, 3, seed)
        assert rest == 1
        counts[tuple(chosen.tolist())] = counts.get(tuple(chosen.tolist()), 0) + 1
    assert chi_square(counts, {(0, 2, 3): 0.5, (0, 2, 4): 0.5}) < chi_square_bound(1)


def test_guided_sample_gives_up_on_hopeless_weights(device: str) -> None:
    """Weights that span 1e-15: 32 rounds find what is likely, chance the rest."""
    p = Pattern(torch.rand(20, 20) < 0.3)
    row = torch.full((20,), 1e-15)
    row[3] = 1
    n = int((~p.mask).sum()) // 2
    chosen, rest = ops.guided_sample(*moved((row, torch.ones(20), p.row_ptr, p.col), device), n, 0)
    likely = int((~p.mask[3]).sum())
    assert n - likely <= int(rest) < n
    assert int(((chosen >= 60) & (chosen < 80)).sum()) > likely / 2
    assert chosen.unique().numel() == n


@pytest.mark.parametrize("dtype", samples.DTYPES["guided_sample"], ids=str)
def test_guided_sample_is_distinct_and_inactive(dtype: torch.dtype, device: str) -> None:
    for sample in samples.guided_sample(dtype):
        row, col, *_, n, _ = sample.args
        chosen, rest = (result.cpu() for result in ops.guided_sample(*moved(sample.args, device)))
        positive = (row.double()[:, None] * col.double()).flatten() > 0
        assert chosen.shape == (n,)
        assert bool((chosen[1:] > chosen[:-1]).all()), sample.name
        assert not sample.pattern.mask.flatten()[chosen].any(), sample.name
        assert int((~positive[chosen]).sum()) <= int(rest) <= n, sample.name
        if "random" in sample.name and n <= int((~sample.pattern.mask).sum()) // 2:
            assert int(rest) == 0, sample.name


def test_guided_sample_scale_does_not_matter() -> None:
    p = Pattern(torch.rand(20, 30) < 0.3)
    row, col = torch.rand(20, dtype=torch.float64), torch.rand(30, dtype=torch.float64)
    chosen, _ = ops.guided_sample(row, col, p.row_ptr, p.col, 50, 3)
    for scale in (2.0**-900, 2.0**900):
        assert torch.equal(ops.guided_sample(row * scale, col * scale, p.row_ptr, p.col, 50, 3)[0], chosen)
    assert not torch.equal(ops.guided_sample(row, col, p.row_ptr, p.col, 50, 4)[0], chosen)


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_draws_within_groups_follow_the_product_of_the_weights(groups: int, device: str) -> None:
    rows, cols, draws = 6, 4, 4000
    row_weight, col_weight = torch.rand(rows), torch.rand(groups, cols)
    row_weight[0] = col_weight[0, 3] = 0
    col_weight[-1] *= 20
    mask = torch.rand(rows, cols) < 0.25
    row_ptr, col = moved(ops.compress(mask.flatten().nonzero().flatten(), rows, cols), device)
    law = (row_weight[:, None] * col_weight.repeat_interleave(rows // groups, 0) * ~mask).flatten().double()
    expected = draws * law / law.sum()
    count = torch.zeros(rows * cols, dtype=torch.double)
    row_weight, col_weight = moved((row_weight, col_weight), device)
    for seed in range(draws):
        count[ops.guided_sample(row_weight, col_weight, row_ptr, col, 1, seed)[0].cpu()] += 1
    assert not count[law == 0].any()
    possible = law > 0
    chi2 = ((count - expected)[possible].square() / expected[possible]).sum()
    assert float(chi2) < 45  # 99.9 % of a chi-squared distribution with 20 degrees of freedom
    for n in (0, 3, int(possible.sum()), int((~mask).sum())):
        chosen, rest = (result.cpu() for result in ops.guided_sample(row_weight, col_weight, row_ptr, col, n, 5))
        assert chosen.numel() == n
        assert bool((chosen.diff() > 0).all())
        assert not mask.flatten()[chosen].any()
        assert int(rest) == max(0, n - int(possible.sum()))
    if groups == 1:
        alone = ops.guided_sample(row_weight, col_weight[0], row_ptr, col, 3, 5)[0]
        assert torch.equal(alone, ops.guided_sample(row_weight, col_weight, row_ptr, col, 3, 5)[0])


def test_groups_must_divide_the_rows() -> None:
    row_ptr, col = ops.compress(torch.arange(3), 4, 3)
    with pytest.raises(ValueError, match="3 groups, which do not divide 4 rows"):
        ops.guided_sample(torch.ones(4), torch.ones(3, 3), row_ptr, col, 1, 0)
