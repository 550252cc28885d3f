"""Means, shares and orders that commands print: against numbers worked out by hand."""

import math

import pytest
import torch

from saekit.core.stats import plain, summaries


def test_mean_and_deviation():
    assert plain.mean([1.0, 2.0, 6.0]) == 3.0  # not the median, not the largest
    assert math.isnan(plain.mean([]))
    assert plain.deviation([1.0, 2.0, 6.0]) == pytest.approx(math.sqrt(14 / 3))
    assert plain.deviation([1.0, 2.0, 6.0], sample=True) == pytest.approx(math.sqrt(14 / 2))
    assert plain.deviation([5.0]) == 0 and math.isnan(plain.deviation([]))
    assert math.isnan(plain.deviation([5.0], sample=True))


def test_share_and_standard_error():
    assert plain.share(3, 12) == 0.25 and plain.share(0, 0) == 0.0
    assert plain.standard_error(6.0, 9) == 2.0 and math.isnan(plain.standard_error(1.0, 0))


def test_order_of_means():
    found = {4: [-1.0, 9.0], 2: [5.0, 5.0], 7: [], 1: [4.0], 3: [-8.0, 2.0]}
    # By the mean, not the largest (4 has 9) or the sum; ties by key; the empty one last.
    assert plain.by_mean(found) == [3, 1, 4, 2, 7]


def test_middle():
    assert plain.middle([1, 2, 9]) == [2] and plain.middle([1, 2, 3, 4]) == [3]
    assert plain.middle([]) == []


def test_quartiles():
    values = torch.tensor([9.0, 1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    assert summaries.quartiles(values).tolist() == [2.0, 3.0, 4.0]
    both = torch.stack([values, 10 * values], 1)
    assert summaries.quartiles(both).tolist() == [[2.0, 20.0], [3.0, 30.0], [4.0, 40.0]]


def test_means_of_equal_bins():
    x = torch.tensor([1.0, 2.0, 3.0, 10.0, 20.0, 60.0])
    y = torch.tensor([0.0, 6.0, 3.0, 1.0, 2.0, 9.0])
    assert summaries.equal_bins(x, y, 2) == ([2.0, 30.0], [3.0, 4.0])
    same = torch.ones(4)
    assert summaries.equal_bins(same, same, 3) == ([1.0], [1.0])  # empty bins are left out


def test_points_within_one():
    points = summaries.within_unit(torch.tensor([[0.0, 0.0], [8.0, 2.0], [4.0, 1.0]]))
    assert points.tolist() == [[-1.0, -0.25], [1.0, 0.25], [0.0, 0.0]]
    assert summaries.within_unit(torch.ones(2, 2)).tolist() == [[0.0, 0.0], [0.0, 0.0]]
