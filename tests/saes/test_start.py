"""Where weights begin when an SAE may look at activations first."""

import pytest
import torch
from torch.nn.functional import normalize

from saekit.core.errors import ConfigError
from saekit.core.stats.median import geometric_median
from saekit.hub.native import load
from saekit.saes.base import registry
from saekit.saes.crosscoder import Crosscoder
from saekit.saes.skip import Skip
from saekit.saes.topk import TopK
from saekit.training.loop import train
from tests import world


def chance(seed=0):
    return torch.Generator().manual_seed(seed)


def built(**sizes):
    return TopK(**({"d_in": 16, "d_out": 16, "d_sae": 24, "k": 3} | sizes)).build(chance())


def test_the_median_is_predicted_where_nothing_is_on_and_codes_are_measured_from_it():
    x = torch.randn(500, 16, generator=chance(1)) + 3
    sae, plain = built(), built()
    sae.start("geometric_median", x, x, chance())
    median = geometric_median(x).float()
    torch.testing.assert_close(sae.b_dec, median)
    torch.testing.assert_close(sae.encode(x).dense(), plain.encode(x - median).dense())


def test_clusters_of_planted_directions_are_found():
    planted = normalize(torch.randn(8, 16, generator=chance(2)), dim=-1)
    which = torch.arange(4000) % 8
    x = planted[which] * (1 + torch.rand(4000, 1, generator=chance(3)))
    x = x + 0.02 * torch.randn(4000, 16, generator=chance(4))
    sae = built(d_sae=24)
    sae.start("k_means", x, x, chance())
    best = (planted @ sae.W_dec.t()).amax(1)
    assert best.min() > 0.99
    columns = normalize(sae.W_enc.t(), dim=-1)
    torch.testing.assert_close(columns, normalize(sae.W_dec, dim=-1))


def test_a_transcoder_reads_the_mean_direction_of_what_a_cluster_was_made_from():
    reads = normalize(torch.randn(4, 16, generator=chance(5)), dim=-1)
    writes = normalize(torch.randn(4, 12, generator=chance(6)), dim=-1)
    which = torch.arange(2000) % 4
    noise = 0.01 * torch.randn(2000, 16, generator=chance(7))
    sae = built(d_out=12, d_sae=4, k=1)
    sae.start("k_means", reads[which] + noise, writes[which].clone(), chance(8))
    near = writes @ normalize(sae.W_dec, dim=-1).t()
    for latent in range(4):
        if near[:, latent].max() > 0.99:  # a cluster of one planted pair
            planted = int(near[:, latent].argmax())
            assert normalize(sae.W_enc.t(), dim=-1)[latent] @ reads[planted] > 0.99


def test_directions_begin_inside_the_subspace_that_activations_vary_in():
    basis = torch.linalg.qr(torch.randn(16, 4, generator=chance(9)))[0]
    x = torch.randn(600, 4, generator=chance(10)) @ basis.t()
    sae = built()
    lengths = sae.W_enc.norm(dim=0).clone()
    sae.start("subspace", x, x, chance())
    outside = sae.W_dec - sae.W_dec @ basis @ basis.t()
    assert outside.abs().max() < 1e-5
    torch.testing.assert_close(sae.W_dec.norm(dim=-1), torch.ones(24))
    torch.testing.assert_close(sae.W_enc.norm(dim=0), lengths)


def test_too_few_activations_and_architectures_without_such_a_beginning_are_refused():
    x = torch.randn(10, 16, generator=chance())
    with pytest.raises(ConfigError, match="at least one activation a latent"):
        built().start("k_means", x, x, chance())
    with pytest.raises(ConfigError, match="random weights"):
        Crosscoder.example().build(chance()).start("k_means", x, x, chance())


@pytest.mark.parametrize("way", ["geometric_median", "k_means", "subspace"])
def test_training_begins_from_the_first_activations_and_resumes_with_the_same_weights(
    way, tmp_path
):
    lm = world.model()
    run = world.run(tmp_path, start=way)
    train(run, lm, tmp_path / "a", shown=False)
    train(run, lm, tmp_path / "b", shown=False)
    one, two = (load(tmp_path / name).sae.state_dict() for name in "ab")
    assert all(torch.equal(one[k], two[k]) for k in one)
    plain = world.run(tmp_path)
    train(plain, lm, tmp_path / "c", shown=False)
    other = load(tmp_path / "c").sae.state_dict()
    assert not torch.equal(one["W_dec"], other["W_dec"])


def test_every_architecture_begins_so_or_says_that_it_does_not():
    x = torch.randn(256, 8, generator=chance(1))
    able = set()
    for name in registry.names():
        sae = registry.get(name).example().build(chance())
        if sae.cfg.event:
            continue
        try:
            sae.start("subspace", x, x, chance())
        except ConfigError:
            continue
        able.add(name)
        assert torch.isfinite(sae.directions()).all()
    assert {"topk", "batch_topk", "jumprelu", "gated", "relu", "skip"} <= able
    assert Skip.example().build(chance()).start_rows("k_means") > 0
