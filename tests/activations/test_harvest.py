"""Harvest and its rule, on a tiny model."""

import pytest
import torch

from saekit.activations.harvest import Harvest
from saekit.activations.pairs import Pair
from saekit.activations.rules import FittedRule, TokenRule, fit
from saekit.core.errors import ConfigError, DataError, UnknownNameError
from saekit.data.corpora.files import Files
from saekit.data.tokenise import TokenStream
from saekit.models.sites import parse_site
from tests import world


@pytest.fixture(scope="module")
def lm():
    return world.model()


@pytest.fixture
def stream(lm, tmp_path):
    corpus = Files(paths=(str(world.text_file(tmp_path)),))
    return TokenStream(corpus, "train", lm.tokenizer, n_ctx=32)


def harvest(lm, stream, *read, rule=None, **kwargs):
    return Harvest(lm, stream, Pair(read=read, **kwargs), rule or TokenRule(), batch_rows=4)


def test_what_is_kept_is_what_the_model_gives_there(lm, stream):
    site = parse_site("L1.resid_post")
    rows = next(iter(stream.rows(4)))
    acts = next(iter(harvest(lm, stream, "L1.resid_post").batches()))
    direct = lm.read(rows.tokens, [site])[site]
    assert torch.equal(acts.x, direct[acts.row - rows.first_row, acts.pos])
    assert torch.equal(acts.y, acts.x)


def test_special_tokens_are_left_out_and_counted(lm, stream):
    found = harvest(lm, stream, "L1.resid_post", rule=TokenRule(max_norm=None))
    parts = list(found.batches(0, 8))
    rows = torch.cat([r.tokens for r in stream.rows(4, n_rows=8)])
    special = sum(int((rows == i).sum()) for i in lm.tokenizer.special_ids)
    assert special >= 8  # a BOS in each row, at least
    assert sum(len(p.x) for p in parts) == rows.numel() - special
    assert found.counts == (rows.numel(), special, 0, rows.numel() - special)


def test_a_massive_norm_is_left_out(lm):
    tokens = torch.full((1, 5), 65)
    acts = torch.ones(1, 5, 4)
    acts[0, 2] = 5.0
    rule = fit(TokenRule(max_norm=4.0), lm.tokenizer.special_ids, tokens, acts)
    assert rule.median_norm == pytest.approx(2.0)
    assert rule.keep(tokens, acts).tolist() == [[True, True, False, True, True]]
    assert FittedRule.from_dict(rule.to_dict()) == rule


def test_folding_puts_sites_one_after_another(lm, stream):
    both = harvest(lm, stream, "L0.resid_post", "L1.resid_post", fold=True)
    one, two = (harvest(lm, stream, f"L{i}.resid_post") for i in (0, 1))
    x = next(iter(both.batches())).x
    parts = [next(iter(h.batches())).x for h in (one, two)]
    assert torch.equal(x, torch.cat(parts))


def test_sites_that_are_stacked_share_their_tokens(lm, stream):
    acts = next(iter(harvest(lm, stream, "L0.resid_post", "L1.resid_post").batches()))
    assert acts.x.shape[1:] == (2, lm.d_model)


def test_activations_that_are_not_finite_are_an_error(lm, stream, monkeypatch):
    site = parse_site("L1.resid_post")
    found = harvest(lm, stream, "L1.resid_post")
    bad = torch.full((4, 32, lm.d_model), float("inf"))
    monkeypatch.setattr(type(lm), "read", lambda *_, **__: {site: bad})
    with pytest.raises(DataError, match="not finite"):
        next(iter(found.batches()))


@pytest.mark.parametrize(
    ("pair", "error"),
    [
        ({"read": ()}, ConfigError),
        ({"read": ("L0.resid_post", "blocks.0.hook_resid_post")}, ConfigError),
        ({"read": ("L0.mlp_in",), "write": ("L0.mlp_out", "L1.mlp_out")}, ConfigError),
        ({"read": ("L0.nothing",)}, UnknownNameError),
    ],
)
def test_pairs_that_make_no_sense(pair, error):
    with pytest.raises(error):
        Pair(**pair)


def test_a_rule_below_the_median_is_refused():
    with pytest.raises(ConfigError, match="above 1"):
        TokenRule(max_norm=0.5)
