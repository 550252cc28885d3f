"""Verdicts over seeds and resamples."""

import math

import pytest
import torch

from saekit.core.result import Score
from saekit.core.stats.student import t_quantile
from saekit.studies.faithful import verdict
from saekit.studies.faithful.verdict import Evidence


def normal(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def test_seeds_alone_give_students_interval_of_paired_differences():
    values = [0.5, 0.6, 0.4, 0.7], [0.4, 0.45, 0.35, 0.5]
    found = verdict.over_seeds("x", values, torch.zeros(4, 0), 100, "lower")
    gaps = torch.tensor(values[0]) - torch.tensor(values[1])
    half = t_quantile(3) * float(gaps.std()) / 2
    assert found.difference == pytest.approx(0.125) and found.note == ""
    assert (found.low, found.high) == pytest.approx((0.125 - half, 0.125 + half), rel=1e-5)


def test_one_seed_has_the_interval_of_resamples_and_says_so():
    draws = 0.1 + 0.02 * normal(1, 5000, seed=0)
    found = verdict.over_seeds("x", ([0.5], [0.4]), draws, 60, "lower")
    half = t_quantile(59) * float(draws.std())
    assert found.high == pytest.approx(0.1 + half) and "one seed" in found.note


def test_an_interval_over_both_holds_the_truth():
    """Gaps of seeds around a true one, each seen through noise that all seeds share."""
    hits, trials, true = 0, 300, 0.3
    for trial in range(trials):
        seeds = true + 0.1 * normal(4, seed=2 * trial)
        noise = 0.1 * normal(401, seed=2 * trial + 1)
        seen = (seeds + noise[0]).tolist()
        draws = (seeds[:, None] + noise[0]) + noise[1:]
        found = verdict.over_seeds("x", (seen, [0.0] * 4), draws, 400, "lower")
        hits += found.low <= true <= found.high
    assert 0.92 <= hits / trials <= 0.985


def test_scores_estimated_apart_are_compared_by_their_intervals():
    one = Score(value=0.5, low=0.4, high=0.7, n=9, unit="share", better="higher")
    two = Score(value=0.2, low=0.1, high=0.25, n=9, unit="share", better="higher")
    found = verdict.apart("x", one, two)
    assert found.low == pytest.approx(0.3 - math.hypot(0.1, 0.05))
    assert found.high == pytest.approx(0.3 + math.hypot(0.2, 0.1))
    # Ends that are uneven: p is below 5 % where the interval does not hold 0, and only there.
    for gap, sure in ((0.12, True), (0.11, False)):
        near = verdict.apart(
            "x",
            one,
            Score(
                value=0.5 - gap, low=0, high=0.5 - gap + 0.05, n=9, unit="share", better="higher"
            ),
        )
        assert (near.low > 0) == (near.p < 0.05) == sure
    lost = Score(value=None, n=0, unit="share", better="higher", reason="no living latent")
    assert verdict.apart("x", one, lost).note == "no living latent"
    wide = Score(value=0.2, n=2, unit="share", better="higher", reason="no interval: 2 seeds")
    assert verdict.apart("x", one, wide).p is None


def test_the_table_calls_better_what_holds_over_all_rows():
    def line(score, difference, p, better):
        ends = None if p is None else 0.1
        return Evidence(score, 1.0, 1.0 - difference, difference, ends, ends, p, better)

    evidence = {
        "b": [
            line("up", 0.5, 0.001, "higher"),
            line("down", 0.5, 0.001, "lower"),
            line("weak", 0.5, 0.03, "higher"),
            line("none", 0.5, None, "higher"),
        ]
    }
    found = verdict.table("a", evidence)
    assert found.columns["verdict"] == ["a better", "b better", "a better", "no interval"]
    evidence["c"] = [line("weak", 0.5, 0.03, "higher")]
    found = verdict.table("a", evidence)
    # Of five p, of which two are 0.03: the larger are multiplied by 2.
    assert found.columns["p_holm"] == pytest.approx([0.004, 0.004, 0.06, None, 0.06])
    assert found.columns["verdict"][2] == "not told apart"
    assert verdict.sentences(found) == [
        "SAEs of a against SAEs of b: a is better on 1 of 4 scores (up); b is better on 1 of 4 "
        "scores (down); 1 is not told apart; 1 has no interval.",
        "SAEs of a against SAEs of c: a is better on none; c is better on none; 1 is not told "
        "apart.",
    ]
