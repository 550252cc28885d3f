"""Effects of latents: what finite differences give, and what setting them all to 0 takes away."""

import dataclasses

import pytest
import torch

import saekit
from saekit.core.errors import ConfigError, DataError
from saekit.models.tiny import tiny
from tests.hub.test_splicing import TOKENS, an_sae


@pytest.fixture(scope="module")
def lm():
    return tiny("llama", dtype=torch.float64)


def difference(logits):
    return (logits[:, -1, 65] - logits[:, -1, 66]).sum()


@pytest.mark.parametrize(("read", "write"), [("L0.resid_post", ""), ("L0.mlp_in", "L0.mlp_out")])
def test_gradient_times_activation_is_the_slope_of_turning_a_latent_down(lm, read, write):
    sae = an_sae(lm, read, write)
    found = saekit.attribute(lm, sae, TOKENS, of=65, against=66)
    assert found.quantity == pytest.approx(float(difference(lm.logits(TOKENS))), abs=1e-5)
    place, latent, act, effect = found.top(1)[0]
    row, position = divmod(place, TOKENS.shape[1])
    step = 1e-3

    def at(share):
        def mask(tokens, _):
            chosen = torch.zeros_like(tokens, dtype=torch.bool)
            chosen[row, position] = True
            return chosen

        with saekit.splice(lm, sae).edit(latent, scale=share, where=mask):
            return float(difference(lm.logits(TOKENS)))

    slope = (at(1 + step) - at(1 - step)) / (2 * step)
    assert effect == pytest.approx(slope, rel=2e-3)
    dense = sae.encode(lm.read(TOKENS, read)).dense()
    assert act == pytest.approx(float(dense[row, position, latent]), rel=1e-5)


def test_integrated_effects_sum_to_what_all_latents_together_are_worth(lm):
    sae = an_sae(lm)
    found = saekit.attribute(lm, sae, TOKENS, of=difference, method="integrated", steps=64)
    acts = lm.read(TOKENS, sae.site)
    latents = sae.decode(sae.encode(acts)) - sae.sae.b_dec.detach()
    without = lm.logits(TOKENS, {sae.site: lambda x: x - latents.to(x)})
    worth = float(difference(lm.logits(TOKENS)) - difference(without))
    assert found.total == pytest.approx(worth, rel=0.02)
    coarse = saekit.attribute(lm, sae, TOKENS, of=difference)
    assert abs(coarse.total - worth) > abs(found.total - worth)


def test_tokens_that_the_rules_leave_out_have_no_effect(lm):
    sae = an_sae(lm)
    rules = {
        name: rule._replace(special_ids=(int(TOKENS[0, 8]),))
        for name, rule in sae.card.rules.items()
    }
    sae = dataclasses.replace(sae, card=dataclasses.replace(sae.card, rules=rules))
    effects = saekit.attribute(lm, sae, TOKENS, of=65).effects
    left_out = torch.isin(TOKENS, TOKENS[0, 8:]).flatten()
    assert not effects.values[left_out[effects.rows()]].any()
    assert effects.values[~left_out[effects.rows()]].any()


def test_latents_are_summed_over_tokens(lm):
    found = saekit.attribute(lm, an_sae(lm), TOKENS, of=65)
    dense = found.effects.dense().sum((0, 1))
    latent, effect = found.by_latent(1)[0]
    assert latent == int(dense.abs().argmax()) and effect == pytest.approx(float(dense[latent]))
    assert str(latent) in str(saekit.attribute(lm, an_sae(lm), "abc", of="x"))


def test_what_is_no_token_or_no_number_is_refused(lm):
    sae = an_sae(lm)
    with pytest.raises(DataError, match="tokens of"):
        saekit.attribute(lm, sae, "abc", of="two")
    with pytest.raises(DataError, match="0..257"):
        saekit.attribute(lm, sae, "abc", of=258)
    with pytest.raises(ConfigError, match="one number"):
        saekit.attribute(lm, sae, "abc", of=lambda logits: logits[0])
    with pytest.raises(ConfigError, match="at least 1"):
        saekit.attribute(lm, sae, "abc", of="x", method="integrated", steps=0)
    with saekit.splice(lm, sae), pytest.raises(ConfigError, match="Leave the"):
        saekit.attribute(lm, sae, "abc", of="x")
