import inspect
import math

import pytest
import torch

from saekit.studies.truth.model import (
    correlation,
    dictionaries,
    firing,
    hierarchy,
    layers,
    magnitudes,
    profiles,
)
from saekit.studies.truth.model.dictionaries import Orthogonal
from saekit.studies.truth.model.spread import Spread, largest_cos


def welch(n, d):
    """The Welch bound: no n directions in d dimensions have a smaller largest |cos|."""
    return math.sqrt((n - d) / (d * (n - 1)))


def spread(n, d, **fields):
    return Spread(**fields).directions(n, d, torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("n", "d"), [(3, 2), (9, 8), (28, 7)])
def test_the_welch_bound_is_reached_where_it_can_be(n, d):
    """A simplex, of 1/d; and the 28 equiangular lines in 7 dimensions, of 1/3."""
    assert largest_cos(spread(n, d)) == pytest.approx(welch(n, d), abs=1e-4)
    if n == d + 1:
        assert welch(n, d) == pytest.approx(1 / d)


def test_the_largest_cos_is_driven_down_where_the_bound_cannot_be_reached():
    rows = spread(32, 8)
    assert welch(32, 8) == pytest.approx(0.3111, abs=1e-4) and largest_cos(rows) < 0.37
    assert largest_cos(spread(32, 8, sharpen_steps=0)) > 0.45  # as published
    torch.testing.assert_close(rows.norm(dim=-1), torch.ones(32))


def test_chunks_change_nothing():
    one, many = spread(32, 8), spread(32, 8, chunk_rows=5)
    torch.testing.assert_close(one, many, atol=1e-4, rtol=0)
    assert largest_cos(one) == pytest.approx(largest_cos(one, 5))


def test_orthogonal_directions_are():
    rows = Orthogonal().directions(6, 8, torch.Generator())
    torch.testing.assert_close(rows @ rows.T, torch.eye(6), atol=1e-6, rtol=0)
    assert largest_cos(spread(6, 8)) < 1e-6


REGISTRIES = [
    m.registry for m in (dictionaries, firing, profiles, magnitudes, correlation, hierarchy, layers)
]


@pytest.mark.parametrize(
    "cls", [r.get(n) for r in REGISTRIES for n in r.names()], ids=lambda c: c.__qualname__
)
def test_docstring_has_one_line_and_a_source(cls):
    about, blank = (inspect.getdoc(cls) or "").split("\n")[:2]
    assert about.endswith(".") and not blank and "Source:" in (inspect.getdoc(cls) or "")


def test_variants_are_found():
    assert dictionaries.registry.names() == ["given", "orthogonal", "random", "spread"]
