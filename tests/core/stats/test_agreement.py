"""Kappa against a table of the literature, at its ends, and its interval."""

import numpy as np
import pytest

from saekit.core.stats.agreement import kappa


def test_kappa_of_a_table_from_the_literature():
    # Cohen 1960, table 1 in proportions of 200: kappa = (0.29 - 0.41) ... by hand below.
    table = {
        ("a", "a"): 88,
        ("a", "b"): 14,
        ("a", "c"): 18,
        ("b", "a"): 10,
        ("b", "b"): 40,
        ("b", "c"): 10,
        ("c", "a"): 2,
        ("c", "b"): 6,
        ("c", "c"): 12,
    }
    one = [a for (a, _), n in table.items() for _ in range(n)]
    other = [b for (_, b), n in table.items() for _ in range(n)]
    found = kappa(one, other)
    p_agree = (88 + 40 + 12) / 200
    p_chance = (120 * 100 + 60 * 60 + 20 * 40) / 200**2
    assert found.value == pytest.approx((p_agree - p_chance) / (1 - p_chance))
    assert found.low < found.value < found.high and found.n == 200


def test_kappa_at_its_ends():
    same = ["x", "y"] * 10
    found = kappa(same, same)
    assert found.value == 1.0 == found.high and 0.6 < found.low < 1.0
    assert kappa(["x"] * 5, ["x"] * 5).value is None
    assert kappa([], []).value is None
    assert kappa(["x", "y"] * 10, ["y", "x"] * 10).value == pytest.approx(-1.0)


@pytest.mark.parametrize(("truth", "n"), [(0.0, 60), (0.4, 100), (0.7, 100)])
def test_the_interval_of_kappa_covers_the_truth(truth, n):
    """Raters who agree on purpose in a share `truth`, else at random, have that kappa."""
    chance = np.random.default_rng(int(100 * truth) + n)
    shares, hits, trials = [0.5, 0.3, 0.2], 0, 800
    for _ in range(trials):
        one = chance.choice(3, size=n, p=shares)
        other = np.where(chance.random(n) < truth, one, chance.choice(3, size=n, p=shares))
        found = kappa(one.tolist(), other.tolist())
        hits += found.low <= truth <= found.high
    assert 0.92 <= hits / trials <= 0.98
