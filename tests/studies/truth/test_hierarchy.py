import pytest
import torch

from saekit.core.errors import ConfigError
from saekit.core.seeds import generator
from saekit.studies.truth.model import magnitudes as sizes
from saekit.studies.truth.model.base import TruthConfig
from saekit.studies.truth.model.correlation import LowRank
from saekit.studies.truth.model.firing import Zipf
from saekit.studies.truth.model.hierarchy import GivenHierarchy, Grown
from tests.studies.truth.world import errors, fired, truth

N = 200_000
RELU = sizes.ReluNormal(mean=1.0, std=0.7)


def grown(**fields):
    return Grown(**({"roots": 2, "branching": 3, "depth": 3, "exclusive_share": 1.0} | fields))


def deep(correlation=None, magnitudes=None, **fields):
    """Return a forest of three levels whose rates fall fast enough to be possible."""
    tree = grown(compensate="exact", **fields)
    rates = [0.5, 0.4] + [0.1] * 6 + [0.02] * 18 + [0.005] * 54 + [0.05] * 4
    return truth(
        rates, hierarchy=tree, correlation=correlation, magnitudes=magnitudes or sizes.Constant()
    )


def test_grown_trees_go_by_breadth_and_leave_the_rest_alone():
    parent = grown().forest(90, torch.Generator()).parent.tolist()
    assert parent[:8] == [-1, -1, 0, 0, 0, 1, 1, 1] and parent[8:11] == [2, 2, 2]
    assert parent[80:] == [-1] * 10
    short = grown().forest(10, torch.Generator()).parent.tolist()
    assert short == [-1, -1, 0, 0, 0, 1, 1, 1, 2, 2]


@pytest.mark.parametrize("correlation", [None, LowRank(rank=3, scale=0.3)], ids=["alone", "copula"])
@pytest.mark.parametrize("magnitudes", [sizes.Constant(), RELU], ids=lambda m: m.name)
def test_no_child_without_its_parent_and_no_two_exclusive_siblings(correlation, magnitudes):
    made = TruthConfig(
        n_features=60,
        d_model=8,
        firing=Zipf(highest=0.6, lowest=0.2),
        magnitudes=magnitudes,
        correlation=correlation,
        hierarchy=grown(exclusive_share=0.5),
    ).build()
    on, forest = fired(made, N), made.forest
    child = (forest.parent[:60] >= 0).nonzero()[:, 0]
    assert not (on[:, child] & ~on[:, forest.parent[child]]).any()
    exclusive = forest.exclusive.nonzero()[:, 0].tolist()
    assert exclusive
    for node in exclusive:
        assert on[:, forest.parent[:60] == node].sum(1).max() == 1
    other = int((forest.parent[:2] + 1 + ~forest.exclusive[:2]).argmax())
    assert other in exclusive or on[:, forest.parent[:60] == other].sum(1).max() > 1


COPULA = LowRank(rank=3, scale=0.3)
# Rates under a copula take a second to solve: each share and each law of magnitudes once.
COMPENSATED = [
    pytest.param(
        magnitudes, share, correlation, marks=marks, id=f"{magnitudes.name}-{share}-{name}"
    )
    for magnitudes in (sizes.Constant(), RELU)
    for share in (0.0, 1.0)
    for name, correlation, marks in (
        ("alone", None, ()),
        ("copula", COPULA, () if share == (magnitudes is RELU) else pytest.mark.slow),
    )
]


@pytest.mark.parametrize(("magnitudes", "share", "correlation"), COMPENSATED)
def test_compensated_rates_hit_their_targets_at_every_depth(magnitudes, share, correlation):
    made = deep(correlation, magnitudes, exclusive_share=share)
    positive = magnitudes.averages(made.tensors["mean"], made.tensors["std"])[1]
    wanted = made.probabilities * positive
    torch.testing.assert_close(made.rates, wanted, rtol=2e-4, atol=0)
    assert "hierarchy" not in made.notes
    z = errors(fired(made, N).double().mean(0), wanted, N)
    # rates under a copula are solved by quasi Monte Carlo: a few in a thousand besides
    assert z.abs().max() < (4.5 if correlation is None else 6)
    levels = [slice(0, 2), slice(2, 8), slice(8, 26), slice(26, 80)]
    found = fired(made, N, 1).double().mean(0)
    for level in levels:
        assert float((found[level].sum() / wanted[level].sum() - 1).abs()) < 0.02


def test_expected_rates_without_compensation_are_what_samples_tend_to():
    for correlation in (None, LowRank(rank=3, scale=0.3)):
        made = truth(
            [0.5] + [0.4] * 12,
            hierarchy=grown(roots=1, depth=2, exclusive_share=0.5),
            correlation=correlation,
        )
        found = fired(made, N).double().mean(0)
        assert errors(found, made.rates, N).abs().max() < 5
        assert made.rates[1] < 0.3


def test_rates_above_what_a_parent_allows_are_refused_or_clamped_and_noted():
    edges = ((0, 1), (0, 2))
    with pytest.raises(ConfigError, match="Feature 1 cannot fire on 0.3 .*, 0, is on for 0.2"):
        truth([0.2, 0.3, 0.1], hierarchy=GivenHierarchy(edges=edges, compensate="exact"))
    with pytest.raises(ConfigError, match="together with its exclusive siblings at 0.25"):
        apart = GivenHierarchy(edges=edges, exclusive=(0,), compensate="exact")
        truth([0.2, 0.15, 0.1], hierarchy=apart)
    law = {"edges": edges, "compensate": "exact", "impossible": "clamp"}
    made = truth([0.2, 0.3, 0.1], hierarchy=GivenHierarchy(**law))
    assert made.notes["hierarchy"]["clamped"] == [1]
    assert made.rates.tolist() == pytest.approx([0.2, 0.2, 0.1], rel=1e-4)
    made = truth([0.2, 0.15, 0.1], hierarchy=GivenHierarchy(**law, exclusive=(0,)))
    assert made.rates.tolist() == pytest.approx([0.2, 0.196 * 0.6, 0.196 * 0.4], rel=1e-4)
    assert errors(fired(made, N).double().mean(0), made.rates, N).abs().max() < 4


def test_the_published_compensation_misses_and_says_so():
    made = deep()
    rates = made.probabilities.tolist()
    short = truth(rates, hierarchy=grown(compensate="published"))
    assert short.notes["hierarchy"]["missed"] > 50
    assert abs(float(short.rates[26:80].sum() / short.probabilities[26:80].sum()) - 1) > 0.05
    assert errors(fired(short, N).double().mean(0), short.rates, N).abs().max() < 4.5


def test_children_are_scaled_by_their_parent_and_it_by_its_own():
    law = GivenHierarchy(edges=((0, 1), (1, 2)), scaled=(0, 1))
    made = truth([0.5, 0.9, 0.9], hierarchy=law, magnitudes=sizes.FoldedNormal(mean=2.0, std=1.0))
    acts = made.sample(N, generator(0)).acts.dense().double()
    average = made.tensors["average"][0].item()
    for below in (1, 2):
        both = acts[acts[:, below] > 0]
        ratio = both[:, below] / both[:, below - 1] * average
        assert ratio.mean().item() == pytest.approx(average, rel=0.01)
        corr = torch.corrcoef(torch.stack([ratio, both[:, below - 1]]))[0, 1]
        assert abs(corr) < 0.01


def test_of_a_group_at_most_one_fires():
    law = GivenHierarchy(groups=((0, 1, 2), (3, 4)), compensate="exact")
    made = truth([0.2, 0.3, 0.4, 0.5, 0.4, 0.5], hierarchy=law)
    on = fired(made, N)
    assert on[:, :3].sum(1).max() == 1 and on[:, 3:5].sum(1).max() == 1
    assert errors(on.double().mean(0), made.probabilities, N).abs().max() < 4
