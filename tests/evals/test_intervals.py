import math

import pytest
import torch

from saekit.core.codes import Codes
from saekit.evals.intervals import MIN_BLOCKS, BlockSums, blocks_of_rows, percentiles, resampled
from saekit.metrics.base import Batch
from saekit.metrics.ce_recovered_mean import CERecoveredMean
from saekit.metrics.ce_rise import CERise
from saekit.metrics.dead import Dead
from saekit.metrics.density import Density

NOTHING = torch.zeros(0, 1)
OFF = Codes.from_dense(NOTHING)


def by_block(metric, **ce):
    """One column of tokens per intervention; one row a block: [blocks, tokens]."""
    n_blocks = len(next(iter(ce.values())))
    sums = BlockSums(metric, n_blocks)
    for b in range(n_blocks):
        sums.add(b, metric.sums(Batch(NOTHING, NOTHING, OFF, {k: v[b] for k, v in ce.items()})))
    return sums


def normal(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def coverage(truth, draw, metric, trials=150):
    hits = 0
    for trial in range(trials):
        sums = by_block(metric, **draw(trial))
        low, high = percentiles(resampled(metric, sums.stacked(), trial, 150))
        hits += low <= truth <= high
    return hits / trials


def test_the_interval_of_a_mean_is_the_normal_one():
    values = normal(64, 50, seed=0)
    score = by_block(CERise(), clean=torch.zeros(64, 50), spliced=values).score(0, 4000)
    half = 1.96 * values.mean(1).std(correction=0) / 8
    assert score.value == pytest.approx(float(values.mean()), rel=1e-6)
    assert score.low == pytest.approx(float(values.mean() - half), abs=0.06 * float(half))
    assert score.high == pytest.approx(float(values.mean() + half), abs=0.06 * float(half))
    assert score.n == 64


def test_it_covers_the_mean_of_correlated_tokens():
    """Tokens of a block share a shift: taken one by one they would look far too certain."""

    def draw(trial):
        shared = normal(48, 1, seed=2 * trial)
        values = 1 + shared + normal(48, 20, seed=2 * trial + 1)
        return {"clean": torch.zeros(48, 20), "spliced": values}

    assert 0.89 <= coverage(1.0, draw, CERise()) <= 0.99


def test_it_covers_a_ratio():
    def draw(trial):
        noise = normal(2, 48, 10, seed=trial)
        harm = 3 + noise[0]
        return {"clean": 0 * harm, "mean": harm, "spliced": 0.25 * harm + 0.3 * noise[1]}

    assert 0.89 <= coverage(0.75, draw, CERecoveredMean()) <= 0.99


def test_same_seed_same_interval():
    sums = by_block(CERise(), clean=torch.zeros(16, 4), spliced=normal(16, 4, seed=0))
    assert sums.score(3) == sums.score(3)
    assert sums.score(3) != sums.score(4)


def test_few_blocks_give_no_interval():
    few = by_block(CERise(), clean=torch.zeros(7, 4), spliced=normal(7, 4, seed=0)).score(0)
    assert few.value is not None and few.low is None
    assert str(MIN_BLOCKS) in few.reason


def test_nothing_measured_is_undefined():
    score = BlockSums(CERise(), 5).score(0)
    assert (score.value, score.low, score.n) == (None, None, 0)
    assert score.reason == "no token was measured"


def test_an_undefined_value_says_why():
    flat = torch.ones(16, 4)
    score = by_block(CERecoveredMean(), clean=flat, spliced=flat, mean=flat).score(0)
    assert score.value is None
    assert score.reason == "mean ablation does not raise the loss"


def test_a_value_undefined_in_some_resamples_has_no_interval():
    harm = torch.full((16, 4), -1.0)
    harm[0] = 16.0
    zero = torch.zeros(16, 4)
    score = by_block(CERecoveredMean(), clean=zero, spliced=zero, mean=harm).score(0)
    assert score.value is not None and score.low is None
    assert "undefined in" in score.reason


def firing(metric, n_blocks=20):
    g, sums = torch.Generator().manual_seed(0), BlockSums(metric, n_blocks)
    for b in range(n_blocks):
        dense = (torch.rand(30, 40, generator=g) < 0.2).float()
        sums.add(b, metric.sums(Batch(NOTHING, NOTHING, Codes.from_dense(dense))))
    return sums


def test_sums_per_latent_are_resampled_in_pieces(monkeypatch):
    sums, metric = firing(Density()), Density()
    whole = resampled(metric, sums.stacked(), 0)
    monkeypatch.setattr("saekit.evals.intervals.CHUNK_BYTES", 1)
    assert torch.equal(resampled(metric, sums.stacked(), 0), whole)
    low, high = percentiles(whole)
    assert low < 0.2 < high and high - low < 0.05


@pytest.mark.parametrize("metric", [Dead(), Density()], ids=lambda m: m.name)
def test_what_fewer_tokens_shift_one_way_is_not_resampled(metric):
    score = firing(metric).score(0)
    assert score.value is not None and score.low is not None and score.high is not None
    assert 0 <= score.low <= score.value <= score.high <= 1
    assert "over latents" in score.reason


def test_intervals_over_latents_in_closed_form():
    """Wilson's for 0 and 10 of 100; ranks 40 and 59 of 100 for the median, from 0."""
    fired = torch.arange(1.0, 101.0, dtype=torch.float64)
    n = torch.tensor(1000.0, dtype=torch.float64)
    assert Dead().interval({"n": n, "fired": fired}) == pytest.approx((0, 0.0369935, 100))
    fired[:10] = 0
    assert Dead().interval({"n": n, "fired": fired}) == pytest.approx(
        (0.0552291, 0.1743657, 100), rel=1e-5
    )
    whole = torch.arange(1.0, 101.0, dtype=torch.float64)
    assert Density().interval({"n": n, "fired": whole}) == pytest.approx((0.040, 0.061, 100))


@pytest.mark.parametrize(("n_rows", "n_blocks"), [(64, 64), (100, 8), (5, 64), (65, 64), (0, 4)])
def test_blocks_are_contiguous_and_even(n_rows, n_blocks):
    found = blocks_of_rows(n_rows, n_blocks)
    assert len(found) == n_rows and found == sorted(found)
    sizes = [found.count(b) for b in range(min(n_rows, n_blocks))]
    assert all(s in (math.floor(n_rows / len(sizes)), math.ceil(n_rows / len(sizes)))
               for s in sizes)  # fmt: skip
