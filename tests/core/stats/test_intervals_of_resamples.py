"""Intervals from resamples: percentiles, farther out, and no nearer than what is unseen may be."""

import math

import pytest
import torch

from saekit.core.stats.resamples import interval


def resampled(values, n_draws=20_000):
    n, chance = len(values), torch.Generator().manual_seed(0)
    which = torch.randint(n, (n_draws, n), generator=chance)
    return torch.cat([values.mean()[None], values[which].mean(1)])


def test_of_normal_units_it_is_student_s_interval():
    stats = pytest.importorskip("scipy.stats")
    values = torch.from_numpy(stats.norm.ppf([(i + 0.5) / 16 for i in range(16)]))
    low, high = interval(resampled(values), 16)
    half = float(stats.t.ppf(0.975, 15) * values.std() / 4)
    assert (low, high) == pytest.approx((-half, half), rel=0.05)
    fewer = interval(resampled(values), 16, freedom=7)
    assert fewer is not None and fewer[1] / half == pytest.approx(
        float(stats.t.ppf(0.975, 7) / stats.t.ppf(0.975, 15)), rel=0.05
    )


def test_what_never_happened_may_happen_in_3_of_n():
    every = resampled(torch.ones(300).double(), 200)
    assert interval(every, 300, (0.0, 1.0)) == pytest.approx((0.99, 1.0))
    # A difference of 0 may be one of either sign; with more trials a unit it is nearer.
    assert interval(0 * every, 300, (-1.0, 1.0)) == pytest.approx((-0.01, 0.01))
    assert interval(0 * every, 300, (-1.0, 1.0), 1200) == pytest.approx((-0.0025, 0.0025))
    # By the binomial, a share that hides with a chance of 5 % in 300 is about 1 %.
    assert pytest.approx(0.01, rel=0.02) == 1 - 0.05 ** (1 / 300)


def test_it_stays_inside_the_range_and_holds_its_value():
    values = torch.zeros(9).double()
    values[0] = 1
    low, high = interval(resampled(values), 9, (0.0, 1.0))
    assert low == 0 and 1 / 9 + 3 / 9 * 8 / 9 <= high < 1
    moved = torch.tensor([0.5, *[0.6] * 30]).double()  # resamples that are all above the value
    low, high = interval(moved, 20)
    assert low == 0.5 and high == pytest.approx(0.6)


def test_why_there_is_none():
    every = resampled(torch.rand(30).double(), 50)
    assert "fewer than 8" in interval(every, 7)
    assert "n_draws=0" in interval(every[:1], 30)
    assert "all 30 come out alike" in interval(torch.zeros(9).double(), 30)
    lost = torch.tensor([0.5, math.nan, 0.4, 0.6]).double()
    assert interval(lost, 20) == pytest.approx((0.4, 0.6), abs=0.01)
