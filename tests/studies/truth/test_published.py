"""Truths in SAELens' layout sample by SAELens' laws: values counted by hand."""

import pytest
import torch

from saekit.core.errors import ConfigError, FormatError
from saekit.core.files import write_json, write_tensors
from saekit.core.seeds import generator
from saekit.studies.truth.model import published
from saekit.studies.truth.model.base import Truth
from saekit.studies.truth.model.correlation import LowRank, Pair, Pairs
from saekit.studies.truth.model.hierarchy import GivenHierarchy
from saekit.studies.truth.model.magnitudes import ReluNormal
from tests.studies.truth.world import errors, truth

N = 40_000


def node(feature, children=(), *, exclusive=False, scaled=False):
    return {
        "feature_index": feature,
        "mutually_exclusive_children": exclusive,
        "scale_children_by_parent": scaled,
        "feature_id": None,
        "children": list(children),
    }


def folder_of(folder, rates, roots=None, *, mean=1.0, std=0.0, **more):
    """Write a published truth of these rates."""
    n = len(rates)
    config = {
        "num_features": n,
        "hidden_dim": 4,
        "seed": 1,
        "mean_firing_magnitudes": mean,
        "std_firing_magnitudes": std,
        "firing_probability": {"generator_name": "constant", "probability": rates[0]},
    }
    write_json(folder / published.CONFIG, config | more)
    features = torch.nn.functional.normalize(torch.randn(n, 4, generator=generator(0)), dim=-1)
    tensors = {"feature_vectors": features, "bias": torch.zeros(4)}
    write_tensors(
        folder / published.TENSORS, tensors | {"firing_probabilities": torch.tensor(rates)}
    )
    if roots is not None:
        write_json(folder / published.TREES, {"roots": roots})
    return folder


def sampled(made: Truth):
    return made.sample(N, generator(0)).acts.dense().double()


def test_a_node_without_a_feature_takes_no_part_in_exclusion(tmp_path):
    """Features 1 and 2 exclude each other; 3 and 4, below a node of that family, do not."""
    roots = [node(0, [node(1), node(2), node(None, [node(3), node(4)])], exclusive=True)]
    made = published.load(folder_of(tmp_path, [0.5] * 5, roots))
    # 1 wins where it alone would fire (1/4), and half of the times that both would (1/8).
    wanted = [0.5, 0.5 * 0.375, 0.5 * 0.375, 0.25, 0.25]
    assert made.rates.tolist() == pytest.approx(wanted)
    acts = sampled(made)
    assert errors((acts > 0).double().mean(0), wanted, N).abs().max() < 4
    assert not ((acts[:, 1] > 0) & (acts[:, 2] > 0)).any()
    assert ((acts[:, 3] > 0) & (acts[:, 1] > 0)).any()
    assert ((acts[:, 3] > 0) & (acts[:, 4] > 0)).any()


@pytest.mark.parametrize("who", ["the node", "the feature above it", "both"])
def test_children_of_a_node_without_a_feature_scale_by_the_feature_above(tmp_path, who):
    """The flag is that of the node itself, as in SAELens."""
    below = node(None, [node(1), node(2)], scaled=who != "the feature above it")
    roots = [node(0, [below], scaled=who != "the node")]
    made = published.load(folder_of(tmp_path, [0.5] * 3, roots, mean=2.0, std=0.5))
    acts = sampled(made)
    on = (acts[:, 0] > 0) & (acts[:, 1] > 0)
    parent, child = acts[on, 0], acts[on, 1]
    if who == "the feature above it":
        assert abs(float(torch.corrcoef(torch.stack([parent, child]))[0, 1])) < 0.05
        assert float(child.std()) == pytest.approx(0.5, rel=0.05)
    else:
        draw = child / parent * 2.0  # what is left is a normal of its own
        assert abs(float(torch.corrcoef(torch.stack([parent, draw]))[0, 1])) < 0.05
        assert float(draw.mean()) == pytest.approx(2.0, rel=0.01)
        assert float(draw.std()) == pytest.approx(0.5, rel=0.05)


def test_nodes_without_features_above_each_other_pass_the_feature_on(tmp_path):
    inner = node(None, [node(1)], scaled=True)
    made = published.load(
        folder_of(tmp_path, [0.5, 0.9], [node(0, [node(None, [inner])])], mean=2.0, std=0.5)
    )
    acts = sampled(made)
    on = acts[:, 1] > 0
    assert (acts[on, 0] > 0).all()
    assert float(torch.corrcoef(acts[on].T)[0, 1]) > 0.5


def test_a_root_without_a_feature_scales_nothing(tmp_path):
    roots = [node(None, [node(0), node(1)], scaled=True, exclusive=True)]
    made = published.load(folder_of(tmp_path, [0.5, 0.5], roots, mean=2.0))
    acts = sampled(made)
    assert set(acts.unique().tolist()) == {0.0, 2.0}
    assert made.rates.tolist() == pytest.approx([0.375, 0.375])


@pytest.mark.parametrize(("mean", "std"), [(0.5, 1.0), (2.0, 1.0)])
def test_children_are_scaled_by_parent_over_the_mean_before_rectifying(tmp_path, mean, std):
    made = published.load(
        folder_of(tmp_path, [0.6, 0.6], [node(0, [node(1)], scaled=True)], mean=mean, std=std)
    )
    acts = sampled(made)
    on = acts[:, 1] > 0
    z = torch.tensor(mean / std, dtype=torch.float64)
    share = torch.special.ndtr(z)
    when_on = mean + std * torch.exp(-z * z / 2) / (2 * torch.pi) ** 0.5 / share  # by hand
    draw = acts[on, 1] / acts[on, 0] * mean
    assert float(draw.mean()) == pytest.approx(float(when_on), rel=0.02)
    # Written and read again, it is the same law.
    ours = truth(
        [0.6, 0.6],
        hierarchy=GivenHierarchy(edges=((0, 1),), scaled=(0,)),
        magnitudes=ReluNormal(mean=mean, std=std),
    )
    assert torch.equal(ours.tensors["average"], made.tensors["average"])


@pytest.mark.parametrize("mean", [0.0, -0.5])
def test_scaling_by_a_mean_that_is_not_above_0_is_refused(tmp_path, mean):
    roots = [node(0, [node(None, [node(1)], scaled=True)])]
    with pytest.raises(ConfigError, match=f"Feature 0 scales its children.*is {mean:g}"):
        published.load(folder_of(tmp_path, [0.6, 0.6], roots, mean=mean, std=1.0))
    published.load(folder_of(tmp_path, [0.6, 0.6], [node(0, [node(1)])], mean=mean, std=1.0))


def test_features_that_always_fire(tmp_path):
    made = published.load(folder_of(tmp_path, [1.0, 1.0], [node(0, [node(1)])]))
    assert (sampled(made) > 0).all()
    assert made.rates.tolist() == pytest.approx([1.0, 1.0])
    both = truth([1.0, 0.5, 1.0], correlation=Pairs(pairs=(Pair(a=0, b=1, correlation=0.5),)))
    on = sampled(both) > 0
    assert on[:, [0, 2]].all()
    assert errors(on[:, 1].double().mean(), 0.5, N).abs() < 4


def test_a_scale_of_0_is_no_correlation(tmp_path):
    made = truth([0.5, 0.3, 0.2], correlation=LowRank(rank=2, scale=0.0))
    on = (sampled(made) > 0).double()
    assert errors(on.mean(0), [0.5, 0.3, 0.2], N).abs().max() < 4
    assert torch.corrcoef(on.T).fill_diagonal_(0).abs().max() < 0.03
    folder = folder_of(
        tmp_path, [0.5, 0.5], correlation={"rank": 2, "correlation_scale": 0.0, "seed": None}
    )
    tensors = {
        "feature_vectors": torch.eye(2, 4),
        "bias": torch.zeros(4),
        "firing_probabilities": torch.tensor([0.5, 0.5]),
        "correlation_factor": torch.zeros(2, 2),
        "correlation_diag": torch.ones(2),
    }
    write_tensors(folder / published.TENSORS, tensors)
    assert published.load(folder).cfg.correlation.scale == 0
    with pytest.raises((ConfigError, FormatError)):
        LowRank(scale=-0.1)


def test_a_matrix_is_repaired_no_more_than_it_must_be():
    """Eigenvalues are raised to 1e-6: a nearly singular one that is a correlation matrix stays."""
    law = Pairs(pairs=(Pair(a=0, b=1, correlation=0.99995),))
    kept = law.loadings(3, torch.Generator())
    assert not kept.notes
    assert float(kept.matrix()[0, 1]) == pytest.approx(0.99995, abs=1e-7)
    pairs = ((0, 1, 0.9), (1, 2, 0.9), (0, 2, -0.9))
    made = Pairs(pairs=tuple(Pair(a=a, b=b, correlation=c) for a, b, c in pairs))
    mended = made.loadings(3, torch.Generator())
    values = torch.linalg.eigvalsh(mended.matrix())
    assert 0 < float(values[0]) < 2e-6
