import pytest
import torch

from saekit.locality.resampling import mean_interval, median_interval


def test_intervals_cover_as_they_say():
    hits = 0
    for seed in range(200):
        x = torch.randn(40, generator=torch.Generator().manual_seed(seed)) + 3
        _, low, high = mean_interval(x, seed=seed, resamples=400)
        hits += bool(low <= 3 <= high)
    assert 0.89 < hits / 200 < 0.985


def test_groups_are_drawn_whole():
    # 20 groups of 50 copies: an interval over events would be 7 times too narrow.
    g = torch.Generator().manual_seed(0)
    values = torch.randn(20, generator=g).repeat_interleave(50)
    groups = torch.arange(20).repeat_interleave(50) * 3
    _, low, high = mean_interval(values, groups)
    _, alone_low, alone_high = mean_interval(values)
    assert (high - low) > 5 * (alone_high - alone_low)


def test_columns_leave_out_what_is_not_known():
    values = torch.tensor([[1.0, torch.nan], [3.0, 5.0], [5.0, 7.0]])
    mean, low, high = mean_interval(values)
    assert mean.tolist() == [3.0, 6.0]
    assert (low <= mean).all() and (mean <= high).all()
    mean, low, _ = mean_interval(values[:1])
    assert float(mean[0]) == pytest.approx(1.0) and low.isnan().all()


def test_a_median_has_the_ranks_of_the_binomial():
    """Ranks by hand: of 6 the ends, P(B < 1) = 1/64; of 100 the 40th and 61st; of 5 none."""
    for n, rank in ((6, 1), (20, 6), (100, 40)):
        values = torch.arange(1.0, n + 1).flip(0)
        assert median_interval(values) == ((n + 1) / 2, rank, n + 1 - rank)
    middle, low, high = median_interval(torch.tensor([3.0, 1, 2, 5, 4]))
    assert middle == 3 and low != low and high != high
    draws = torch.randn(400, 31, generator=torch.Generator().manual_seed(0))
    ends = [median_interval(row)[1:] for row in draws]
    assert 0.95 <= sum(low <= 0 <= high for low, high in ends) / 400 <= 0.99
