import json
import math

import pytest
import torch

from saekit.core.stats.permutation import permutation_test, said, sign_flips
from saekit.core.stats.ranks import spearman

X = torch.arange(12.0)


def test(y, permutations=99):
    def statistic(order):
        return spearman(X, y[order])

    return permutation_test(spearman(X, y), statistic, 12, permutations, torch.Generator())


test.__test__ = False  # not a test: what the tests call


def test_a_statistic_that_is_not_defined_has_no_p():
    found = test(torch.full((12,), 1.5))
    assert math.isnan(found.value) and math.isnan(found.p) and found.n == 0
    record = found.record()
    assert record["p"] is None and record["value"] is None and record["z"] is None
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert "undefined" in said(found) and "nan" not in said(found)


def test_a_perfect_order_has_the_smallest_p_and_a_random_one_a_large():
    assert test(X).p == pytest.approx(1 / 100)
    mixed = X[torch.randperm(12, generator=torch.Generator().manual_seed(3))]
    assert test(mixed).p > 0.05


def test_orders_without_a_value_are_left_out():
    def statistic(order):
        return math.nan if int(order[0]) == 0 else 0.1 * float(order[0])

    found = permutation_test(0.5, statistic, 4, 200, torch.Generator().manual_seed(0))
    assert 0 < found.n < 200 and not math.isnan(found.p)
    assert found.p == (1 + sum(abs(v) >= 0.5 for v in found.draws)) / (1 + found.n)


def test_sign_flips_go_through_every_pattern_of_few_and_draw_of_many():
    chance = torch.Generator().manual_seed(0)
    few = sign_flips(torch.tensor([1.0, 2.0, 4.0]), chance)
    assert (few.value, few.p, few.n) == (7 / 3, 2 / 8, 8)
    assert sign_flips(torch.tensor([1.0, -1.0]), chance).p == 1
    many = sign_flips(torch.full((20,), 0.5), chance, permutations=200)
    assert (many.n, many.p) == (200, 1 / 201)
    assert math.isnan(sign_flips(torch.zeros(0), chance).p)
