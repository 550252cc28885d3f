import math

import pytest
import torch

from saekit.core.stats.student import Error, Z, t_quantile, two_sided


def test_quantiles_are_those_of_the_tables():
    for df, wanted in ((1, 12.7062), (2, 4.30265), (7, 2.36462), (29, 2.04523), (200, 1.97190)):
        assert t_quantile(df) == pytest.approx(wanted, abs=2e-5)
    assert t_quantile(1e9) == pytest.approx(Z)
    assert t_quantile(7) > t_quantile(7.5) > t_quantile(8)


def test_the_series_takes_over_without_a_jump():
    assert t_quantile(9_999) == pytest.approx(t_quantile(10_001), abs=2e-6)


def test_one_source_is_students_and_none_is_certain():
    alone = Error(((4.0, 5),))
    assert alone.half == pytest.approx(2 * t_quantile(5)) and alone.p(3.0) == two_sided(1.5, 5)
    assert Error(((4.0, 5), (0.0, 2))).p(3.0) == alone.p(3.0)
    assert Error(((0.0, 5),)).p(0.1) == 0 and Error(()).p(0.0) == 1


def test_p_of_several_sources_solves_its_equation():
    t = pytest.importorskip("scipy.stats").t
    error = Error(((0.7, 1), (2.0, 3.5), (1.3, 250)))
    assert error.p(error.half) == pytest.approx(0.05, rel=1e-6)
    for value in (0.01, 1.0, 8.0, 60.0, 5000.0):
        p = error.p(-value)
        wide = sum(v * t.isf(p / 2, df) ** 2 for v, df in error.parts)
        assert math.sqrt(wide) == pytest.approx(value, rel=1e-4)


def test_no_difference_is_called_one_as_often_as_p_says():
    """Three seeds that differ by more than text: Satterthwaite's p is below 0.45 % in 2 %."""
    chance = torch.Generator().manual_seed(0)
    seeds = torch.randn(1000, 3, generator=chance).double()
    text = 0.25 * torch.randn(1000, generator=chance).double()
    few = 0
    for gaps, moved in zip(seeds, text, strict=True):
        error = Error(((float(gaps.var()) / 3, 2), (0.25**2, 299)))
        few += error.p(float(gaps.mean() + moved)) < 0.0045
    assert few / 1000 < 0.0045 + 3 * math.sqrt(0.0045 / 1000)
