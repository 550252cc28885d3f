"""Numbers that the multi-layer SAE's own tests hold, on this project's metrics."""

import pytest
import torch

from saekit.core.codes import Codes
from saekit.metrics.base import Batch, added
from saekit.metrics.dead import Dead
from saekit.metrics.fvu import FVU
from saekit.metrics.l0 import L0
from saekit.metrics.l1 import L1
from saekit.metrics.mse import MSE

N, D, K = 20_000, 16, 32


def normal_about_1():
    return 1 + torch.randn(N, D, generator=torch.Generator().manual_seed(0))


def value(metric, y, y_hat, acts=None):
    acts = Codes.from_dense(torch.zeros(len(y), 1)) if acts is None else acts
    return metric.compute(metric.sums(Batch(y, y_hat, acts)))


def test_fvu_is_0_of_itself_2_of_nothing_and_1_of_the_mean():
    x = normal_about_1()
    assert value(FVU(), x, x) == 0
    assert value(FVU(), x, torch.zeros_like(x)) == pytest.approx(2, abs=0.02)
    assert value(FVU(), x, torch.ones_like(x)) == pytest.approx(1, abs=0.02)
    assert value(MSE(), x, torch.ones_like(x)) == pytest.approx(1, abs=0.02)


def acts(of):
    values = torch.full((5, K), of)
    return Codes.fixed(values, torch.arange(K).expand(5, K), 64)


def test_l0_counts_what_is_on():
    x = torch.zeros(5, 2)
    assert value(L0(), x, x, acts(1.0)) == 32
    assert value(L0(), x, x, acts(0.0)) == 0
    # The source has a threshold of 1e-3 here and gives 0; off is exactly 0 in this project.
    assert value(L0(), x, x, acts(1e-4)) == 32


def test_l1_is_of_magnitudes():
    x = torch.zeros(5, 2)
    assert value(L1(), x, x, acts(-1.0)) == 32


@pytest.mark.parametrize(("until", "share"), [(1, 0.75), (2, 0.5), (3, 0.25), (4, 0.0), (6, 0.0)])
def test_dead_latents_over_the_whole_text(until, share):
    pairs = [(0, 0), (0, 1), (1, 2), (2, 3), (0, 0), (0, 0)]
    metric, sums = Dead(), None
    for pair in pairs[:until]:
        codes = Codes.fixed(torch.ones(2, 1), torch.tensor(pair)[:, None], 4)
        new = metric.sums(Batch(torch.zeros(2, 1), torch.zeros(2, 1), codes))
        sums = new if sums is None else added(sums, new)
    assert metric.compute(sums) == share
