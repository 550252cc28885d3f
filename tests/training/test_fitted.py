"""Fitted dictionaries take their known places: closed forms and sparse truths."""

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from saekit.core.errors import ConfigError, DataError, ShapeError
from saekit.models.tiny import tiny
from saekit.training.dictionary import fit_dictionary
from saekit.training.fitted.base import Acts, registry
from saekit.training.fitted.directions import Directions
from tests.world import text_file

D = 12


def acts_of(x, size=97):
    return Acts(lambda: iter(x.split(size)), x.shape[1], len(x))


def fvu(sae, x):
    with torch.no_grad():
        rest = (x - sae(x)).double()
    return float(rest.square().sum() / (x - x.mean(0)).double().square().sum())


def made(name, x, d_sae=None, k=None, seed=0, **settings):
    method = registry.get(name)(**settings)
    return method.fit(method.sae(x.shape[1], d_sae, k), acts_of(x), seed)


@pytest.fixture(scope="module")
def varied():
    """Activations whose axes differ in size, turned, and far from 0."""
    g = torch.Generator().manual_seed(0)
    turn = torch.linalg.qr(torch.randn(D, D, generator=g)).Q
    return (torch.randn(2000, D, generator=g) * torch.linspace(3, 0.2, D)) @ turn + 5


@pytest.fixture(scope="module")
def sparse_truth():
    """Two of 24 directions, with positive strengths, make up each activation."""
    g = torch.Generator().manual_seed(1)
    rows = normalize(torch.randn(24, D, generator=g), dim=-1)
    chosen = torch.rand(3000, 24, generator=g).topk(2).indices
    strength = torch.zeros(3000, 24).scatter_(1, chosen, torch.rand(3000, 2, generator=g) + 0.5)
    return rows, strength @ rows


@pytest.mark.parametrize("k", [1, 4, 11])
def test_pca_of_k_components_leaves_the_other_eigenvalues(varied, k):
    values = np.linalg.eigvalsh(np.cov(varied.double().numpy().T, bias=True))[::-1]
    found = made("pca", varied, d_sae=2 * k, k=k)
    assert fvu(found.sae, varied) == pytest.approx(values[k:].sum() / values.sum(), rel=1e-4)
    share = values[:k].sum() / values.sum()
    assert found.found["share_of_variance"] == pytest.approx(share, rel=1e-9)
    assert fvu(made("pca", varied, k=k).sae, varied) <= fvu(found.sae, varied) + 1e-6


def test_all_components_and_all_axes_leave_nothing(varied):
    assert fvu(made("pca", varied, k=D).sae, varied) < 1e-9
    assert fvu(made("identity", varied).sae, varied) == 0.0


def test_identity_with_fewer_keeps_the_largest_entries(varied):
    y = made("identity", varied, k=3).sae(varied)
    kept = varied.abs().topk(3).indices
    assert torch.equal(y, torch.zeros_like(varied).scatter(1, kept, varied.gather(1, kept)))


def test_k_means_finds_clusters_and_beats_random_directions():
    g = torch.Generator().manual_seed(2)
    centres = normalize(torch.randn(6, D, generator=g), dim=-1)
    of = torch.randint(6, (1200,), generator=g)
    x = centres[of] * (torch.rand(1200, 1, generator=g) + 1) + 0.01 * torch.randn(
        1200, D, generator=g
    )
    own = made("kmeans", x, d_sae=40)
    best = (own.sae.directions().detach() @ centres.t()).max(0).values
    assert (best > 0.99).all() and own.sae.cfg.k == 1
    assert fvu(own.sae, x) < 0.01 < fvu(made("random", x, d_sae=40, k=1).sae, x)


def test_k_svd_finds_a_sparse_truth_and_beats_pca(sparse_truth):
    rows, x = sparse_truth
    own = made("ksvd", x, d_sae=24, k=2, rounds=15)
    curve = own.found["fvu_by_round"]
    assert curve[-1] == pytest.approx(fvu(own.sae, x[: own.found["rows"]]), rel=0.2)
    assert curve[-1] < 0.5 * curve[0]
    assert fvu(own.sae, x) < 0.5 * fvu(made("pca", x, k=2).sae, x)
    found = (own.sae.directions().detach() @ rows.t()).max(0).values
    assert (found > 0.95).float().mean() > 0.7
    assert torch.allclose(own.sae.directions().norm(dim=-1), torch.ones(24), atol=1e-5)


def test_directions_are_rows_of_the_file(tmp_path, sparse_truth):
    rows, x = sparse_truth
    np.save(tmp_path / "rows.npy", 3 * rows.numpy())
    path = str(tmp_path / "rows.npy")
    both = made("directions", x, k=4, path=path, both_signs=True).sae
    assert torch.allclose(both.directions(), torch.cat([rows, -rows]), atol=1e-6)
    pursued = made("directions", x, k=6, path=path, coding="matching_pursuit").sae
    assert fvu(pursued, x) < 0.02 < fvu(made("directions", x, k=6, path=path).sae, x)


def test_directions_refuse_what_are_none(tmp_path):
    np.save(tmp_path / "rows.npy", np.zeros((3, D), np.float32))
    how = Directions(path=str(tmp_path / "rows.npy"))
    with pytest.raises(ShapeError, match="width 12"):
        how.sae(D + 1, None, None)
    with pytest.raises(ConfigError, match="gives 3 latents"):
        how.sae(D, 5, None)
    with pytest.raises(DataError, match="Row 0"):
        how.fit(how.sae(D, None, None), acts_of(torch.zeros(2, D)), 0)


def test_a_sample_has_each_row_once_and_depends_on_the_seed():
    x = torch.arange(500.0)[:, None]
    one, other = (acts_of(x).sample(100, seed).flatten() for seed in (0, 1))
    assert len(one.unique()) == 100 and not torch.equal(one, other)
    assert torch.equal(acts_of(x).sample(1000, 0), x)


@pytest.mark.parametrize(
    ("name", "d_sae", "k"), [("pca", 2 * D + 2, 4), ("pca", 7, 2), ("identity", 8, 5)]
)
def test_more_directions_than_dimensions_are_refused(name, d_sae, k):
    with pytest.raises(ConfigError, match="even d_sae up to 24"):
        registry.get(name)().sae(D, d_sae, k)


def test_text_and_tokens_are_asked_for_rightly(tmp_path):
    text = {"corpus": str(text_file(tmp_path, n_docs=60)), "n_ctx": 32, "shown": False}
    with pytest.raises(DataError, match="tokens that count"):
        fit_dictionary(tiny(), "pca", tokens=10**6, **text)
    with pytest.raises(ConfigError, match="from no activations"):
        fit_dictionary(tiny(), "random", tokens=10, **text)
    whole = fit_dictionary(tiny(), "pca", **text)
    assert 2000 < whole.card.tokens < 20_000  # 60 lines of about 150 bytes
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").touch()
    with pytest.raises(ConfigError, match="delete it"):
        fit_dictionary(tiny(), "random", out=tmp_path / "used", **text)


def test_rows_of_any_size_are_brought_to_length_1(tmp_path):
    """Squares of 1e30 and of 1e-30 are no numbers of float32: such rows came out as 0."""
    np.save(tmp_path / "far.npy", np.eye(3, 32, dtype=np.float32) * [[1e30], [1.0], [1e-30]])
    how = Directions(path=str(tmp_path / "far.npy"))
    assert torch.equal(how._rows(how._open()).norm(dim=-1), torch.ones(3))
