import itertools

import pytest
import torch

from saekit.core.codes import Codes
from saekit.evals.intervals import (
    LEAST_BLOCKS,
    BlockSums,
    blocks_of_documents,
    score_of,
    without_each,
)
from saekit.metrics.base import Batch
from saekit.metrics.ce import CERecoveredMean, CERise
from saekit.metrics.dead import Dead
from saekit.metrics.density import Density
from saekit.metrics.mse import MSE

NOTHING = torch.zeros(0, 1)
OFF = Codes.from_dense(NOTHING)


def by_block(metric, sizes=None, **ce):
    """One column of tokens per intervention; one row a block: [blocks, tokens]."""
    n_blocks = len(next(iter(ce.values())))
    sums = BlockSums(metric, torch.ones(n_blocks) if sizes is None else sizes)
    for b in range(n_blocks):
        sums.add(b, metric.sums(Batch(NOTHING, NOTHING, OFF, {k: v[b] for k, v in ce.items()})))
    return sums


def normal(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def coverage(truth, draw, metric, trials=150):
    hits = 0
    for trial in range(trials):
        score = by_block(metric, **draw(trial)).score()
        hits += score.low <= truth <= score.high
    return hits / trials


def test_the_interval_of_a_mean_is_students():
    half = normal(15, 50, seed=0)
    values = torch.cat([half, 2 - half])  # as far above 1 as below: no skew
    score = by_block(CERise(), clean=torch.zeros(30, 50), spliced=values).score()
    half = 2.04523 * float(values.mean(1).std()) / 30**0.5  # t of 29 degrees of freedom
    assert score.value == pytest.approx(float(values.mean()), rel=1e-6)
    assert score.low == pytest.approx(float(values.mean()) - half, rel=1e-5)
    assert score.high == pytest.approx(float(values.mean()) + half, rel=1e-5)
    assert score.n == 30


def test_few_documents_that_are_far_worse_draw_the_interval_to_their_side():
    """A text without them would look better than it is, so the end beyond them is the farther."""
    values = torch.tensor([-0.1, 0.1] * 11 + [2.0, 2.0])[:, None].expand(24, 4)
    score = by_block(CERise(), clean=torch.zeros(24, 4), spliced=values).score()
    assert score.high - score.value > 1.5 * (score.value - score.low)
    better = by_block(CERise(), clean=torch.zeros(24, 4), spliced=-values).score()
    assert better.value - better.low > 1.5 * (better.high - better.value)


def test_it_covers_the_mean_of_correlated_tokens():
    """Tokens of a block share a shift: taken one by one they would look far too certain."""

    def draw(trial):
        shared = normal(48, 1, seed=2 * trial)
        values = 1 + shared + normal(48, 20, seed=2 * trial + 1)
        return {"clean": torch.zeros(48, 20), "spliced": values}

    assert 0.90 <= coverage(1.0, draw, CERise()) <= 0.99


def test_it_covers_a_ratio():
    def draw(trial):
        noise = normal(2, 48, 10, seed=trial)
        harm = 3 + noise[0]
        return {"clean": 0 * harm, "mean": harm, "spliced": 0.25 * harm + 0.3 * noise[1]}

    assert 0.90 <= coverage(0.75, draw, CERecoveredMean()) <= 0.99


def packed(seed, n_rows, n_ctx=32):
    """Text whose documents have 2.6 rows on average, packed: doc ids, and a value a token.

    Tokens of a document share four fifths of a standard deviation, as losses of real text do.
    """
    g, ids, values = torch.Generator().manual_seed(seed), [], []
    for document in itertools.count():
        length = 8 + int(torch.empty(()).exponential_(1 / (2.3 * n_ctx), generator=g))
        shared = 0.8 * torch.randn(1, generator=g)
        ids.append(torch.full((length,), document))
        values.append(10 + shared + 0.6 * torch.randn(length, generator=g))
        if sum(map(len, ids)) >= n_rows * n_ctx:
            break
    shape = (n_rows, n_ctx)
    return [torch.cat(part)[: n_rows * n_ctx].view(shape) for part in (ids, values)]


def test_it_covers_text_whose_documents_go_on_over_rows():
    """Blocks of rows, which cut documents, held the truth in 59 to 70 % of such texts."""
    hits = had = 0
    metric = MSE()
    for seed in range(120):
        ids, values = packed(seed, n_rows=128)
        blocks = blocks_of_documents(ids, 64)
        sums = BlockSums(metric, blocks.sizes)
        total = torch.zeros(len(blocks.sizes), dtype=torch.float64)
        total.index_add_(0, blocks.of.flatten(), values.double().flatten())
        for b, size in enumerate(blocks.sizes):
            sums.add(b, {"entries": size.double(), "ee": total[b]})
        score = sums.score()
        if score.low is not None:  # some of these texts have a few long documents
            had += 1
            hits += score.low <= 10 <= score.high
    assert had > 90 and 0.90 <= hits / had <= 0.99


@pytest.mark.parametrize("n_blocks", [1, 3, 8, 500])
def test_a_block_is_whole_documents_and_no_document_is_cut(n_blocks):
    ids, _ = packed(0, n_rows=20)
    blocks = blocks_of_documents(ids, n_blocks)
    pairs = set(zip(ids.flatten().tolist(), blocks.of.flatten().tolist(), strict=True))
    documents = [d for d, _ in pairs]
    assert len(documents) == len(set(documents))  # one block a document
    assert len(blocks.sizes) == min(n_blocks, len(documents))
    assert blocks.of.unique().tolist() == list(range(len(blocks.sizes)))
    assert blocks.sizes.sum() == ids.numel()
    in_order = blocks.of.flatten()
    assert (in_order.diff() >= 0).all()  # neighbours


def test_how_rows_are_cut_changes_no_block():
    ids, _ = packed(1, n_rows=24)
    wide, narrow = blocks_of_documents(ids, 9), blocks_of_documents(ids.view(48, 16), 9)
    assert torch.equal(wide.of.flatten(), narrow.of.flatten())


def test_few_documents_give_no_interval_and_say_how_much_text_would():
    sizes = torch.full((7,), 100.0)
    clean, spliced = torch.zeros(7, 4), normal(7, 4, seed=0)
    few = by_block(CERise(), sizes, clean=clean, spliced=spliced).score()
    assert few.value is not None and few.low is None
    assert "7 documents" in few.reason and f"{LEAST_BLOCKS} are needed" in few.reason
    assert "2,000 tokens" in few.reason


def test_one_long_document_among_short_ones_is_not_many():
    sizes = torch.tensor([10000.0] + [50.0] * 40)
    clean, spliced = torch.zeros(41, 2), normal(41, 2, seed=0)
    score = by_block(CERise(), sizes, clean=clean, spliced=spliced).score()
    assert score.low is None and "count as 1" in score.reason


def test_uneven_documents_must_be_more_than_even_ones():
    """Of so few, real text counts as 20 only where it lacks long documents by chance."""
    values = normal(46, 2, seed=0)
    for n, given in ((36, False), (44, True)):
        sizes = torch.tensor([100.0, 400.0, 250.0, 250.0]).repeat(n // 4)
        clean, spliced = torch.zeros(n, 2), values[:n]
        score = by_block(CERise(), sizes, clean=clean, spliced=spliced).score()
        assert (score.low is not None) == given
        if not given:
            assert "of uneven length 40 are needed, about 10,000 tokens" in score.reason
    even = by_block(CERise(), clean=torch.zeros(24, 2), spliced=values[:24]).score()
    assert even.low is not None


def test_nothing_measured_is_undefined():
    score = BlockSums(CERise(), torch.ones(5)).score()
    assert (score.value, score.low, score.n) == (None, None, 0)
    assert score.reason == "no token was measured"


def test_an_undefined_value_says_why():
    flat = torch.ones(24, 4)
    score = by_block(CERecoveredMean(), clean=flat, spliced=flat, mean=flat).score()
    assert score.value is None
    assert score.reason == "mean ablation does not raise the loss"


def test_a_value_undefined_without_some_block_has_no_interval():
    harm = torch.full((24, 4), -1.0)
    harm[0] = 25.0
    zero = torch.zeros(24, 4)
    score = by_block(CERecoveredMean(), clean=zero, spliced=zero, mean=harm).score()
    assert score.value is not None and score.low is None
    assert "undefined without 1 of 24" in score.reason


def test_the_mean_of_layers_leaves_a_block_out_of_all_at_once():
    """Two layers that move together: their mean is as uncertain as each."""
    values = normal(30, 8, seed=3)
    clean = torch.zeros(30, 8)
    one, two = (by_block(CERise(), clean=clean, spliced=v) for v in (values, values + 1))
    mean, alone = score_of([one, two]), one.score()
    assert mean.value == pytest.approx(alone.value + 0.5)
    assert mean.high - mean.low == pytest.approx(alone.high - alone.low)


def test_without_each_is_the_metric_of_the_others():
    values = normal(5, 3, seed=1)
    sums = by_block(CERise(), clean=torch.zeros(5, 3), spliced=values)
    wanted = torch.stack([values[torch.arange(5) != b].mean() for b in range(5)]).double()
    torch.testing.assert_close(without_each(CERise(), sums.stacked()), wanted, rtol=1e-6, atol=1e-6)


def firing(metric, n_blocks=20):
    g, sums = torch.Generator().manual_seed(0), BlockSums(metric, torch.ones(n_blocks))
    for b in range(n_blocks):
        dense = (torch.rand(30, 40, generator=g) < 0.2).float()
        sums.add(b, metric.sums(Batch(NOTHING, NOTHING, Codes.from_dense(dense))))
    return sums


@pytest.mark.parametrize("metric", [Dead(), Density()], ids=lambda m: m.name)
def test_what_fewer_tokens_shift_one_way_keeps_one_sum_of_all_text(metric):
    sums = firing(metric)
    assert sums.n_used == 1  # per-latent sums, the largest there are, are not kept by block
    score = sums.score()
    assert score.value is not None and score.low is not None and score.high is not None
    assert 0 <= score.low <= score.value <= score.high <= 1
    assert "over latents" in score.reason and score.n == 40


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
