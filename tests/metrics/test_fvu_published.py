"""FVU as MLSAE publishes it: one mean for all dimensions."""

import pytest
import torch

from saekit.core.codes import Codes
from saekit.metrics.base import Batch, added
from saekit.metrics.fvu import FVU
from saekit.metrics.fvu_published import FVUPublished

OFF = Codes.from_dense(torch.zeros(0, 1))


def value(metric, y, y_hat):
    return metric.compute(metric.sums(Batch(y, y_hat, OFF)))


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_it_is_the_published_formula():
    y, y_hat = drawn(50, 8) * 2 + drawn(8, seed=1) * 5, drawn(50, 8, seed=2)
    wanted = (y_hat - y).square().mean() / y.var()  # unbiased, over all entries
    assert value(FVUPublished(), y, y_hat) == pytest.approx(float(wanted), rel=1e-12)


def test_the_originals_own_examples():
    x = drawn(4000, 64) + 1  # mean 1, variance 1
    assert value(FVUPublished(), x, x) == 0
    assert value(FVUPublished(), x, torch.zeros_like(x)) == pytest.approx(2, rel=0.02)
    assert value(FVUPublished(), x, torch.ones_like(x)) == pytest.approx(1, rel=0.02)


def test_offsets_of_dimensions_make_it_a_fraction_of_fvu():
    y = drawn(500, 8) + 3 * drawn(8, seed=1)
    y_hat = y + 0.3 * drawn(500, 8, seed=2)
    assert value(FVU(), y, y_hat) > 3 * value(FVUPublished(), y, y_hat)
    centred, moved = y - y.mean(0), y_hat - y.mean(0)
    assert value(FVUPublished(), centred, moved) == pytest.approx(
        value(FVU(), centred, moved), rel=1e-3
    )


def test_batches_add_up():
    y, y_hat, metric = drawn(60, 8), drawn(60, 8, seed=2), FVUPublished()
    parts = [metric.sums(Batch(y[s], y_hat[s], OFF)) for s in (slice(7), slice(7, 60))]
    assert metric.compute(added(*parts)) == pytest.approx(value(metric, y, y_hat), rel=1e-12)
