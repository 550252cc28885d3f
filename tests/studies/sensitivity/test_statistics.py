"""Shares, base rates and intervals against counting, and against repeated draws."""

import math

import pytest
import torch

from saekit.studies.sensitivity import statistics
from saekit.studies.sensitivity.statistics import (
    TextActs,
    auroc,
    excess,
    excess_interval,
    row,
    share_on,
    summary,
)


def acts(generated, original=(), held_out=(), matched=(), random=(0.0,) * 10):
    values = (generated, original, held_out, matched, random)
    names = ("generated", "original", "held_out", "matched", "random")
    return TextActs(
        **{n: torch.tensor(list(v)).float() for n, v in zip(names, values, strict=True)}
    )


def line(latent, one, **more):
    return row(latent, one, **({"count": 10, "largest": 2.0, "n_tokens": 1000} | more))


def test_the_published_shares():
    # An activation has to be larger than a millionth; no new text gives no share.
    found = [
        line(1, acts([0, 2.0], [1.0])),
        line(2, acts([1e-7, 1e-6], [1.0])),
        line(3, acts([], [0.0])),
    ]
    shares = [(r["generated_sensitivity"], r["original_sensitivity"]) for r in found]
    assert shares == [(0.5, 1.0), (0.0, 1.0), (None, 0.0)]
    assert list(found[0])[:3] == ["feature_index", "generated_sensitivity", "original_sensitivity"]


def test_thresholds_are_shares_of_the_largest():
    one = line(0, acts([0.1, 0.3, 1.2, 2.5], [2.0, 2.0]))
    found = [one[f"generated_over_{f:g}"] for f in (0.1, 0.25, 0.5, 0.75, 1.0)]
    assert found == [0.75, 0.5, 0.5, 0.25, 0.25]
    assert one["peak_ratio"] == pytest.approx((0.1 + 0.3 + 1.2 + 2.5) / 4 / 2.0)


def test_a_chance_rate_is_taken_out():
    assert excess(1.0, 0.5) == 1.0 and excess(0.5, 0.5) == 0.0 and excess(0.75, 0.5) == 0.5
    assert excess(0.2, 0.6) == pytest.approx(-1.0) and excess(1.0, 1.0) is None


@pytest.mark.parametrize(("g", "r"), [(0.9, 0.1), (0.5, 0.5), (0.3, 0.02), (1.0, 0.2)])
def test_the_interval_of_the_excess_covers(g, r):
    chance = torch.Generator().manual_seed(1)
    n, m, draws = 20, 200, 2000
    x = torch.binomial(torch.full((draws,), float(n)), torch.tensor(g), generator=chance) / n
    y = torch.binomial(torch.full((draws,), float(m)), torch.tensor(r), generator=chance) / m
    truth, hits = (g - r) / (1 - r), 0
    for a, b in zip(x.tolist(), y.tolist(), strict=True):
        low, high = excess_interval(a, n, b, m)
        assert low <= excess(a, b) + 1e-9 and excess(a, b) <= high + 1e-9
        hits += low - 1e-12 <= truth <= high + 1e-12
    assert 0.92 <= hits / draws <= (1.0 if g == 1.0 else 0.985)


def test_auroc_is_the_share_of_pairs():
    chance = torch.Generator().manual_seed(2)
    a = torch.randint(0, 4, (30,), generator=chance).float()
    b = torch.randint(0, 3, (50,), generator=chance).float()
    wins = (a[:, None] > b).double() + (a[:, None] == b).double() / 2
    assert auroc(a, b) == pytest.approx(float(wins.mean()), abs=1e-12)
    assert (
        auroc(torch.ones(3), torch.zeros(4)) == 1.0 and auroc(torch.ones(3), torch.ones(4)) == 0.5
    )
    assert auroc(torch.ones(0), torch.ones(4)) is None and share_on(torch.ones(0)) is None


def test_the_published_mean_leaves_out_latents_that_fail_on_their_own_examples():
    some = [
        acts([1.0] * 10, [1.0] * 10),
        acts([1.0] * 5 + [0.0] * 5, [1.0] * 9 + [0.0]),
        acts([0.0] * 10, [1.0] * 8 + [0.0] * 2),
        acts([], [1.0] * 10),
    ]
    rows = [line(i, one) for i, one in enumerate(some)]
    found = summary(rows, some)
    assert found["sensitivity"].value == pytest.approx(0.75) and found["sensitivity"].n == 2
    assert found["sensitivity_all"].value == pytest.approx(0.5) and found["sensitivity_all"].n == 3
    assert found["kept"].value == pytest.approx(0.5) and found["kept"].n == 4
    assert found["sensitivity"].low <= 0.75 <= found["sensitivity"].high
    nothing = summary([line(0, acts([], []))], [acts([], [])])
    assert nothing["sensitivity"].value is None and nothing["sensitivity"].reason


def test_latents_weigh_by_how_often_they_are_on():
    some = [acts([1.0] * 4, [1.0]), acts([0.0] * 4, [1.0])]
    rows = [line(0, some[0], count=90), line(1, some[1], count=10)]
    assert summary(rows, some)["sensitivity_by_density"].value == pytest.approx(0.9)


@pytest.mark.slow  # thousands of bootstraps
def test_the_interval_of_the_mean_covers():
    chance = torch.Generator().manual_seed(3)
    hits, draws, n = 0, 300, 40
    beta = torch.distributions.Beta(2.0, 1.0)
    torch.manual_seed(0)
    for i in range(draws):
        p = beta.sample((n,))
        on = (torch.rand(n, 10, generator=chance) < p[:, None]).float()
        some = [acts(x.tolist(), [1.0]) for x in on]
        score = summary([line(j, one) for j, one in enumerate(some)], some, seed=i)["sensitivity"]
        hits += score.low <= 2 / 3 <= score.high
    assert 0.90 <= hits / draws <= 0.985


def test_no_number_is_not_a_number():
    for one in (line(0, acts([], [])), line(0, acts([1.0], [0.0], random=[1.0] * 10))):
        assert not any(isinstance(v, float) and math.isnan(v) for v in one.values())
    assert statistics.table([line(0, acts([1.0], [1.0]))]).units["excess"] == "ratio"
