import math

import pytest
import torch

from saekit.core.stats.blocks import effective_count, spread_count
from saekit.core.stats.jackknife import jackknife
from saekit.core.stats.student import t_quantile


@pytest.mark.parametrize("sizes", [torch.ones(7), torch.full((30,), 400.0)])
def test_units_of_one_size_count_as_they_are(sizes):
    assert spread_count(sizes) == pytest.approx(len(sizes))
    assert effective_count(sizes) == pytest.approx(len(sizes))


def test_few_long_units_say_less_of_the_spread_than_of_the_mean():
    # Two of size 3 and twelve of size 1: sums of squares 30, of fourth powers 174.
    sizes = torch.tensor([3.0] * 2 + [1.0] * 12)
    assert effective_count(sizes) == pytest.approx(18**2 / 30)
    assert spread_count(sizes) == pytest.approx(30**2 / 174)
    assert spread_count(torch.zeros(0)) == 0


def test_uneven_units_have_the_degrees_of_freedom_of_their_squares():
    g = torch.Generator().manual_seed(0)
    sizes = torch.tensor([3.0] * 2 + [1.0] * 12).double()
    without = torch.randn(14, dtype=torch.float64, generator=g)
    error = math.sqrt(float((without - without.mean()).square().sum()) * 13 / 14)
    low, high = jackknife(0.0, without, sizes)
    assert high - low == pytest.approx(2 * t_quantile(900 / 174 - 1) * error)


def test_the_ends_undo_halls_transformation_of_the_skew():
    away = torch.tensor([-1.0] * 16 + [1.0] * 4 + [4.0] * 3, dtype=torch.float64)
    assert float(away.sum()) == 0
    low, high = jackknife(0.0, -away, skewed=True)
    error = math.sqrt(float(away.square().sum()) * 22 / 23)
    k = float(away.pow(3).sum()) / float(away.square().sum()) ** 1.5
    for end, wanted in ((-low / error, 2.0738731), (-high / error, -2.0738731)):  # t of 22
        g = end + k * end**2 / 3 + k**2 * end**3 / 27 + k / 6
        assert g == pytest.approx(wanted, rel=1e-6)
    assert high > -low


def test_long_documents_that_differ_miss_the_truth_on_both_sides():
    """Without their skew the interval lies below the truth in 11 % of texts, above it in 0.4 %."""
    below = above = 0
    truth = 10 + (64 + 16 * 325 + 2 * 325**2) / 333**2
    for seed in range(500):
        g = torch.Generator().manual_seed(seed)
        sizes = 8 + torch.empty(60, dtype=torch.float64).exponential_(1 / 325, generator=g)
        noise = 0.3 * torch.randn(60, dtype=torch.float64, generator=g)
        sums = sizes * (10 + noise + sizes / 333)
        without = (sums.sum() - sums) / (sizes.sum() - sizes)
        ends = jackknife(float(sums.sum() / sizes.sum()), without, sizes, "log", skewed=True)
        below, above = below + (ends.high < truth), above + (ends.low > truth)
    assert below / 500 <= 0.045 and above / 500 <= 0.045
