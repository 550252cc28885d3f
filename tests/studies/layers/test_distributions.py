"""Closed forms of spreads over layers."""

import math

import torch

from saekit.studies.layers.distributions import active_layers, distribution, latent_table, spread
from saekit.studies.layers.sums import LayerSums
from tests.studies.layers.world import codes, some_acts


def column(*values):
    return torch.tensor(values, dtype=torch.float64)[:, None]


def test_one_layer_has_no_spread():
    found = distribution(column(0.0, 0.0, 3.3, 0.0), [0, 1, 2, 3])
    assert float(found.mean) == 2 and float(found.std) == 0 and float(found.entropy) == 0
    assert math.isnan(float(found.bimodality))


def test_layer_0_is_a_layer():
    found = distribution(column(5.0, 0.0), [0, 1])
    assert float(found.mean) == 0 and float(found.p[0]) == 1


def test_an_even_spread():
    n = 30
    found = distribution(torch.ones(n, 1), list(range(n)))
    assert math.isclose(float(found.mean), (n - 1) / 2)
    assert math.isclose(float(found.variance), (n * n - 1) / 12)
    assert math.isclose(float(found.entropy), math.log(n))
    assert abs(float(found.bimodality) - 5 / 9) < 0.01


def test_two_layers_are_as_bimodal_as_can_be():
    found = distribution(column(1.0, 0.0, 0.0, 0.0, 1.0), [0, 1, 2, 3, 4])
    assert math.isclose(float(found.bimodality), 1.0)
    found = distribution(column(1.0, 0.0, 0.0, 0.0, 3.0), [0, 1, 2, 3, 4])
    assert math.isclose(float(found.bimodality), 1.0)  # whatever their weights


def test_moments_are_of_the_true_layers_of_a_subset():
    found = distribution(column(1.0, 1.0), [4, 10])
    assert float(found.mean) == 7 and float(found.std) == 3


def test_a_concentrated_latent_keeps_its_deviation():
    """Squares subtracted would give a variance below 0 and lose the latent."""
    totals = column(1e-9, 7.0, 1e-9)
    p = (totals / totals.sum()).float()
    layer = torch.tensor([1000.0, 1001.0, 1002.0])[:, None]
    careless = float((layer.square() * p).sum() - (layer * p).sum().square())
    found = float(distribution(totals, [1000, 1001, 1002]).std)
    assert careless <= 0 or abs(math.sqrt(careless) - found) > 1e-6  # the test can fail
    assert math.isclose(found, math.sqrt(2e-9 / 7), rel_tol=1e-4)


def test_a_dead_latent_has_no_figures():
    found = distribution(torch.zeros(3, 1), [0, 1, 2])
    assert all(math.isnan(float(v)) for v in (found.mean, found.std, found.bimodality))


def test_active_layers_need_a_share_of_tokens():
    counts = torch.tensor([[10_000], [9_999], [0]])
    tokens = torch.full((3,), 100_000_000)
    assert active_layers(counts, tokens).tolist() == [1]
    assert active_layers(counts, tokens, 0.0).tolist() == [2]


def test_the_table_names_every_latent():
    sums = LayerSums([0, 1, 2], 7)
    acts = some_acts()
    acts[:, :, 3] = 0
    sums.add(codes(acts), 40, 40)
    columns = latent_table(sums, ["L0", "L1", "L2"]).columns
    assert columns["latent"] == list(range(7)) and math.isnan(columns["layer_mean"][3])
    assert columns["count"][3] == 0 and math.isnan(columns["layer_entropy"][3])
    share = [columns[f"p_L{i}"][0] for i in range(3)]
    assert math.isclose(sum(share), 1)


def test_the_standard_error_counts_latents_that_have_a_value():
    found = spread(torch.tensor([1.0, 3.0, math.nan]))
    assert found.mean == 2 and found.std == 1 and found.n == 2
    assert math.isclose(found.sem, 1 / math.sqrt(2))
