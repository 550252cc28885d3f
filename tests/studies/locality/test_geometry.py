import json

import pytest
import torch

from saekit.core.errors import ConfigError, DataError, ShapeError
from saekit.core.seeds import generator
from saekit.core.stats.permutation import permutation_test
from saekit.core.stats.ranks import ranks, spearman
from saekit.studies.locality.latents.corners import corners
from saekit.studies.locality.latents.geometry import Geometry, cosines, nearest_latents
from saekit.studies.locality.latents.layout import affinities, layout, tsne


def gauss(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def test_ranks_and_correlations_equal_those_of_scipy():
    stats = pytest.importorskip("scipy.stats")
    x, y = gauss(0, 50), gauss(1, 50)
    x[:20] = x[:20].round()
    y[10:30] = y[10:30].round()
    assert ranks(x).tolist() == stats.rankdata(x.numpy()).tolist()
    assert spearman(x, y) == pytest.approx(stats.spearmanr(x.numpy(), y.numpy())[0])


def test_a_permutation_p_is_never_zero_and_counts_what_was_seen():
    null = permutation_test(
        5.0, lambda order: float(order[0] == 0), 3, 99, torch.Generator().manual_seed(0)
    )
    assert null.p == 1 / 100
    null = permutation_test(0.0, lambda _: 0.0, 3, 99, torch.Generator().manual_seed(0))
    assert null.p == 1.0


@pytest.mark.slow
def test_the_null_is_calibrated_where_nothing_depends():
    # Clustered directions and entropies in heavy ties: pairs are far from independent.
    n, worlds, counts = 24, 100, {"signed": 0, "size": 0, "neighbours": 0}
    for seed in range(worlds):
        centres = gauss(seed, 4, 8)
        directions = centres[torch.arange(n) % 4] + 0.5 * gauss(1000 + seed, n, 8)
        found = Geometry(permutations=99, k=5, seed=seed).run(
            torch.arange(n), directions, (2 * gauss(2000 + seed, n)).round() / 2
        )
        counts["signed"] += found.signed.spearman.p <= 0.1
        counts["size"] += found.size.spearman.p <= 0.1
        counts["neighbours"] += found.neighbours.p <= 0.1
    for hits in counts.values():
        assert 0.01 < hits / worlds < 0.2  # 0.1 plus or minus three deviations


def test_planted_dependence_is_found_and_stated_as_counted():
    n = 60
    centres = gauss(0, 5, 16)
    group = torch.arange(n) % 5
    directions = centres[group] + 0.3 * gauss(1, n, 16)
    entropy = group.double() + 0.2 * gauss(2, n)
    found = Geometry(permutations=199, k=5).run(torch.arange(n) * 3, directions, entropy)
    assert found.size.spearman.value < -0.3 and found.size.spearman.p == 1 / 200
    assert found.neighbours.value > 0.9 and found.neighbours.p == 1 / 200
    pairs = found.pairwise().columns
    assert len(pairs["dH"]) == n * (n - 1) // 2
    assert found.record()["n_pairs"] == len(pairs["dH"])
    like, gap = (torch.tensor(pairs[c]) for c in ("abs_cosine", "dH"))
    assert found.size.spearman.value == pytest.approx(spearman(like, gap))
    assert found.record()["correlation_decoder_cos_vs_abs_dH_pos"] == pytest.approx(
        spearman(torch.tensor(pairs["cosine"]), gap)
    )
    # Of one group all neighbours are of it.
    assert found.by_neighbours().columns["feature_id"][1] == 3


def test_latents_that_are_all_alike_have_no_correlation_and_no_p():
    same = torch.full((20,), 1.5, dtype=torch.float64)
    found = Geometry(permutations=50).run(torch.arange(20), gauss(0, 20, 16), same)
    record = found.record()
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert record["spearman_r"] is None and record["spearman_p"] is None
    assert record["permutation_p"] is None and record["pearson_r"] is None
    assert record["per_feature_neighbour"]["p"] is None


def test_refuses_what_it_cannot_do():
    three, four = torch.arange(3), torch.arange(4)
    with pytest.raises(DataError, match="4 latents"):
        Geometry().run(three, gauss(0, 3, 4), gauss(1, 3))
    with pytest.raises(DataError, match="1 without"):
        Geometry().run(four, gauss(0, 4, 4), torch.tensor([1, 2, torch.nan, 3.0]))
    with pytest.raises(DataError, match="writes nothing"):
        Geometry().run(four, torch.zeros(4, 4), gauss(1, 4))
    with pytest.raises(ShapeError):
        Geometry().run(four, gauss(0, 3, 4), gauss(1, 4))
    with pytest.raises(ConfigError, match="permutations"):
        Geometry(permutations=0)
    with pytest.raises(ConfigError, match="`k`"):
        nearest_latents(gauss(0, 4, 4), four, 4)


def test_nearest_latents_are_those_of_the_whole_dictionary():
    directions = gauss(0, 30, 6)
    found, cosine = nearest_latents(directions, torch.tensor([3, 7]), 4)
    every = cosines(directions)
    for row, anchor in enumerate((3, 7)):
        order = every[anchor].abs().argsort(descending=True).tolist()
        assert found[row].tolist() == [i for i in order if i != anchor][:4]
        assert torch.allclose(cosine[row], every[anchor, found[row]])


def test_affinities_have_the_perplexity_and_tsne_keeps_clusters():
    centres = 4 * gauss(0, 3, 10)
    group = torch.arange(45) % 3
    x = centres[group] + 0.3 * gauss(1, 45, 10)
    distance = torch.cdist(x, x)
    P = affinities(distance, 10.0)
    assert torch.allclose(P, P.T) and float(P.sum()) == pytest.approx(1.0)
    y = tsne(distance, perplexity=10.0)
    apart = torch.cdist(y, y)
    same = (group[:, None] == group) & ~torch.eye(45, dtype=torch.bool)
    assert apart[same].max() < apart[group[:, None] != group].min()
    again = tsne(distance, perplexity=10.0)
    assert torch.equal(y, again)


def test_layouts_take_opposite_directions_for_alike_or_not():
    x = gauss(0, 12, 5)
    both = torch.cat([x, -x])
    plane = layout(both, "tsne", perplexity=4)
    gap = (plane[:12] - plane[12:]).norm(dim=1)
    assert gap.max() < 0.2 * torch.cdist(plane, plane).max()
    plane = layout(both, "pca")
    assert torch.allclose(plane[:12], -plane[12:], atol=1e-9)
    with pytest.raises(ConfigError, match="perplexity"):
        layout(x, "tsne", perplexity=30)


def test_corners_are_the_crossings_of_outer_quarters():
    latents = torch.arange(100, 116)
    entropy = torch.arange(16).double() // 4  # 0 0 0 0 1 1 1 1 ...
    length = torch.arange(16).double() % 4
    entropy[5] = torch.nan
    found = corners(latents, entropy, length)
    assert found["lowH_short"] == [100] and found["lowH_long"] == [103]
    assert found["highH_short"] == [112] and found["highH_long"] == [115]
    with pytest.raises(DataError):
        corners(latents[:3], entropy[:3], length[:3])
    with pytest.raises(ConfigError):
        corners(latents, entropy, length, share=0.7)


def test_draws_of_the_null_are_those_of_permuted_latents():
    H, directions = gauss(5, 9), gauss(6, 9, 4)
    found = Geometry(permutations=20, k=3, seed=4).run(torch.arange(9), directions, H)
    a, b = torch.triu_indices(9, 9, offset=1)
    like = cosines(directions)[a, b].abs()
    g = generator(4, "size")
    for drawn in found.size.spearman.draws:
        order = torch.randperm(9, generator=g)
        gap = (H[order][a] - H[order][b]).abs()
        assert drawn == pytest.approx(spearman(like, gap))
