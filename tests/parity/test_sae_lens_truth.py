"""Synthetic models of sae-lens, saved by it and read by saekit: the same rates and magnitudes."""

import pytest
import torch

from saekit.core.codes import Codes
from saekit.core.seeds import generator
from saekit.metrics.base import Batch
from saekit.metrics.shrinkage import Shrinkage
from saekit.studies.truth.model import published
from saekit.studies.truth.model.correlation import Pair, Pairs

pytestmark = pytest.mark.parity
N = 100_000


@pytest.fixture
def peer():
    pytest.importorskip("sae_lens")
    import sae_lens.synthetic

    torch.manual_seed(0)
    return sae_lens.synthetic


def both(peer, folder, roots=None, rate=0.5, **fields):
    """Return activations of a model as sae-lens samples it, and as saekit does its files."""
    law = peer.ConstantFiringProbabilityConfig(probability=rate)
    fields = {"num_features": 5, "hidden_dim": 8, "seed": 1, "firing_probability": law} | fields
    trees = roots and peer.Hierarchy(roots=roots, modifier=peer.hierarchy_modifier(roots))
    more = {"hierarchy": trees} if trees else {}
    made = peer.SyntheticModel(peer.SyntheticModelConfig(**fields), **more)
    made.save(folder)
    theirs = made.activation_generator.sample(N)
    ours = published.load(folder).sample(N, generator(0)).acts.dense()
    return theirs.double(), ours.double()


def assert_alike(theirs, ours):
    """Rates, mean magnitudes and firing together are equal within 5 standard errors."""
    on, also = (theirs > 0).double(), (ours > 0).double()
    for a, b in ((on.mean(0), also.mean(0)), (on.T @ on / N, also.T @ also / N)):
        assert ((a - b).abs() <= 5 * (2 * a * (1 - a) / N).sqrt() + 1e-12).all()
    for product in (lambda x: x, lambda x: x[:, :1] * x):  # alone, and with the first feature
        a, b = product(theirs), product(ours)
        error = (a.var(0) / N + b.var(0) / N).sqrt()
        assert ((a.mean(0) - b.mean(0)).abs() <= 5 * error + 1e-6).all()


def test_nodes_without_features_in_exclusive_families(peer, tmp_path):
    node = peer.HierarchyNode
    assert_alike(
        *both(
            peer,
            tmp_path,
            [
                node(
                    0,
                    [node(1), node(2), node(None, [node(3), node(4)])],
                    mutually_exclusive_children=True,
                )
            ],
        )
    )


@pytest.mark.parametrize("scaled", ["node", "feature", "both"])
def test_nodes_without_features_that_scale(peer, tmp_path, scaled):
    node = peer.HierarchyNode
    below = node(None, [node(1), node(2)], scale_children_by_parent=scaled != "feature")
    roots = [node(0, [below], scale_children_by_parent=scaled != "node")]
    fields = {"mean_firing_magnitudes": 2.0, "std_firing_magnitudes": 0.5}
    assert_alike(*both(peer, tmp_path, roots, **fields))


@pytest.mark.parametrize(("mean", "std"), [(0.5, 1.0), (2.0, 1.0)])
def test_scaled_children(peer, tmp_path, mean, std):
    grown = peer.HierarchyConfig(
        total_root_nodes=2, branching_factor=2, max_depth=2, scale_children_by_parent=True
    )
    assert_alike(
        *both(
            peer,
            tmp_path,
            rate=0.6,
            num_features=14,
            hierarchy=grown,
            mean_firing_magnitudes=mean,
            std_firing_magnitudes=std,
        )
    )


@pytest.mark.parametrize("fields", ["no correlation", "always", "zipf to 1"])
def test_what_sae_lens_saves_is_read(peer, tmp_path, fields):
    assert_alike(
        *both(
            peer,
            tmp_path,
            **{
                "no correlation": {
                    "correlation": peer.LowRankCorrelationConfig(rank=4, correlation_scale=0.0)
                },
                "always": {
                    "firing_probability": peer.ConstantFiringProbabilityConfig(probability=1.0)
                },
                "zipf to 1": {
                    "firing_probability": peer.ZipfianFiringProbabilityConfig(
                        max_prob=1.0, min_prob=0.01
                    )
                },
            }[fields],
        )
    )


@pytest.mark.parametrize(
    "pairs", [{(0, 1): 0.9, (1, 2): 0.9, (0, 2): -0.9}, {(0, 1): 0.99995, (1, 2): 0.0}]
)
def test_repaired_matrices(peer, pairs):
    from sae_lens.synthetic import create_correlation_matrix_from_correlations

    listed = tuple(Pair(a=a, b=b, correlation=c) for (a, b), c in pairs.items())
    ours = Pairs(pairs=listed).loadings(3, torch.Generator()).matrix().float()
    theirs = create_correlation_matrix_from_correlations(3, pairs)
    torch.testing.assert_close(ours, theirs, atol=5e-6, rtol=0)


def test_shrinkage_difference_another_quantity_of_the_same_name(peer):
    """Theirs: mean of |y_hat| / |y|. Ours: what a prediction must be multiplied by to fit best."""
    from sae_lens.synthetic.evals import ShrinkageCalculator

    y = torch.tensor([[10.0, 0.0], [0.0, 2.0]])
    y_hat = torch.tensor([[2.5, 75**0.5 / 2], [3**0.5 / 2, 0.5]])  # half as long, at 60 degrees
    codes = Codes(torch.zeros(0), torch.zeros(0).long(), torch.zeros(3).long(), (2,), 1)
    metric, theirs = Shrinkage(), ShrinkageCalculator()
    theirs.add_batch(y_hat, y)
    assert theirs.compute() == pytest.approx(0.5)
    assert metric.compute(metric.sums(Batch(y, y_hat, codes))) == pytest.approx(1.0)
