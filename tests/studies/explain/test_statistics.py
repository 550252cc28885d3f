"""Numbers that answers come to, against other ways of finding them, and their intervals."""

import numpy as np
import pytest
import torch

from saekit.studies.explain.statistics import Answer, mean_over_latents, measured, shuffled


def yes_no(pairs):
    return [Answer(float(t), None if s is None else float(s)) for t, s in pairs]


def test_balanced_accuracy_is_the_mean_over_both_kinds():
    found = measured("yes_no", yes_no([(1, 1), (1, 0), (0, 0), (0, 0), (0, 0), (0, 1)]))
    assert found.accuracy == pytest.approx((0.5 + 0.75) / 2)
    assert found.low < found.accuracy < found.high and found.auroc is None


def test_what_is_no_answer_is_in_the_denominator_as_a_guess():
    found = measured("yes_no", yes_no([(1, 1), (1, None), (0, 0), (0, None)]))
    assert found.accuracy == 0.75 and found.invalid == 0.5 and found.n == 4
    choice = [Answer(2.0, None, None, 5), Answer(2.0, 2.0, None, 5)]
    assert measured("choice", choice).accuracy == pytest.approx(0.6)


def test_grades_are_ranked_and_ties_count_half():
    grades = [(1, 0.9), (1, 0.4), (0, 0.4), (0, 0.1)]
    answers = [Answer(float(t), float(g > 0.5), g) for t, g in grades]
    pairs = [(a, b) for t, a in grades if t for u, b in grades if not u]
    expected = np.mean([1.0 if a > b else 0.5 if a == b else 0.0 for a, b in pairs])
    assert measured("yes_no", answers).auroc == pytest.approx(expected)


@pytest.mark.parametrize("truth", [0, 1])
def test_one_kind_of_text_alone_gives_no_number(truth):
    found = measured("yes_no", yes_no([(truth, 1), (truth, 0)]))
    assert found.accuracy is None and "no text on which it is" in found.reason


def test_simulation_is_a_correlation_and_a_constant_predicts_nothing():
    chance = np.random.default_rng(0)
    x, y = chance.normal(size=20), chance.normal(size=20)
    answers = [Answer(float(a), float(b)) for a, b in zip(x, y, strict=True)]
    assert measured("amount", answers).correlation == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert measured("amount", [Answer(float(a), 3.0) for a in x]).correlation == 0.0
    assert measured("amount", [Answer(1.0, float(a)) for a in x]).correlation is None


@pytest.mark.parametrize("lean", [0.2, 0.5, 0.9])
def test_shuffled_truths_give_one_half_whatever_the_judge_leans_to(lean):
    chance = np.random.default_rng(1)
    answers = yes_no([(i < 8, chance.random() < lean) for i in range(16)])
    assert shuffled("yes_no", answers, 0, "x") == pytest.approx(0.5, abs=0.04)


def test_balanced_accuracy_is_covered_by_its_interval():
    chance, right = np.random.default_rng(2), (0.9, 0.6)
    hits = 0
    for _ in range(600):
        pairs = [(1, chance.random() < right[0]) for _ in range(20)]
        pairs += [(0, chance.random() >= right[1]) for _ in range(20)]
        found = measured("yes_no", yes_no(pairs))
        hits += found.low <= sum(right) / 2 <= found.high
    assert 0.92 <= hits / 600 <= 0.99


def test_the_mean_over_latents_counts_those_without_a_number():
    found = mean_over_latents("x", [1.0, 0.0, None, 0.5], "ratio", 0)
    assert found.value == 0.5 and found.n == 3 and "1 of 4" in found.reason
    assert found.low <= 0.5 <= found.high
    nothing = mean_over_latents("x", [None], "ratio", 0)
    assert nothing.value is None and nothing.reason


def test_its_interval_covers_the_mean():
    chance, hits = torch.Generator().manual_seed(0), 0
    for seed in range(300):
        values = torch.rand(30, generator=chance).tolist()
        found = mean_over_latents("x", values, "ratio", seed)
        hits += found.low <= 0.5 <= found.high
    assert hits / 300 > 0.88
