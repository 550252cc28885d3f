"""Stability finds what was planted: shares, nulls, clusters, spaces, arms; intervals hold them."""

import dataclasses
import math

import pytest
import torch

from saekit.core.errors import ConfigError
from saekit.metrics.coactivation import Coactivation
from saekit.models.sites import parse_site
from saekit.models.tiny import tiny
from saekit.saes.topk import TopK
from saekit.studies.faithful.evals.seed_stability import SeedStability
from saekit.studies.faithful.stability import arms
from saekit.studies.faithful.stability.clusters import clusters
from saekit.studies.faithful.stability.dictionaries import Dictionary, rotated
from saekit.studies.faithful.stability.effects import Ablation
from saekit.studies.faithful.stability.intervals import TWO, of_share, over_seeds
from saekit.studies.faithful.stability.pairs import match_pair, null_cosines, share_of_all
from saekit.studies.faithful.stability.subspaces import unstable_overlap
from tests.evals.world import subject, tools

D, N = 96, 300


def planted(n_seeds, share=0.4, dead=0, low_rank=False, seed=0):
    """Dictionaries with the first `share` of rows in common but for noise, the others their own."""
    chance = torch.Generator().manual_seed(seed)
    kept = round(share * N)
    common = torch.nn.functional.normalize(torch.randn(kept, D, generator=chance), dim=1)
    basis = torch.randn(8, D, generator=chance)
    found = []
    for k in range(n_seeds):
        noise = torch.randn(kept, D, generator=chance) / math.sqrt(D)
        own = torch.randn(N - kept, D, generator=chance)
        if low_rank:
            own = torch.randn(N - kept, 8, generator=chance) @ basis + 0.7 * own
        rows = torch.cat([common + 0.3 * noise, own])
        order = torch.randperm(N, generator=chance)
        alive = torch.ones(N, dtype=torch.bool)
        alive[(order >= N - dead).nonzero()[:, 0]] = False
        found.append(Dictionary(f"seed{k}", rows[order], rows[order], alive))
    return found


def every_pair(saes):
    n = len(saes)
    return {(a, b): match_pair(saes[a], saes[b]) for a in range(n) for b in range(a + 1, n)}


@pytest.mark.parametrize("n_seeds", [2, 3])
def test_the_planted_share_is_found_and_the_interval_holds_it(n_seeds):
    matches = every_pair(planted(n_seeds))
    shares = {pair: m.share(0.7) for pair, m in matches.items()}
    ends = of_share(shares, n_seeds, N)
    assert ends.value == pytest.approx(0.4, abs=0.005)
    assert ends.low is not None and ends.high is not None and ends.low < 0.4 < ends.high
    assert (ends.reason == TWO) == (n_seeds == 2)


def test_dead_latents_are_left_out_and_the_published_ratio_counts_them():
    one, other = planted(2, share=0.5, dead=90)
    found = match_pair(one, other)
    assert len(found.one) == N - 90 and found.share(0.7) == pytest.approx(150 / 210, abs=0.01)
    assert share_of_all(one, other, 0.7) == pytest.approx(0.5, abs=0.005)
    assert one.alive[found.one].all() and other.alive[found.other].all()


def test_dictionaries_without_anything_in_common_give_the_null():
    saes = planted(2, share=0.0)
    found, null = match_pair(*saes), null_cosines(*saes, torch.Generator().manual_seed(1))
    assert found.share(0.7) == float((null["random"] > 0.7).float().mean()) == 0
    for cosines in null.values():  # two unrelated dictionaries are as near as random ones
        assert float(cosines.mean()) == pytest.approx(float(found.cosines.mean()), abs=0.01)
    turned = rotated(saes[0].decoder, torch.Generator().manual_seed(2))
    gram = saes[0].decoder @ saes[0].decoder.T
    assert torch.allclose(turned @ turned.T, gram, rtol=1e-3, atol=1e-3)


def test_clusters_hold_what_all_seeds_have():
    saes = planted(3)
    found = clusters(saes, every_pair(saes), 0.7)
    assert found.histogram() == {1: 3 * 180, 3: 120}
    assert found.core_share(3 * N) == pytest.approx(0.4)
    kept = found.of[0] == found.of[0][0]
    assert int(kept.sum()) == 1


def test_unstable_latents_span_one_space_where_one_was_planted():
    """Of 0.7 |noise| beside 8 common directions, most of what they write is in these."""
    for low_rank in (True, False):
        saes = planted(2, low_rank=low_rank)
        spaces = unstable_overlap((saes[0], saes[1]), match_pair(*saes), 0.7, rank=8)
        assert spaces is not None and spaces.random == 8 / D
        if low_rank:
            assert spaces.mean_square > 0.9
        else:
            assert abs(spaces.mean_square - 8 / D) < 0.1
    assert unstable_overlap((saes[0], saes[0]), match_pair(saes[0], saes[0]), 0.7, 8) is None


@pytest.mark.parametrize("dense", [True, False])
def test_correlations_are_those_of_the_table(dense, monkeypatch):
    if not dense:
        monkeypatch.setattr("saekit.metrics.coactivation.DENSE_PAIRS", 0)
    chance = torch.Generator().manual_seed(0)
    one, other = (torch.randn(200, n, generator=chance).sub(0.8).relu() for n in (12, 9))
    one[:, 3], other[:, 4] = one[:, 5] * 0, other[:, 4] * 0
    other[:, 2] = 2 * one[:, 0]
    from saekit.core.codes import Codes

    sums = Coactivation(12, 9)
    for rows in torch.arange(200).split(64):
        sums.add(Codes.from_dense(one[rows]).live(), Codes.from_dense(other[rows]).live())
    best, at = sums.best()
    wanted = torch.corrcoef(torch.cat([one, other], 1).T.double())[:12, 12:].nan_to_num(-1)
    assert int(at[0]) == 2 and float(best[0]) == pytest.approx(1)
    assert bool(best[3].isnan())
    rest = [i for i in range(12) if i != 3]
    assert torch.allclose(best[rest], wanted[rest].amax(1).clamp_min(0), atol=1e-5)
    pairs = torch.tensor([0, 1, 3]), torch.tensor([2, 5, 0])
    found = sums.of_pairs(*pairs)
    assert torch.allclose(found[:2], wanted[pairs][:2], atol=1e-5) and bool(found[2].isnan())


def test_arms_are_told_apart_and_what_is_not_says_so():
    base = {"seed": 0, "order_seed": 0, "corpus": {"name": "a"}}
    runs = [base, base | {"seed": 1}, base | {"order_seed": 1}, base | {"corpus": {"name": "b"}}]
    cost = (0.3, 0.1, 0.2)
    shares = {}
    for a in range(4):
        for b in range(a + 1, 4):
            differs = arms.differences(runs[a], runs[b])
            assert differs is not None
            shares[a, b] = 1 - sum(c for c, d in zip(cost, differs, strict=True) if d)
    found = arms.components(runs, shares)
    assert [found[arm].value for arm in arms.ARMS] == pytest.approx(cost)
    assert arms.shared_start(runs)
    assert arms.by_arm(runs, shares)["initialisation + data"] == {"pairs": 1, "mean": 0.5}
    plain = [{"seed": 0}, {"seed": 1}]  # one seed decides both
    found = arms.components(plain, {(0, 1): 0.6})
    assert found["initialisation"].value is None and "order" in found["initialisation"].reason
    assert "no two SAEs differ" in found["data"].reason and not arms.shared_start(plain)
    assert arms.components([{}, {}], {(0, 1): 0.6})["data"].value is None


def test_intervals_say_why_there_is_none():
    assert over_seeds({(0, 1): 0.5}, 2, "x").reason.startswith("no interval")
    assert over_seeds({(0, 1): math.nan}, 2, "no pair") == (None, None, None, "no pair")
    ends = over_seeds({(0, 1): 0.5, (0, 2): 0.6, (1, 2): 0.7}, 3, "x")
    # Leaving a seed out leaves one pair: standard error sqrt(2/3 * (0.1^2 + 0 + 0.1^2)), t of 2.
    half = 4.30265 * math.sqrt(2 / 3 * 0.02)
    assert ends.low == pytest.approx(0.6 - half, abs=1e-4)
    assert ends.high == pytest.approx(0.6 + half, abs=1e-4)


def sae_of(rows, seed):
    sae = TopK(d_in=32, d_out=32, d_sae=len(rows), k=4).build(torch.Generator().manual_seed(seed))
    rows = torch.nn.functional.normalize(rows, dim=1)
    sae.W_dec.data.copy_(rows)
    sae.W_enc.data.copy_(rows.T)
    return sae


def test_the_evaluation_finds_a_permuted_twin_and_its_effects():
    chance = torch.Generator().manual_seed(3)
    rows, lm = torch.randn(128, 32, generator=chance), tiny()
    order = torch.randperm(128, generator=chance)
    saes = [sae_of(rows, 0), sae_of(rows[order], 1), sae_of(rows.flip(0), 2)]
    subjects = [subject(s, lm)._replace(name=str(i)) for i, s in enumerate(saes)]
    kept = {}
    with_keep = tools()._replace(keep=lambda s, n, t: kept.__setitem__((s.name, n), t))
    found = SeedStability(n_tokens=1280, n_effects=8).run_together(subjects, with_keep)
    value = {name: score.value for name, score in found.scores.items()}
    for name in ("shared_feature_ratio", "encoder_decoder", "one_way", "core"):
        assert value[name] == 1, name
    assert value["activation_match"] == 1
    assert value["activation_match_shuffled"] < 0.3
    assert value["effect_matched"] == pytest.approx(1, abs=1e-3)
    assert value["effect_unmatched"] < 0.7
    assert value["ablation_matched"] == pytest.approx(1, abs=1e-3)
    assert value["ablation_unmatched"] < 0.7
    assert value["unstable_subspace"] is None
    assert value["shared_feature_ratio_rotated"] < 0.3
    table, listed = kept["0", "stability"], kept["0", "stability_matches"]
    living = [i for i, s in enumerate(table.columns["stability"]) if s is not None]
    assert {table.columns["stability"][i] for i in living} == {1.0}
    first = living[0]
    assert order[listed.columns["match"][first]] == first
    assert listed.columns["correlation"][first] == pytest.approx(1, abs=1e-3)
    assert set(table.columns["stability_cluster"]) <= {3, None}


def test_a_match_that_is_on_at_other_tokens_has_another_effect_when_it_is_taken_out():
    rows, lm = torch.randn(128, 32, generator=torch.Generator().manual_seed(3)), tiny()
    one, other = sae_of(rows, 0), sae_of(rows, 1)
    other.W_enc.data.copy_(other.W_enc.data.roll(1, dims=1))  # reads what its neighbour writes
    subjects = [subject(s, lm)._replace(name=str(i)) for i, s in enumerate((one, other))]
    found = SeedStability(n_tokens=1280, n_effects=8).run_together(subjects, tools())
    value = {name: score.value for name, score in found.scores.items()}
    assert value["shared_feature_ratio"] > 0.9
    assert value["effect_matched"] > 0.9
    assert value["ablation_matched"] < 0.5


def test_taking_a_latent_out_changes_logits_as_a_pass_without_it():
    lm, site = tiny(), parse_site("L1.resid_post")
    chance = torch.Generator().manual_seed(1)
    tokens = torch.randint(3, lm.vocab_size, (2, 12), generator=chance)
    acts, direction = torch.rand(12, generator=chance), torch.randn(32, generator=chance)
    places = torch.tensor([2, 7])
    change = Ablation(lm, site, tokens).of(1, places, acts, direction)
    clean = lm.logits(tokens)[1, places]
    without = lm.logits(tokens, {site: lambda x: x - (acts[:, None] * direction)})[1, places]
    wanted = without - clean
    wanted = wanted - wanted.mean(1, keepdim=True)
    assert torch.allclose(change, wanted.flatten(), atol=1e-4)
    assert wanted.abs().max() > 0.01


def test_saes_of_two_sites_are_refused():
    lm = tiny()
    one, other = (subject(sae_of(torch.randn(64, 32), i), lm)._replace(name=str(i)) for i in (0, 1))
    there = parse_site("L1.resid_post")
    with pytest.raises(ConfigError, match="one site"):
        SeedStability().run_together([one, other._replace(read=there, write=there)], tools())


def test_one_sae_under_two_names_is_said_and_one_that_is_dead_leaves_scores_undefined():
    lm = tiny()
    config = SeedStability(n_tokens=256, n_effects=0)
    saes = [
        TopK(d_in=32, d_out=32, d_sae=32, k=4).build(torch.Generator().manual_seed(0)) for _ in "ab"
    ]
    both = [subject(sae, lm)._replace(name=name) for sae, name in zip(saes, "ab", strict=True)]
    found = config.run_together(both, tools())
    assert "a and b have the same weights" in found.provenance["notes"][0]
    whole = dataclasses.replace(config, batch_rows=10**6).run_together(both, tools())
    assert whole.details["tokens"] == found.details["tokens"]
    with torch.no_grad():
        saes[1].W_enc.zero_()
        saes[1].b_enc.fill_(-1)
    scores = config.run_together(both, tools()).scores
    assert scores["encoder_decoder"].value is None
    assert scores["encoder_decoder"].reason == "no pair of SAEs has living latents"
    assert scores["core"].value == 0
