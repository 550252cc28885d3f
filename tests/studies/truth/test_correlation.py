import math

import pytest
import torch

from saekit.studies.truth.model import correlation as c
from saekit.studies.truth.model.hierarchy import Grown
from tests.studies.truth.world import errors, fired, truth

N = 1_000_000


def orthant(a, b, rho, steps=20_001):
    """P(X > h, Y > k) by integrating over X, by Simpson's rule."""
    ndtri, ndtr = torch.special.ndtri, torch.special.ndtr
    h, k = (-ndtri(torch.tensor([a, b], dtype=torch.float64))).tolist()
    x = torch.linspace(h, 10, steps, dtype=torch.float64)
    y = torch.exp(-x * x / 2) / math.sqrt(2 * math.pi) * ndtr((rho * x - k) / math.sqrt(1 - rho**2))
    weights = torch.ones(steps).double()
    weights[1:-1:2], weights[2:-1:2] = 4, 2
    return float((weights * y).sum() * (x[1] - x[0]) / 3)


LAWS = {
    "dense": c.GivenCorrelation(
        matrix=((1, 0.6, -0.4, 0), (0.6, 1, 0, 0.2), (-0.4, 0, 1, 0.3), (0, 0.2, 0.3, 1))
    ),
    "block": c.Blocks(size=3, lowest=0.5, highest=0.7),
    "low_rank": c.LowRank(rank=2, scale=0.5),
    "pairs": c.Pairs(pairs=(c.Pair(a=0, b=1, correlation=0.8),), others=0.1),
    "random_pairs": c.RandomPairs(highest=0.4),
}


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_marginals_and_pairs_of_the_copula_have_their_closed_form(law):
    rates = [0.4, 0.1, 0.03, 0.005]
    made = truth(rates, correlation=law)
    on = fired(made, N).double()
    assert errors(on.mean(0), rates, N).abs().max() < 4
    matrix = made.loadings.matrix()
    together = on.T @ on / N
    for i in range(4):
        for j in range(i):
            wanted = orthant(rates[i], rates[j], float(matrix[i, j]))
            assert abs(errors(together[i, j], wanted, N)) < 4, (i, j)
    triple = orthant_of_three(rates[:3], made.loadings)
    assert abs(errors((on[:, :3].all(1)).double().mean(), triple, N)) < 4


def orthant_of_three(rates, loadings):
    """P(all three) over many draws of the common factors, which is exact given them."""
    chance = torch.Generator().manual_seed(5)
    blocks, size, rank = loadings.factor.shape
    common = torch.randn(400_000, blocks, rank, generator=chance)
    product = torch.ones(400_000).double()
    for j, p in enumerate(rates):
        score = (common[:, j // size] @ loadings.factor[j // size, j % size]).double()
        bar = -torch.special.ndtri(torch.tensor(p, dtype=torch.float64))
        product *= torch.special.ndtr((score - bar) / loadings.diag[j].double().sqrt())
    return float(product.mean())


def test_a_given_matrix_is_the_one_used():
    matrix = LAWS["dense"].matrix
    made = truth([0.5] * 4, correlation=LAWS["dense"])
    torch.testing.assert_close(
        made.loadings.matrix(), torch.tensor(matrix).double(), atol=1e-6, rtol=0
    )
    assert made.notes == {}


def test_a_matrix_that_is_none_is_mended_and_noted():
    law = c.GivenCorrelation(matrix=((1, 0.9, -0.9), (0.9, 1, 0.9), (-0.9, 0.9, 1)))
    made = truth([0.2, 0.2, 0.2], correlation=law)
    notes = made.notes["correlation"]
    assert notes["smallest_eigenvalue"] == pytest.approx(-0.8)
    assert notes["largest_change"] > 0.1 and notes["repaired_blocks"] == 1
    matrix = made.loadings.matrix()
    assert torch.linalg.eigvalsh(matrix)[0] > 0
    torch.testing.assert_close(matrix.diagonal(), torch.ones(3).double())
    on = fired(made, N).double()
    assert errors(on.mean(0), [0.2] * 3, N).abs().max() < 4


def test_rows_of_a_low_rank_that_are_too_long_are_shrunk_and_noted():
    made = truth([0.2] * 5, correlation=c.LowRank(rank=8, scale=1.0))
    assert made.notes["correlation"]["shrunk_rows"] == 5
    assert made.loadings.diag.min() == pytest.approx(0.01, abs=1e-6)


def test_no_correlation_at_all_needs_no_common_factor():
    tree = Grown(roots=1, branching=2, depth=1, compensate="exact")
    made = truth([0.5, 0.2, 0.1, 0.3], correlation=c.Pairs(), hierarchy=tree)
    assert made.loadings.factor.shape[-1] == 0
    on = fired(made, N).double()
    assert errors(on.mean(0), [0.5, 0.2, 0.1, 0.3], N).abs().max() < 4


@pytest.mark.parametrize("law", [LAWS["low_rank"], LAWS["block"]], ids=["low_rank", "block"])
def test_features_below_a_parent_keep_their_correlations(law):
    """Children are drawn on request; where their parent is nearly always on, as if alone."""
    rates = [0.999999, 0.3, 0.1, 0.05]
    tree = Grown(roots=1, branching=3, depth=1)
    made = truth(rates, correlation=law, hierarchy=tree)
    on, matrix = fired(made, N).double(), made.loadings.matrix()
    assert errors(on.mean(0)[1:], rates[1:], N).abs().max() < 4
    for i, j in ((1, 2), (1, 3), (2, 3)):
        wanted = orthant(rates[i], rates[j], float(matrix[i, j]))
        assert abs(errors((on[:, i] * on[:, j]).mean(), wanted, N)) < 4
