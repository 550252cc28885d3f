import pytest
import torch

from saekit.core.codes import Codes
from saekit.metrics.base import Batch, added
from saekit.metrics.fvu import FVU

OFF = Codes.from_dense(torch.zeros(0, 1))


def fvu(y, y_hat, parts=1):
    metric, sums = FVU(), None
    for a, b in zip(y.chunk(parts), y_hat.chunk(parts), strict=True):
        new = metric.sums(Batch(a, b, OFF))
        sums = new if sums is None else added(sums, new)
    return metric.compute(sums)


def naive(y, y_hat):
    y, y_hat = y.double(), y_hat.double()
    return float((y - y_hat).square().sum() / (y - y.mean(0)).square().sum())


@pytest.fixture
def y():
    g = torch.Generator().manual_seed(0)
    return torch.randn(4096, 16, generator=g) * torch.arange(1, 17) / 4


@pytest.mark.parametrize("shift", [0.0, 1.0, 5.0, 1e3])
@pytest.mark.parametrize("scale", [1e-2, 1.0, 30.0])
def test_scale_and_shift_change_nothing(y, shift, scale):
    """Variance taken about zero, as some do, moves with both and passes 1."""
    y_hat = y + torch.randn(y.shape, generator=torch.Generator().manual_seed(1)) * y.std(0)
    wanted = naive(y, y_hat)
    got = fvu((scale * (y.double() + shift)), scale * (y_hat.double() + shift))
    assert got == pytest.approx(wanted, rel=1e-8)


@pytest.mark.parametrize("parts", [1, 4, 16, 64])
def test_batch_size_changes_nothing(y, parts):
    assert fvu(y, 0.5 * y, parts) == pytest.approx(fvu(y, 0.5 * y), rel=1e-12)


@pytest.mark.parametrize("parts", [1, 7])
def test_predicting_the_mean_gives_exactly_one(y, parts):
    y = y.double() + 3
    assert fvu(y, y.mean(0).expand_as(y), parts) == pytest.approx(1, abs=1e-12)


def test_perfect_is_zero(y):
    assert fvu(y, y) == 0


@pytest.mark.parametrize(("offset", "lost"), [(1e2, 1e-10), (1e4, 1e-7), (1e6, 1e-3)])
def test_a_massive_offset_costs_few_digits(y, offset, lost):
    moved = (y.double() + offset).float()
    y_hat = moved + torch.randn(y.shape, generator=torch.Generator().manual_seed(2)).double()
    assert fvu(moved, y_hat, 64) == pytest.approx(naive(moved, y_hat), rel=lost)


@pytest.mark.parametrize("offset", [0.0, 1.0, 0.1, 12345.678])
@pytest.mark.parametrize("n", [1, 2, 1000])
def test_activations_that_do_not_vary_have_none(offset, n):
    flat = torch.full((n, 3), offset)
    assert fvu(flat, flat + 1) is None
