import pytest

from saekit.core.stats.student import Z, t_quantile


def test_quantiles_are_those_of_the_tables():
    for df, wanted in ((1, 12.7062), (2, 4.30265), (7, 2.36462), (29, 2.04523), (200, 1.97190)):
        assert t_quantile(df) == pytest.approx(wanted, abs=2e-5)
    assert t_quantile(1e9) == pytest.approx(Z)
    assert t_quantile(7) > t_quantile(7.5) > t_quantile(8)


def test_the_series_takes_over_without_a_jump():
    assert t_quantile(9_999) == pytest.approx(t_quantile(10_001), abs=2e-6)
