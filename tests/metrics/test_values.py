"""Closed forms: what each metric gives for inputs one can work out by hand."""

import math

import pytest
import torch

from saekit.core.codes import Codes
from saekit.metrics.base import Batch, added, registry

Y = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
HALF = Y / 2
ACTS = Codes.from_dense(torch.tensor([[1.0, 0.0, -2.0, 0.0], [0.0, 0.0, 4.0, 0.0]]))
CE = {
    "clean": torch.tensor([1.0, 3.0]),
    "spliced": torch.tensor([2.0, 3.0]),
    "zero": torch.tensor([5.0, 7.0]),
    "mean": torch.tensor([2.0, 4.0]),
}
BATCH = Batch(Y, HALF, ACTS, CE, {"spliced": torch.tensor([0.5, 0.25])})


def value(name, batch=BATCH):
    metric = registry.get(name)()
    return metric.compute(metric.sums(batch))


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("fvu", (29 / 4) / (4.5 + 2)),
        ("mse", 29 / 4 / 4),
        ("cosine", 1),
        ("l0", 1.5),
        ("l1", 3.5),
        ("density", 0.5),
        ("dead", 0.5),
        ("l2_ratio", 0.5),
        ("shrinkage", 0.5),
        ("ce_clean", 2),
        ("ce_spliced", 2.5),
        ("ce_rise", 0.5),
        ("ce_recovered_zero", 7 / 8),
        ("ce_recovered_mean", 0.5),
        ("kl", 0.375),
    ],
)
def test_by_hand(name, wanted):
    assert value(name) == pytest.approx(wanted, rel=1e-12)


def test_zero_vectors_have_no_direction():
    metric = registry.get("cosine")()
    y = torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, 1.0]])
    y_hat = torch.tensor([[1.0, 1.0], [1.0, 0.0], [0.0, 0.0]])
    sums = metric.sums(Batch(y, y_hat, ACTS))
    assert (sums["n"], sums["undefined"]) == (1, 2)
    assert metric.compute(sums) == pytest.approx(math.sqrt(0.5))


def test_mse_does_not_shrink_with_the_number_of_batches():
    metric, err = registry.get("mse")(), torch.ones(64, 4)
    values = []
    for parts in (1, 4, 16, 64):
        sums = None
        for e in err.chunk(parts):
            new = metric.sums(Batch(0 * e, e, ACTS))
            sums = new if sums is None else added(sums, new)
        values.append(metric.compute(sums))
    assert values == [1, 1, 1, 1]


def test_shrinkage_is_the_best_divisor():
    g = torch.Generator().manual_seed(0)
    y = torch.randn(100, 6, generator=g)
    y_hat = 0.6 * y + 0.2 * torch.randn(100, 6, generator=g)
    gamma = value("shrinkage", BATCH._replace(y=y, y_hat=y_hat))
    errors = [(y_hat / (gamma * f) - y).square().sum() for f in (0.99, 1, 1.01)]
    assert errors[1] < min(errors[0], errors[2])


def test_median_density_is_over_latents_that_fired():
    dense = torch.zeros(100, 6)
    dense[:80, 0] = dense[:10, 1] = dense[:2, 2] = 1
    assert value("density", BATCH._replace(acts=Codes.from_dense(dense))) == 0.10
    assert value("dead", BATCH._replace(acts=Codes.from_dense(dense))) == 0.5
