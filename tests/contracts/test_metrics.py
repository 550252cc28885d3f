"""Every metric, the same checks: a new file is tested the moment it exists."""

import math

import pytest
import torch

from saekit.core.codes import Codes
from saekit.metrics.base import Batch, Metric, added, registry

NAMES = registry.names()
RATIOS = [n for n in NAMES if registry.get(n).unit == "ratio"]
RECOVERED = [n for n in NAMES if n.startswith("ce_recovered")]


def batch(n: int = 512) -> Batch:
    g = torch.Generator().manual_seed(0)
    y = torch.randn(n, 8, generator=g) * 3 + 5
    y_hat = 0.8 * y + 0.3 + torch.randn(n, 8, generator=g)
    dense = (torch.randn(n, 16, generator=g) - 1).relu()
    dense[:, 3] = 0
    clean = torch.rand(n, generator=g) * 4
    rise = torch.rand(n, generator=g)
    ce = {"clean": clean, "spliced": clean + rise, "mean": clean + 3, "zero": clean + 5}
    return Batch(y, y_hat, Codes.from_dense(dense), ce, {"spliced": rise})


def some(whole: Batch, index: torch.Tensor) -> Batch:
    ce, kl = whole.ce or {}, whole.kl or {}
    return Batch(
        whole.y[index],
        whole.y_hat[index],
        whole.acts.take(index),
        {k: v[index] for k, v in ce.items()},
        {k: v[index] for k, v in kl.items()},
    )


def value(name: str, *batches: Batch) -> float | None:
    metric = registry.get(name)()
    sums = metric.sums(batches[0])
    for other in batches[1:]:
        sums = added(sums, metric.sums(other))
    return metric.compute(sums)


@pytest.fixture(params=NAMES)
def metric(request: pytest.FixtureRequest) -> Metric:
    return registry.get(request.param)()


def test_there_are_metrics():
    assert len(NAMES) >= 14


def test_it_says_what_it_is(metric):
    assert metric.name and metric.version >= 1 and metric.unit
    assert metric.better in ("lower", "higher", "neither")
    assert metric.needs <= {"ce", "kl"}
    text = type(metric).__doc__ or ""
    for word in ("Source:", "Differs:", ".. math::", "perfect", "mean"):
        assert word in text, word


def test_sums_are_float64_on_the_cpu_and_their_shapes_never_vary(metric):
    shapes = []
    for b in (batch(), batch(3), some(batch(), torch.arange(0))):
        sums = metric.sums(b)
        assert all(v.dtype == torch.float64 and v.device.type == "cpu" for v in sums.values())
        shapes.append({k: v.shape for k, v in sums.items()})
    assert shapes[0] == shapes[1] == shapes[2]


@pytest.mark.parametrize("cut", [1, 100, 511])
def test_how_it_was_batched_changes_nothing(metric, cut):
    whole, every = batch(), torch.arange(512)
    parts = some(whole, every[:cut]), some(whole, every[cut:])
    assert value(metric.name, *parts) == pytest.approx(value(metric.name, whole), rel=1e-12)


def test_order_changes_nothing(metric):
    whole = batch()
    order = torch.randperm(512, generator=torch.Generator().manual_seed(1))
    mixed = value(metric.name, some(whole, order[:50]), some(whole, order[50:]))
    assert mixed == pytest.approx(value(metric.name, whole), rel=1e-12)


def test_an_empty_batch_adds_nothing(metric):
    whole, none = batch(), some(batch(), torch.arange(0))
    assert value(metric.name, none, whole, none) == value(metric.name, whole)


def test_nothing_at_all_is_none(metric):
    assert value(metric.name, some(batch(), torch.arange(0))) is None
    assert value(metric.name, batch()) is not None


def test_it_never_gives_nan(metric):
    zeros, off = torch.zeros(4, 8), Codes.from_dense(torch.zeros(4, 16))
    flat = torch.ones(4)
    ce = {"clean": flat, "spliced": flat, "zero": flat, "mean": flat}
    found = value(metric.name, Batch(zeros, zeros, off, ce, {"spliced": 0 * flat}))
    assert found is None or math.isfinite(found)


def test_the_input_is_left_alone(metric):
    b = batch()
    y, y_hat, values = b.y.double(), b.y_hat.double(), b.acts.values.double()
    double = Batch(y, y_hat, b.acts._replace(values=values), b.ce, b.kl)
    before = [t.clone() for t in (y, y_hat, values)]
    metric.sums(double)
    assert all(torch.equal(a, t) for a, t in zip(before, (y, y_hat, values), strict=True))


@pytest.mark.parametrize("name", RATIOS)
@pytest.mark.parametrize("scale", [1e-3, 7.0, 1e4])
def test_a_ratio_has_no_scale(name, scale):
    b = batch()
    scaled = b._replace(y=scale * b.y, y_hat=scale * b.y_hat)
    assert value(name, scaled) == pytest.approx(value(name, b), rel=1e-5)


def test_the_order_of_latents_changes_nothing(metric):
    b = batch()
    order = torch.randperm(16, generator=torch.Generator().manual_seed(2))
    renamed = Codes.from_dense(b.acts.dense()[:, order])
    assert value(metric.name, b._replace(acts=renamed)) == pytest.approx(value(metric.name, b))


def test_a_kept_zero_is_off(metric):
    """Fixed-k codes hold zeros: they count as nothing."""
    b = batch()
    kept = Codes.fixed(b.acts.dense(), torch.arange(16).expand(512, 16), 16)
    assert value(metric.name, b._replace(acts=kept)) == pytest.approx(value(metric.name, b))


@pytest.mark.parametrize("name", RECOVERED)
def test_recovery_is_undefined_where_ablation_does_no_harm(name):
    b = batch()
    clean = (b.ce or {})["clean"]
    harmless = {"clean": clean, "spliced": clean + 1, "zero": clean, "mean": clean - 1}
    assert value(name, b._replace(ce=harmless)) is None
