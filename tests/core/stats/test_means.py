import pytest
import torch

from saekit.core.stats.means import LEAST_UNITS, half_width, mean_interval, median_interval


@pytest.mark.parametrize("n", [8, 12, 40])
def test_intervals_cover_as_they_say(n):
    hits = 0
    for seed in range(400):
        x = torch.randn(n, generator=torch.Generator().manual_seed(seed)) + 3
        _, low, high = mean_interval(x)
        hits += bool(low <= 3 <= high)
    assert 0.92 <= hits / 400 <= 0.98


@pytest.mark.parametrize("n", range(2, LEAST_UNITS))
def test_fewer_units_give_no_interval(n):
    mean, low, high = mean_interval(torch.randn(n))
    assert not mean.isnan() and low.isnan() and high.isnan()
    assert half_width(1.0, n) != half_width(1.0, n)  # NaN


def test_positive_values_that_are_skewed_are_covered_on_their_own_scale():
    hits = {True: 0, False: 0}
    for seed in range(400):
        g = torch.Generator().manual_seed(seed)
        x = torch.empty(10, dtype=torch.float64).exponential_(1.0, generator=g)
        for positive in hits:
            _, low, high = mean_interval(x, positive=positive)
            hits[positive] += bool(low <= 1 <= high)
    assert hits[True] > hits[False] and hits[True] / 400 >= 0.92


def test_groups_are_left_out_whole():
    # 20 groups of 50 copies: an interval over events would be 7 times too narrow.
    g = torch.Generator().manual_seed(0)
    values = torch.randn(20, generator=g).repeat_interleave(50)
    groups = torch.arange(20).repeat_interleave(50) * 3
    _, low, high = mean_interval(values, groups)
    _, alone_low, alone_high = mean_interval(values)
    assert (high - low) > 5 * (alone_high - alone_low)


def test_columns_leave_out_what_is_not_known():
    values = torch.randn(9, 2, generator=torch.Generator().manual_seed(0))
    values[0, 1] = torch.nan
    mean, low, high = mean_interval(values)
    assert mean[1] == pytest.approx(float(values[1:, 1].mean()), rel=1e-6)
    assert (low <= mean).all() and (mean <= high).all()
    values[1, 1] = torch.nan  # 7 are left in that column
    _, low, _ = mean_interval(values)
    assert not low[0].isnan() and low[1].isnan()


def test_half_of_the_width_is_that_of_the_mean():
    x = torch.randn(50, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    mean, low, _ = mean_interval(x)
    assert half_width(float(x.std(correction=0)), 50) == pytest.approx(float(mean - low))


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
