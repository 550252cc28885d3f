"""The sparse matching is the dense one, whatever the dictionaries; nearest is the table's order."""

import pytest
import torch

from saekit.core.errors import DataError, ShapeError
from saekit.metrics import assignment
from saekit.metrics.assignment import assign, assign_dense
from saekit.metrics.nearest import nearest, unit


def drawn(kind, n, m, d):
    chance = torch.Generator().manual_seed(n + m + d)
    one, other = torch.randn(n, d, generator=chance), torch.randn(m, d, generator=chance)
    if kind == "crowded":  # all near one direction: rows want the same few columns
        shift = 3 * torch.randn(d, generator=chance)
        one, other = one + shift, other * torch.rand(m, 1, generator=chance) + shift
    elif kind == "shared":
        half = min(n, m) // 2
        noise = torch.randn(half, d, generator=chance)
        other[:half] = one[:half] + torch.rand(half, 1, generator=chance) * noise
    elif kind == "ties":
        one, other = one.sign(), other.sign()
        one[::3] = one[0].clone()
    elif kind == "blank":
        one[::4], other[::5] = 0, 0
    return one, other


@pytest.mark.parametrize("kind", ["random", "crowded", "shared", "ties", "blank"])
@pytest.mark.parametrize(("n", "m", "d"), [(150, 150, 6), (90, 260, 24), (260, 90, 4), (1, 3, 2)])
def test_it_is_the_best_of_all_pairs(kind, n, m, d):
    one, other = drawn(kind, n, m, d)
    found = assign(one, other)
    cosine = unit(one) @ unit(other).T
    dense = assign_dense(cosine)
    assert found.gap == 0 and len(found.rows) == min(n, m)
    assert len(found.rows.unique()) == len(found.columns.unique()) == min(n, m)
    assert torch.equal(found.rows, found.rows.sort().values)
    assert torch.allclose(found.cosines, cosine[found.rows, found.columns], atol=1e-6)
    best = float(dense.cosines.double().sum())
    assert float(found.cosines.double().sum()) == pytest.approx(best, abs=1e-4)


def test_without_room_for_candidates_it_says_what_is_left(monkeypatch):
    one, other = drawn("crowded", 300, 300, 16)
    best = float(assign_dense(unit(one) @ unit(other).T).cosines.double().sum())
    monkeypatch.setattr(assignment, "MOST_ENTRIES", 0)
    found = assign(one, other, nearest(one, other, 2))
    total = float(found.cosines.double().sum())
    assert found.gap > 0 and total < best <= total + found.gap + 1e-4


def test_nearest_is_the_order_of_the_table(monkeypatch):
    one, other = drawn("shared", 60, 45, 8)
    monkeypatch.setattr("saekit.metrics.nearest.CHUNK", 7 * 45)  # blocks of 7 rows
    cosine = unit(one) @ unit(other).T
    found = nearest(one, other, 4)
    assert torch.allclose(found.cosines, cosine.topk(4).values, atol=1e-6)
    assert torch.equal(found.columns, cosine.topk(4).indices)
    assert torch.equal(found.back, cosine.argmax(0))
    with pytest.raises(ShapeError, match="8 wide"):
        nearest(one, other[:, :5])
    with pytest.raises(ShapeError, match="8 wide"):
        assign(one, other[:, :5])


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 3e38])
def test_directions_without_a_finite_length_are_refused(bad):
    rows = torch.ones(40, 8)
    rows[3] = bad
    for one, other in ((rows, torch.ones(50, 8)), (torch.ones(50, 8), rows)):
        with pytest.raises(DataError, match="Direction 3 has no finite length"):
            assign(one, other)
