"""Compiled loops alone: places as PyTorch finds them, whatever the sizes, threads and numbers."""

import numpy as np
import pytest
import torch

pytest.importorskip("numba")
from saekit.kernels import native


@pytest.fixture(params=[1, 3])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("d_sae", [31, 32, 100, 1000, 2077])
@pytest.mark.parametrize("by_size", [False, True])
def test_candidates_hold_all_that_may_be_among_the_largest(threads, d_sae, by_size):
    scores = torch.randn(50, d_sae).bfloat16()
    margin, k = torch.rand(50), 2
    found, counts = torch.empty(50, d_sae + 64, dtype=torch.int32), torch.empty(50).long()
    native.top_candidates(scores, margin, k, by_size, found, counts)
    sizes = scores.float().abs() if by_size else scores.float()
    least = sizes.topk(k).values[:, -1:] - margin[:, None]
    for r in range(50):
        got = found[r, : counts[r]].tolist()
        assert got == sorted(set(got))
        assert set((sizes[r] >= least[r]).nonzero().flatten().tolist()) <= set(got)
        wide = sizes[r] >= least[r] - 0.02 * (1 + sizes[r].abs().max())
        assert set(got) <= set(wide.nonzero().flatten().tolist())


@pytest.mark.parametrize("wrong", [float("nan"), -float("nan"), float("inf")])
def test_rows_that_are_no_numbers_are_given_back(wrong):
    scores, margin = torch.randn(4, 256).bfloat16(), torch.zeros(4)
    scores[1] = wrong
    margin[1] = wrong * 0
    scores[2, 7] = float("inf")
    found, counts = torch.empty(4, 320, dtype=torch.int32), torch.empty(4).long()
    native.top_candidates(scores, margin, 3, False, found, counts)
    assert counts[1] == counts[2] == -1
    assert counts[0] >= 3
    assert counts[3] >= 3


def test_rounding_is_that_of_pytorch(threads):
    rows = torch.randn(70, 45) * torch.randn(70, 1).exp()
    rows[3, 4], rows[5, 6], rows[7] = float("nan"), -float("inf"), 0
    low, (size, kept, lost) = native.rounded(rows)
    torch.testing.assert_close(low, rows.bfloat16(), rtol=0, atol=0, equal_nan=True)
    back = low.float()
    torch.testing.assert_close(size, rows.norm(dim=-1), equal_nan=True)
    torch.testing.assert_close(kept, back.norm(dim=-1), equal_nan=True)
    torch.testing.assert_close(lost, (back - rows).norm(dim=-1), equal_nan=True)


def test_the_order_by_latent_is_stable(threads):
    starts = torch.tensor([0, 4, 4, 9, 40, 300])
    latents = torch.randint(0, 7, (300,))
    order, tokens, ends = native.sorted_by_latent(latents, starts, 9)
    want = torch.sort(latents, stable=True)
    assert torch.equal(order, want.indices)
    assert torch.equal(latents[order], want.values)
    assert torch.equal(tokens, torch.repeat_interleave(torch.arange(5), starts.diff())[order])
    assert ends.tolist() == [0, *torch.bincount(latents, minlength=9).cumsum(0).tolist()]


@pytest.mark.parametrize("by_size", [False, True])
def test_of_equal_values_the_earlier_are_taken(threads, by_size):
    starts = torch.tensor([0, 5, 11, 200])
    values = torch.randint(-3, 4, (200,)).float()
    values[6], values[7] = 0.0, -0.0
    got = native.top_of_rows(values, starts, 4, by_size=by_size)
    sizes = values.abs() if by_size else values
    for r in range(3):
        row = sizes[starts[r] : starts[r + 1]]
        want = torch.sort(row, descending=True, stable=True).indices[:4].sort().values
        assert torch.equal(got[r], want + starts[r])


@pytest.mark.parametrize("length", [5, 32, 45, 320])
@pytest.mark.parametrize("high", [-20000, 0, 32000])
def test_the_kth_largest_key_is_that_of_a_sort_whatever_its_sign(length, high):
    chance = np.random.default_rng(length)
    for _ in range(20):
        keys = chance.integers(-32768, high, length).astype(np.int16)
        k = int(chance.integers(1, length + 1))
        assert native._kth_largest(keys, k) == np.sort(keys)[::-1][k - 1]


def test_mostly_negative_scores_leave_few_candidates():
    """As pre-activations under low biases are, or those of dead latents."""
    scores = (torch.randn(50, 2048) - 6).bfloat16()
    found, counts = torch.empty(50, 8 * 32 + 64, dtype=torch.int32), torch.empty(50).long()
    native.top_candidates(scores, torch.full((50,), 0.01), 32, False, found, counts)
    assert (counts >= 32).all()
