"""Planted truth: where features live in a synthetic stream of layers is what comes out."""

import math

import pytest
import torch

from saekit.core.codes import Codes
from saekit.core.seeds import generator
from saekit.metrics.matching import cosines
from saekit.saes.topk import TopK
from saekit.studies.layers.distributions import distribution
from saekit.studies.layers.sums import LayerCodes, LayerSums
from saekit.studies.layers.variances import decomposition
from saekit.studies.truth.model.base import TruthConfig
from saekit.studies.truth.model.dictionaries import Random
from saekit.studies.truth.model.firing import Constant
from saekit.studies.truth.model.layers import GivenLayers
from saekit.studies.truth.model.magnitudes import ReluNormal
from saekit.training.fit import Fit
from saekit.training.trainer import Training

N_LAYERS = 6
PLANT = (
    (1.0, 0, 0, 0, 0, 0),
    (0, 0, 0, 1.0, 0, 0),
    (0, 0, 0, 0, 0, 1.0),  # one layer
    (1.0, 1, 1, 1, 1, 1),
    (1.0, 1, 1, 1, 1, 1),  # all
    (0, 0, 1.0, 1, 1, 0),
    (1.0, 1, 0, 0, 0, 0),  # a range
    (1.0, 0, 0, 0, 0, 1),  # the two ends
)


@pytest.fixture(scope="module")
def truth():
    n = len(PLANT)
    return TruthConfig(
        n_features=n,
        d_model=64,
        dictionary=Random(),
        firing=Constant(rate=0.25),
        magnitudes=ReluNormal(),
        layers=GivenLayers(rows=PLANT),
        seed=1,
    ).build()


@pytest.fixture(scope="module")
def sae(truth):
    """A TopK trained on layers folded into rows; it is told neither features nor layers."""
    cfg = TopK(d_in=64, d_out=64, d_sae=16, k=3)
    stream = truth.stream(tokens=400 * 256, batch_tokens=256, seed=0)
    training = Training(Fit(sae=cfg, tokens=400 * 512, batch_tokens=512, lr=1e-2), stream)
    for step in range(400):
        x = stream.batch()[0].flatten(0, 1)
        mixed = x[torch.randperm(len(x), generator=generator(step, "mix"))[:512]]
        training.step(mixed, mixed)
    return training.sae.eval()


def summed(codes_by_layer, d_sae, n):
    sums = LayerSums(range(N_LAYERS), d_sae)
    sums.add([LayerCodes(c.rows(), c.latents, c.values, n) for c in codes_by_layer], n, n)
    return sums


@pytest.fixture(scope="module")
def by_feature(truth, sae):
    """Figures of the latent that each feature is matched to, and of the plant itself."""
    x = truth.sample(4000, generator(7, "test")).x
    with torch.no_grad():
        codes = [sae.encode(x[:, layer]).live() for layer in range(N_LAYERS)]
    sums = summed(codes, 16, len(x))
    best = cosines(sae.directions(), truth.features).max(0)
    assert float(best.values.min()) > 0.9  # it found every feature
    found = distribution(sums.totals[:, best.indices], sums.numbers)
    plant = distribution(torch.tensor(PLANT).t(), list(range(N_LAYERS)))
    return found, plant


def test_the_mean_layer_is_that_of_the_plant(by_feature):
    found, plant = by_feature
    torch.testing.assert_close(found.mean, plant.mean, rtol=0, atol=0.4)


def test_the_spread_is_that_of_the_plant(by_feature):
    found, plant = by_feature
    torch.testing.assert_close(found.std, plant.std, rtol=0, atol=0.35)
    assert float(plant.std.max() - plant.std.min()) > 2  # the test can fail


def test_the_entropy_is_that_of_the_plant(by_feature):
    found, plant = by_feature
    torch.testing.assert_close(found.entropy, plant.entropy, rtol=0, atol=0.3)
    assert math.isclose(float(plant.entropy[3]), math.log(N_LAYERS))


def test_the_two_ends_are_bimodal(by_feature):
    found, _ = by_feature
    assert float(found.bimodality[7]) > 0.8 > float(found.bimodality[3])


def test_an_oracle_gives_the_plant_exactly(truth):
    """Codes that are the truth's own, times the weight of each layer."""
    acts: Codes = truth.sample(2000, generator(3, "oracle")).acts.live()
    weights = torch.tensor(PLANT)
    codes = [
        acts._replace(values=acts.values * weights[acts.latents, layer]).live()
        for layer in range(N_LAYERS)
    ]
    sums = summed(codes, len(PLANT), 2000)
    found = distribution(sums.totals, sums.numbers)
    plant = distribution(weights.t(), list(range(N_LAYERS)))
    torch.testing.assert_close(found.p, plant.p)
    torch.testing.assert_close(found.std, plant.std)
    parts = decomposition(sums)
    # A profile that is the same for every token has no variance between tokens.
    assert parts.between_tokens < 1e-9 < parts.within_token
    single = sums.singles.double() / sums.pairs
    torch.testing.assert_close(single, torch.tensor([1, 1, 1, 0, 0, 0, 0, 0]).double())
