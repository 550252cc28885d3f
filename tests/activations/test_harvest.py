"""Harvest and its rule, on a tiny model."""

import dataclasses

import pytest
import torch

from saekit.activations.harvest import Harvest
from saekit.activations.pairs import Pair, check_event
from saekit.activations.rules import FittedRule, TokenRule, fit
from saekit.activations.windows import windows
from saekit.core.errors import ConfigError, DataError, UnknownNameError
from saekit.data.corpora.files import Files
from saekit.data.tokenise import TokenStream
from saekit.models.sites import parse_site
from saekit.saes.crosscoder import Crosscoder
from saekit.saes.temporal import Temporal
from saekit.saes.topk import TopK
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
    assert found.counts == (rows.numel(), special, 0, rows.numel() - special, 0, 0)


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
    rule = TokenRule(max_norm=1.02)  # so low that the sites disagree
    found = harvest(lm, stream, "L0.resid_post", "L1.resid_post", rule=rule)
    (rows,) = stream.rows(4, n_rows=4)
    acts = next(iter(found.batches()))
    each = found.read(rows)
    masks = [found.rules[str(s)].keep(rows.tokens, a) for s, a in each.items()]
    both = masks[0] & masks[1]
    assert both.sum() < min(m.sum() for m in masks)
    assert acts.x.shape == (both.sum(), 2, lm.d_model)
    for i, a in enumerate(each.values()):
        assert torch.equal(acts.x[:, i], a[both])
    assert torch.equal(torch.stack([acts.row - rows.first_row, acts.pos], 1), both.nonzero())
    assert found.counts.seen == rows.tokens.numel()  # once, though there are two sites
    assert found.counts.kept == len(acts.x)


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


@pytest.mark.parametrize(
    ("length", "wanted"),
    [
        (1, [[0], [1], [3], [4], [5], [6], [7]]),
        (2, [[0, 1], [3, 4], [5, 6]]),
        (3, [[3, 4, 5]]),
        (5, [[3, 4, 5, 6, 7]]),
        (6, []),
    ],
)
def test_runs_are_cut_into_windows_from_their_beginning(length, wanted):
    kept = torch.tensor([[True, True, False, True, True, True, True, True], [False] * 8])
    found = windows(kept, length)
    assert found.pos.tolist() == wanted
    assert found.row.tolist() == [0] * len(wanted)
    acts = torch.randn(2, 8, 4)
    mask = found.mask(kept)
    assert int(mask.sum()) == found.pos.numel() and not (mask & ~kept).any()
    assert torch.equal(found.of(acts).reshape(-1, 4), acts[mask])


def test_a_window_is_of_neighbours_that_all_count(lm, stream):
    rule = TokenRule(max_norm=1.05)
    found = harvest(lm, stream, "L1.resid_post", rule=rule, window=3)
    site = parse_site("L1.resid_post")
    n = 0
    for rows, acts in zip(stream.rows(4, n_rows=16), found.batches(0, 16), strict=True):
        direct = lm.read(rows.tokens, [site])[site]
        kept = found.rules[str(site)].keep(rows.tokens, direct)
        assert acts.x.shape == (len(acts.row), 3, lm.d_model)
        for x, row, pos in zip(acts.x, acts.row - rows.first_row, acts.pos, strict=True):
            assert kept[row, pos : pos + 3].all()
            assert torch.equal(x, direct[row, pos : pos + 3])
        n += 3 * len(acts.x)
    counts = found.counts
    assert counts.kept == n > 0 and counts.cut > 0 and counts.high_norm > 0
    assert counts.seen == counts.special + counts.high_norm + counts.kept + counts.cut


def test_windows_of_folded_sites_follow_each_site(lm, stream):
    sites = ("L0.resid_post", "L1.resid_post")
    both = harvest(lm, stream, *sites, fold=True, window=4)
    one, two = (harvest(lm, stream, site, window=4) for site in sites)
    acts, parts = next(iter(both.batches())), [next(iter(h.batches())) for h in (one, two)]
    for i in range(4):
        assert torch.equal(acts[i], torch.cat([p[i] for p in parts]))
    assert both.counts == one.counts.plus(two.counts)


CROSSCODER = Crosscoder(d_in=8, d_out=8, d_sae=16, n_sites=2, k=3)
TEMPORAL, TOPK = Temporal.example(), TopK.example()
TWO = {"read": ("L0.resid_post", "L1.resid_post")}
ONE = {"read": ("L0.resid_post",)}


@pytest.mark.parametrize(
    ("pair", "sae", "said"),
    [
        (ONE, CROSSCODER, "codes sites jointly.*1 sites.*Name several"),
        (TWO | {"fold": True}, CROSSCODER, "2 sites, folded.*without fold"),
        (TWO, dataclasses.replace(CROSSCODER, n_sites=3), "n_sites=3.*reads 2"),
        (TWO, TOPK, "codes sites one by one.*Fold"),
        (TWO, TEMPORAL, "codes sites one by one"),
        (ONE, TEMPORAL, "window=0.*Set `pair.window` to the"),
        (ONE | {"window": 4}, TOPK, "one by one.*window=4.*to 0"),
        (ONE | {"window": 33}, TEMPORAL, "at most `n_ctx`.*window=33, n_ctx=32"),
        (ONE | {"window": 17}, TEMPORAL, "at most `batch_tokens`"),
        ({"read": ("L1.mlp_in",), "write": ("L1.mlp_out",), "window": 4}, TEMPORAL, "write"),
    ],
)
def test_a_pair_that_does_not_give_what_is_coded_is_refused(pair, sae, said):
    with pytest.raises(ConfigError, match=said):
        check_event(Pair.from_dict(pair), sae, n_ctx=32, batch_tokens=16)


@pytest.mark.parametrize(
    ("pair", "sae"),
    [
        (ONE, TOPK),
        (TWO, CROSSCODER),
        (TWO | {"fold": True}, TOPK),
        (ONE | {"window": 4}, TEMPORAL),
        (TWO | {"fold": True, "window": 16}, TEMPORAL),
    ],
)
def test_a_pair_that_gives_what_is_coded_is_not(pair, sae):
    check_event(Pair.from_dict(pair), sae, n_ctx=32, batch_tokens=16)


def test_a_window_of_less_than_nothing_is_refused():
    with pytest.raises(ConfigError, match="-1"):
        Pair.from_dict(ONE | {"window": -1})
