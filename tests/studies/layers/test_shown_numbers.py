"""Numbers that commands and figures of layers show, worked out by hand."""

import math

import pytest
import torch

from saekit.studies.layers.distributions import (
    by_mean_layer,
    distribution,
    even_spread,
    mean_layer_density,
    single_layer_share,
)
from saekit.studies.layers.geometry import PairHistogram
from saekit.studies.layers.sums import LayerSums

#                       latent 0: layers 2, 4; 1: layer 4; 2: never; 3: layer 2
TOTALS = torch.tensor([[1.0, 0.0, 0.0, 5.0], [0.0, 0.0, 0.0, 0.0], [1.0, 3.0, 0.0, 0.0]])


def test_spread_of_an_even_latent():
    assert even_spread([2, 3, 4]) == pytest.approx(math.sqrt(2 / 3))
    assert even_spread([7]) == 0


def test_late_layers_come_first():
    assert by_mean_layer(distribution(TOTALS, [2, 3, 4])).tolist() == [1, 0, 3]


def test_share_of_tokens_at_one_layer_only():
    sums = LayerSums([2, 3], 2)
    assert single_layer_share(sums) == 0
    sums.singles[:] = torch.tensor([2, 1])
    sums.shares[:] = torch.tensor([[5.0, 1.0], [3.0, 3.0]])
    assert int(sums.pairs.sum()) == 12 and single_layer_share(sums) == 0.25


def test_density_of_mean_layers():
    table = mean_layer_density(distribution(TOTALS, [2, 3, 4]), [2, 3, 4], bins_per_layer=2)
    c = table.columns
    assert c["layer_from"] == [2.0, 2.5, 3.0, 3.5] and c["layer_to"] == [2.5, 3.0, 3.5, 4.0]
    assert c["latents"] == [1, 0, 1, 1]
    assert c["density"] == pytest.approx([2 / 3, 0, 2 / 3, 2 / 3])
    assert sum(0.5 * d for d in c["density"]) == pytest.approx(1)


def pairs():
    counts = torch.tensor([[0, 2, 8, 0], [1, 0, 1, 0], [0, 0, 0, 0]])
    return PairHistogram(
        counts,
        torch.tensor([0.0, 1.0, 2.0, 3.0]),
        torch.tensor([-1.0, -0.5, 0.0, 0.5, 1.0]),
        torch.tensor([0.3, 0.1, math.nan]),
        torch.tensor([0.2, 0.4, math.nan]),
        9,
    )


def test_pairs_as_shares_of_the_fullest_bin():
    found = pairs().fullness()
    assert found.tolist() == [[0, 0.25, 1, 0], [1, 0, 1, 0], [0, 0, 0, 0]]
    assert pairs().middles().tolist() == [0.5, 1.5, 2.5]


def test_the_axis_of_cosines_leaves_few_pairs_out():
    # Below 0 lie 3 of 12 pairs, below -0.5 one.
    assert pairs().shown_cosines(0.1) == (-0.5, 0.0)
    assert pairs().shown_cosines(0.01) == (-1.0, 0.0)
    ends = torch.tensor([[1, 2, 16, 1], [0, 0, 0, 0], [0, 0, 0, 0]])  # 5 % of pairs at either end
    tail = pairs()._replace(counts=ends)
    assert tail.shown_cosines(0.1) == (-0.5, 0.0) and tail.shown_cosines(0.01) == (-1.0, 0.5)
    none = pairs()._replace(counts=torch.zeros(3, 4, dtype=torch.int64))
    assert none.shown_cosines(0.1) == (-1.0, 1.0)


def test_means_by_distance_have_a_standard_error():
    columns = pairs().means().columns
    assert columns["pairs"] == [10, 2, 0]
    assert columns["sem"][:2] == pytest.approx([0.2 / math.sqrt(10), 0.4 / math.sqrt(2)])
    assert math.isnan(columns["sem"][2])
    assert (columns["distance_from"], columns["distance_to"]) == ([0, 1, 2], [1, 2, 3])
