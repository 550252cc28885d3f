"""The variance decomposition against its definition, and the published formulas."""

import math

import torch

from saekit.studies.layers.sums import LayerSums
from saekit.studies.layers.variances import decomposition, legacy_variances
from tests.studies.layers.world import codes, some_acts

NUMBERS = [2, 5, 9]


def summed(acts):
    found = LayerSums(NUMBERS, acts.shape[2])
    found.add(codes(acts), acts.shape[1], acts.shape[1])
    return found


def test_the_parts_are_those_of_the_definition():
    a = some_acts().double()
    layer = torch.tensor(NUMBERS).double()[:, None, None]
    whole, pair, latent = a.sum(), a.sum(0), a.sum((0, 1))
    mean = (layer * a).sum() / whole
    by_pair = (layer * a).sum(0) / pair
    by_latent = (layer * a).sum((0, 1)) / latent
    found = decomposition(summed(some_acts()))
    total = ((layer - mean).square() * a).sum() / whole
    within = ((layer - by_pair.nan_to_num(0)).square() * a).sum() / whole
    between = ((by_pair - by_latent).square().nan_to_num(0) * pair).sum() / whole
    latents = ((by_latent - mean).square() * latent).sum() / whole
    assert math.isclose(found.total, float(total))
    assert math.isclose(found.within_token, float(within))
    assert math.isclose(found.between_tokens, float(between))
    assert math.isclose(found.between_latents, float(latents))
    parts = found.between_latents + found.between_tokens + found.within_token
    assert math.isclose(parts, found.total)
    assert min(found[:4]) > 0.01


def test_a_latent_that_moves_between_tokens_only():
    acts = torch.zeros(3, 2, 1)
    acts[0, 0, 0] = acts[2, 1, 0] = 1.0
    found = decomposition(summed(acts))
    assert found.within_token == 0 and math.isclose(found.between_tokens, 3.5**2)
    assert math.isclose(found.total, 3.5**2) and found.between_latents == 0


def test_a_latent_at_all_layers_of_a_token():
    found = decomposition(summed(torch.ones(3, 4, 1)))
    assert found.between_tokens < 1e-12 and math.isclose(found.within_token, found.total)
    assert math.isclose(found.tokens_over_within, 1.0)


def test_the_published_formulas():
    a = some_acts().double()
    layer = torch.tensor(NUMBERS).double()[:, None, None]
    p = (a / a.sum(0)).nan_to_num(0)

    def var(x):
        return (layer[: len(x)].view(-1, *[1] * (x.ndim - 1)).square() * x).sum(0) - (
            layer.view(-1, *[1] * (x.ndim - 1)) * x
        ).sum(0).square()

    found = legacy_variances(summed(some_acts()))
    assert math.isclose(found.exp_var_l_tf, float(var(p).mean()))
    assert math.isclose(found.exp_var_l_f, float(var(p.mean(1)).mean()))
    assert math.isclose(found.var_l, float(var(p.mean((1, 2)))))
    assert math.isclose(found.rel_var_t, found.exp_var_l_tf / found.exp_var_l_f)
    # What is wrong with them: silent tokens make p sum to less than 1.
    assert float(p.mean(1).sum(0).max()) < 0.9
