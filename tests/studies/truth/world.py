"""Small truths, and what sampling error allows."""

import torch

from saekit.core.seeds import generator
from saekit.studies.truth.model.base import TruthConfig
from saekit.studies.truth.model.firing import GivenRates
from saekit.studies.truth.model.magnitudes import Constant


def truth(rates, **fields):
    """Return a truth with these rates, of magnitude 1 unless said otherwise."""
    fields = {"magnitudes": Constant(), "d_model": 4} | fields
    firing = GivenRates(rates=tuple(rates))
    return TruthConfig(n_features=len(rates), firing=firing, **fields).build()


def fired(made, n, seed=0):
    """Return which features are on at n tokens, ``[n, n_features]`` bool."""
    return made.sample(n, generator(seed)).acts.dense() != 0


def errors(found, expected, n):
    """Return how many standard errors shares of n tokens are off."""
    expected = torch.as_tensor(expected, dtype=torch.float64)
    return (found - expected) / (expected * (1 - expected) / n).sqrt()
