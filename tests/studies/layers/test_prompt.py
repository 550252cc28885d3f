"""Readings of prompts on the tiny model: answers against their definitions, and bad input."""

import json
import math

import pytest
import torch

from saekit.core.errors import ConfigError, DataError, UnknownNameError
from saekit.studies.layers.prompt import PromptReading, Steering
from tests.studies.layers.world import SITES, opened

TEXT = "the cat <b>sat</b> — 12\n"


@pytest.fixture(scope="module")
def reading():
    shared, lm, _ = opened()
    return PromptReading(shared, lm, TEXT)


def test_tokens_are_readable_and_joined_the_text(reading):
    tokens = reading.token_list()
    assert "".join(t["token"] for t in tokens[1:]) == TEXT
    assert tokens[0]["layers"] == 0 and tokens[2]["layers"] == 3  # BOS counts at no layer


def test_entries_and_strips_are_what_the_sae_gives(reading):
    shared, lm = reading.shared, reading.lm
    site = shared.sites[1]
    acts = lm.read(reading.tokens, [site])[site]
    keep = shared.rule(site).keep(reading.tokens, acts)[0]
    codes, strengths = shared.encode(site, acts[0, keep])
    entries = reading.entries()[str(site)]
    assert len(entries) == len(strengths)
    assert [e[1] for e in entries] == codes.latents.tolist()
    pos, latent, value = entries[5]
    assert reading.strip(str(site), latent)[pos] == value
    assert sum(map(len, reading.entries().values())) <= 3 * len(reading.ids) * 4  # k = 4


def test_the_heatmap_keeps_what_is_over_the_threshold(reading):
    everything = reading.heatmap(4, 0.0)
    some = reading.heatmap(4, 0.6)
    assert 0 < len(some) < len(everything)
    means = [row["layer_mean"] for row in some]
    assert means == sorted(means)
    assert all(share > 0.6 for row in some for _, _, share in row["values"])
    whole = next(r for r in everything if r["latent"] == some[0]["latent"])
    assert whole["layer_mean"] == some[0]["layer_mean"]  # weighted by all layers


def test_histograms_count_every_activation(reading):
    found = reading.histograms(16)
    assert len(found["edges"]) == 17
    for site, counts in found["counts"].items():
        assert sum(counts) == len(reading.entries()[site])


def test_spread_over_layers_is_sorted_and_sums_to_1(reading):
    found = reading.spread_over_layers()
    assert found["layer_mean"] == sorted(found["layer_mean"], reverse=True)
    assert all(math.isclose(sum(p), 1) for p in found["p"])


def test_logits_of_the_input_are_the_models(reading):
    logits = reading.lm.logits(reading.tokens)[0].float()
    for pos, line in enumerate(reading.logits_input(3)):
        assert [c["id"] for c in line] == logits[pos].topk(3).indices.tolist()
        assert 0 < line[0]["prob"] <= 1


@pytest.mark.parametrize("site", SITES)
def test_a_reconstruction_is_put_at_its_own_layer(reading, site):
    """Layer 0 is a layer: what is replaced there is not what is replaced at the last."""
    from saekit.models.sites import parse_site

    place = parse_site(site)
    acts = reading.lm.read(reading.tokens, [place])[place]
    keep = reading.kept[place][None]
    new = acts.clone()
    new[keep] = reading.shared.at(place)(acts[keep])
    after = reading.lm.logits(reading.tokens, {place: lambda _: new})[0].float()
    gap = after - reading.lm.logits(reading.tokens)[0].float()
    found = reading.logits_reconstructed(site, 2)
    assert [c["id"] for c in found["up"][5]] == gap[5].topk(2).indices.tolist()
    assert math.isclose(found["down"][5][0]["logit"], float(gap[5].min()), rel_tol=1e-2)


def test_steering_adds_the_unit_direction(reading):
    site = reading.shared.sites[0]
    row = reading.shared.directions(site)[7]
    row = row / row.norm()
    moved = reading.lm.logits(reading.tokens, {site: lambda x: x + 2.5 * row})[0].float()
    gap = moved - reading.lm.logits(reading.tokens)[0].float()
    found = reading.logits_steered(Steering(str(site), 7, 2.5, "direction"), 2)
    assert [c["id"] for c in found["up"][3]] == gap[3].topk(2).indices.tolist()
    only = reading.logits_steered(Steering(str(site), 7, 2.5, "direction", (3,)), 1)
    assert only["up"][2][0]["logit"] == 0 < abs(only["up"][3][0]["logit"])  # causal
    none = reading.logits_steered(Steering(str(site), 7, 0.0), 1)
    assert none["up"][3][0]["logit"] == 0


def test_metrics_of_a_prompt(reading):
    rows = reading.metrics()
    assert [r["site"] for r in rows] == list(SITES)
    assert all(r["fvu"] > 0 and 0 < r["l0"] <= 4 for r in rows)


def test_empty_and_one_token_prompts():
    shared, lm, _ = opened()
    with pytest.raises(DataError, match="empty"):
        PromptReading(shared, lm, "")
    one = PromptReading(shared, lm, "a")
    assert len(one.token_list()) == 2 and len(one.logits_input(2)) == 2
    shared.card = type(shared.card)(**{**shared.card.__dict__, "bos": False})
    alone = PromptReading(shared, lm, "a")
    assert len(alone.ids) == 1 and len(alone.heatmap(0, 0.0)) > 0
    assert alone.metrics()[0]["fvu"] is None  # one token does not vary
    assert len(alone.logits_reconstructed(SITES[0], 1)["top"]) == 1
    with pytest.raises(ConfigError, match="reads 256 at most"):
        PromptReading(shared, lm, "a" * 300)


def test_what_there_is_not_is_refused(reading):
    with pytest.raises(ConfigError, match=r"L0.resid_pre.*got L1.mlp_out"):
        reading.strip("L1.mlp_out", 0)
    with pytest.raises(UnknownNameError, match=r"no latent 64; there are 0..63"):
        reading.strip(SITES[0], 64)
    with pytest.raises(UnknownNameError, match="no latent -1"):
        reading.logits_steered(Steering(SITES[0], -1, 1.0))
    with pytest.raises(ConfigError, match="Positions here are"):
        reading.heatmap(len(reading.ids))
    with pytest.raises(ConfigError, match="finite"):
        reading.logits_steered(Steering(SITES[0], 1, math.inf))
    with pytest.raises(ConfigError, match="vocabulary"):
        reading.logits_input(0)


def test_answers_are_json(reading):
    for answer in (
        reading.entries(),
        reading.heatmap(3),
        reading.histograms(),
        reading.logits_steered(Steering(SITES[1], 2, 1.0)),
        reading.metrics(),
        reading.spread_over_layers(),
    ):
        json.dumps(answer, allow_nan=False)


def test_unsteered_positions_keep_their_predictions(reading):
    before = torch.tensor([c[0]["logit"] for c in reading.logits_input(1)])
    after = reading.logits_steered(Steering(SITES[2], 0, 5.0, "norm", (6,)), 1)["top"]
    changed = torch.tensor([c[0]["logit"] for c in after])
    assert torch.equal(before[:6], changed[:6])
