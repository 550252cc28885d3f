"""Every layer, their mean, all at once: against the core evaluation and closed forms."""

import math

import pytest
import torch

from saekit.core.errors import ConfigError
from saekit.evals import _predictions
from saekit.evals.base import Subject
from saekit.evals.core import Core
from saekit.models.sites import parse_site
from saekit.studies.layers.evals.by_layer import measure_by_layer
from tests.evals.world import mirror, random_topk, subject, tools

SITES = ("L0.resid_pre", "L0.resid_post", "L1.resid_post")
CORE = Core(n_tokens=1024, ce_tokens=768)


def subjects(make) -> list[Subject]:
    return [subject(make(), read=parse_site(s), write=parse_site(s)) for s in SITES]


@pytest.fixture(scope="module")
def found():
    return measure_by_layer(subjects(random_topk), CORE, tools())


def test_each_layer_has_the_scores_of_the_core_evaluation(found):
    for one in subjects(random_topk):
        alone = CORE.run(one, tools())
        for name, score in alone.scores.items():
            got = found.scores[f"{one.read}/{name}"]
            assert got.n == score.n and got.unit == score.unit
            if score.value is None:
                assert got.value is None
            else:
                assert math.isclose(got.value or 0, score.value, rel_tol=1e-5, abs_tol=1e-6), name
                assert (got.low is None) == (score.low is None)


def test_the_mean_is_that_of_the_layers(found):
    for name in ("fvu", "mse", "l0", "l1", "kl", "kl_back", "logit_mse", "ce_rise"):
        each = [found.scores[f"{s}/{name}"].value for s in SITES]
        mean = found.scores[f"mean/{name}"]
        assert math.isclose(mean.value, sum(each) / 3, rel_tol=1e-9)
        assert mean.low <= mean.value <= mean.high


def test_a_perfect_sae_changes_nothing_at_any_layer_or_at_all():
    found = measure_by_layer(subjects(mirror), CORE, tools()).scores
    for way in (*SITES, "mean", "all"):
        for name in ("ce_rise", "kl", "kl_back", "logit_mse"):
            assert abs(found[f"{way}/{name}"].value) < 1e-4, (way, name)
        assert math.isclose(found[f"{way}/ce_recovered_zero"].value, 1, abs_tol=1e-3)
    assert all(found[f"{s}/fvu"].value < 1e-9 for s in SITES)


def test_all_replaced_is_each_read_after_the_last(found):
    """By hand, for one batch of rows: every layer's SAE reads what the one before it left."""
    every = subjects(random_topk)
    lm = every[0].lm
    rows = next(iter(tools().rows(24))).tokens
    clean = lm.logits(rows)
    acts = lm.read(rows, [s.read for s in every])

    def put(one):
        keep = one.rule.keep(rows, acts[one.read])

        def replace(x):
            out = x.clone()
            out[keep] = one.sae(x[keep])
            return out

        return replace

    moved = lm.logits(rows, {s.read: put(s) for s in every})
    where = _predictions.scored(rows, every[0].rule.special_ids)
    targets = _predictions.next_tokens(rows, where)
    both = _predictions.against(clean[where], moved[where], targets)
    got = found.scores["all/ce_rise"].value
    assert math.isclose(got, float((both.other - both.clean).mean()), rel_tol=1e-4)
    assert got > max(found.scores[f"{s}/ce_rise"].value for s in SITES)


def test_dead_at_all_layers_is_at_most_dead_at_any(found):
    each = [found.scores[f"{s}/dead"].value for s in SITES]
    assert 0 < found.scores["all/dead"].value < min(each)


def test_gaps_are_the_divergence_the_other_way_and_the_mean_square():
    g = torch.Generator().manual_seed(0)
    p, q = torch.randn(2, 2, 3, 11, generator=g)
    p, q = p.flatten(0, 1), q.flatten(0, 1)
    got = _predictions.gaps(p, q)
    log_p, log_q = p.log_softmax(-1), q.log_softmax(-1)
    back = (log_q.exp() * (log_q - log_p)).sum(-1)
    torch.testing.assert_close(got.kl_back, back, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(got.logit_mse, (p - q).square().mean(-1))
    there = _predictions.against(p, q, torch.zeros(6, dtype=torch.int64)).kl
    assert not torch.allclose(got.kl_back, there, rtol=0.05)


def test_bad_input():
    with pytest.raises(ConfigError, match="at least one layer"):
        measure_by_layer([], CORE, tools())
    one = subjects(random_topk)[0]
    with pytest.raises(ConfigError, match="none twice"):
        measure_by_layer([one, one], CORE, tools())
    with pytest.raises(ConfigError, match="needs the language model"):
        measure_by_layer([one._replace(lm=None)], CORE, tools())
