"""Core on SAEs of several sites and of windows: against the definitions, by hand."""

import dataclasses

import pytest
import torch

from saekit.activations.rules import TokenRule, fit
from saekit.activations.windows import windows
from saekit.core.errors import ConfigError
from saekit.evals.base import SitePair, Subject
from saekit.evals.core import Core
from saekit.models.sites import parse_site
from saekit.models.tiny import tiny
from saekit.saes.crosscoder import Crosscoder
from saekit.saes.temporal import Temporal
from tests.evals.world import N_CTX, text, tools

SMALL = Core(n_tokens=16 * N_CTX, ce_tokens=10 * N_CTX, n_blocks=7, batch_rows=4)
SITES = ("L0.resid_post", "L1.mlp_in", "L1.resid_post")
WINDOW = 5
N_CE_ROWS = 10


def way(name, max_norm):
    lm, site, tokens = tiny(), parse_site(name), text(16, seed=9)
    rule = fit(
        TokenRule(max_norm=max_norm),
        lm.tokenizer.special_ids,
        tokens,
        lm.read(tokens, [site])[site],
    )
    return SitePair(site, site, rule)


def crosscoder(max_norm=1.1):
    g = torch.Generator().manual_seed(0)
    cfg = Crosscoder(d_in=32, d_out=32, d_sae=64, n_sites=3, activation="relu")
    first, *more = (way(name, max_norm) for name in SITES)
    return Subject(cfg.build(g), tiny(), *first[:3], "three", beside=tuple(more))


def temporal(max_norm=1.1):
    g = torch.Generator().manual_seed(0)
    cfg = Temporal(d_in=32, d_out=32, d_sae=64, k=4, d_key=4)
    return Subject(cfg.build(g), tiny(), *way(SITES[2], max_norm)[:3], "windows", window=WINDOW)


def values(result):
    return {name: score.value for name, score in result.scores.items()}


def losses(lm, site, rows, kept, put):
    """Return the loss of each scored token with kept activations at a site replaced."""

    def replace(h):
        out = h.clone()
        out[kept] = put.to(h.dtype)
        return out

    logits = lm.logits(rows, {site: replace})[:, :-1].double().log_softmax(-1)
    scored = ~torch.isin(rows[:, 1:], torch.tensor([256, 257]))
    return -logits[scored].gather(1, rows[:, 1:][scored][:, None])[:, 0]


def by_hand(subj, kept, y, y_hat):
    """FVU of all and of each site; losses with each site alone replaced. y: [n, site, d]."""
    lm, rows = subj.lm, text()[:N_CE_ROWS]
    kept_ce = kept[:N_CE_ROWS]
    n_ce = int(kept_ce.sum())
    ce = {}
    for i, one in enumerate(subj.ways):
        puts = {
            "clean": y[:n_ce, i],
            "spliced": y_hat[:n_ce, i],
            "zero": torch.zeros(32),
            "mean": y[:, i].mean(0),
        }
        ce[str(one.write)] = {
            k: float(losses(lm, one.write, rows, kept_ce, v).mean()) for k, v in puts.items()
        }
    err, spread = ((y - other).square().sum((0, 2)) for other in (y_hat, y.mean(0)))
    mean = {k: sum(v[k] for v in ce.values()) / len(ce) for k in next(iter(ce.values()))}
    harm, left = mean["zero"] - mean["clean"], mean["zero"] - mean["spliced"]
    scores = {
        "fvu": float(err.sum() / spread.sum()),
        "ce_clean": mean["clean"],
        "ce_spliced": mean["spliced"],
        "ce_recovered_zero": left / harm if harm > 0 else None,
    }
    each = dict(zip(ce, (err / spread).tolist(), strict=True))
    return scores, ce, mean, each


def assert_close(found, wanted):
    for name, value in wanted.items():
        assert found[name] == pytest.approx(value, rel=2e-5, abs=2e-5), name


@torch.no_grad()
def test_a_crosscoder_is_measured_at_all_sites_and_at_each():
    subj = crosscoder()
    tokens = text()[:16]
    acts = tiny().read(tokens, [w.read for w in subj.ways])
    masks = [w.rule.keep(tokens, acts[w.read]) for w in subj.ways]
    kept = torch.stack(masks).all(0)
    assert 0 < kept.sum() < min(m.sum() for m in masks)
    y = torch.stack([a[kept] for a in acts.values()], 1)
    scores, ce, mean, each = by_hand(subj, kept, y, subj.sae(y))
    result = SMALL.run(subj, tools())
    assert_close(values(result), scores)
    assert_close(result.details["losses"], mean)
    assert values(result)["l0"] == pytest.approx(
        float((subj.sae.encode(y).dense() != 0).sum(1).float().mean()), rel=1e-6
    )
    sites = result.details["sites"]
    assert list(sites) == [str(w.write) for w in subj.ways]
    for name, of in sites.items():
        assert_close(of["losses"], ce[name])
        assert of["scores"]["fvu"]["value"] == pytest.approx(each[name], rel=1e-4)
        assert of["scores"]["ce_spliced"]["value"] == pytest.approx(of["losses"]["spliced"])
    assert len({round(of["losses"]["spliced"], 6) for of in sites.values()}) == 3
    seen = result.details["tokens"]
    assert seen["kept"] == int(kept.sum()) and seen["cut"] == 0
    assert seen["seen"] == tokens.numel() == seen["special"] + seen["high_norm"] + seen["kept"]


@torch.no_grad()
def test_a_temporal_sae_is_measured_on_its_windows():
    subj = temporal()
    tokens = text()[:16]
    acts = tiny().read(tokens, [subj.read])[subj.read]
    fits = subj.rule.keep(tokens, acts)
    cut = windows(fits, WINDOW)
    kept = cut.mask(fits)
    assert 0 < kept.sum() < fits.sum()
    y = cut.of(acts)
    scores, _, mean, _ = by_hand(subj, kept, y.reshape(-1, 1, 32), subj.sae(y).reshape(-1, 1, 32))
    result = SMALL.run(subj, tools())
    assert_close(values(result), scores)
    assert_close(result.details["losses"], mean)
    codes = subj.sae.encode(y).dense()
    assert values(result)["l0"] == pytest.approx(float((codes != 0).sum(-1).float().mean()))
    assert (codes[..., :32] != 0).sum(-1).max() == 4 and (codes[..., 32:] != 0).any()
    seen = result.details["tokens"]
    assert seen["kept"] == int(kept.sum())
    assert seen["cut"] == int((fits & ~kept).sum()) > 0
    assert seen["seen"] == sum(seen.values()) - seen["seen"]
    assert result.details["fvu_with_high_norm"]["value"] is None
    assert "sites" not in result.details


both = pytest.mark.parametrize("make", [crosscoder, temporal], ids=["crosscoder", "temporal"])


@both
@pytest.mark.parametrize("change", [{"batch_rows": 1}, {"batch_rows": 16}])
def test_how_it_is_cut_changes_no_value(make, change):
    subj = make(4.0)
    one = values(SMALL.run(subj, tools()))
    two = values(dataclasses.replace(SMALL, **change).run(subj, tools()))
    for name, value in one.items():
        assert two[name] == pytest.approx(value, rel=1e-4, abs=1e-6), name


@both
def test_tokens_that_are_all_left_out_leave_nothing(make):
    subj = make(4.0)
    none = [w._replace(rule=w.rule._replace(median_norm=1e-9)) for w in subj.ways]
    empty = subj._replace(rule=none[0].rule, beside=tuple(none[1:]))
    result = SMALL.run(empty, tools())
    assert result.details["tokens"]["kept"] == 0
    assert result.scores["fvu"].value is None and result.scores["ce_rise"].value == 0


def test_a_subject_that_does_not_give_what_is_coded_is_refused():
    three, seq = crosscoder(), temporal()
    for subj, said in [
        (three._replace(beside=()), "1 sites"),
        (three._replace(beside=three.beside[:1]), "2 sites"),
        (seq._replace(window=0), "window=0"),
        (seq._replace(beside=three.beside), "3 sites"),
        (three._replace(window=4), "window=4"),
    ]:
        with pytest.raises(ConfigError, match=said):
            SMALL.run(subj, tools())


def test_an_evaluation_of_single_activations_refuses_both(monkeypatch):
    monkeypatch.setattr(Core, "events", frozenset())
    for subj, axis in [(crosscoder(), "site"), (temporal(), "seq")]:
        with pytest.raises(ConfigError, match=f"{axis} jointly"):
            SMALL.run(subj, tools())
