"""Structure of directions that was planted is found above the floors."""

import pytest
import torch
from torch.nn.functional import normalize

from saekit.core.errors import DataError
from saekit.studies.structure.meta import (
    MetaFit,
    explained,
    held_out_rows,
    random_rows,
    rotated_rows,
    unit_rows,
)

HOW = MetaFit(steps=120, batch_rows=64)


@pytest.fixture(scope="module")
def composed():
    """320 directions, each the sum of 2 of 30 parts in 40 dimensions."""
    g = torch.Generator().manual_seed(0)
    parts = normalize(torch.randn(30, 40, generator=g), dim=-1)
    chosen = torch.rand(320, 30, generator=g).topk(2).indices
    return normalize(parts[chosen].sum(1), dim=-1)


def test_parts_that_directions_share_are_found_in_those_held_out(composed):
    own = explained(composed, HOW, 0, shown=False)
    floors = [
        explained(rows, HOW, 0, shown=False)
        for rows in (random_rows(composed, 0), rotated_rows(composed, HOW, 0))
    ]
    assert own.share(held_out=True) > 0.5
    for floor in floors:
        assert floor.share(held_out=True) < own.share(held_out=True) - 0.2
        assert torch.equal(floor.held_out, own.held_out)
    assert len(own.held_out) == 32 and own.share(held_out=False) > own.share(held_out=True)


def test_a_share_is_one_less_missed_over_variance_and_leaves_rows_out(composed):
    own, again = (explained(composed, MetaFit(steps=5), 1, shown=False) for _ in range(2))
    assert torch.equal(own.missed, again.missed)
    held, fitted = own.held_out, torch.ones(320).bool()
    fitted[held] = False
    mean = composed[fitted].double().mean(0)
    variance = (composed.double() - mean).square().sum(1)
    assert torch.allclose(own.variance, variance)
    value = 1 - own.missed[held].sum() / variance[held].sum()
    assert own.share(held_out=True) == pytest.approx(float(value))
    rest = held[1:]
    first = 1 - own.missed[rest].sum() / variance[rest].sum()
    assert float(own.without()[0]) == pytest.approx(float(first))


def test_turned_rows_keep_lengths_and_variance_on_each_axis(composed):
    turned = rotated_rows(composed, HOW, 0)
    assert torch.allclose(turned.norm(dim=-1), torch.ones(320), atol=1e-5)
    fitted = composed[held_out_rows(320, HOW, 0)[1]].double()
    axes = torch.linalg.eigh(fitted.t() @ fitted)[1]
    energy, other = ((r.double() @ axes).square().sum(0) for r in (composed, turned))
    assert torch.allclose(energy, other, atol=1e-5)
    assert float((turned - composed).norm(dim=-1).min()) > 0.01


@pytest.mark.slow  # eight fits, for a mean
def test_random_directions_are_no_better_than_turned_ones_however_few_there_are():
    how, gaps = MetaFit(steps=60, batch_rows=64, test_share=0.3), []
    for seed in range(4):
        own = random_rows(torch.zeros(32, 16), seed)
        shares = [
            explained(rows, how, seed, shown=False).share(held_out=True)
            for rows in (own, rotated_rows(own, how, seed))
        ]
        gaps.append(shares[0] - shares[1])
    assert abs(sum(gaps) / 4) < 0.1  # with axes of all directions -0.17


def test_directions_of_length_0_are_left_out():
    rows = torch.cat([torch.zeros(3, 4), 5 * torch.ones(9, 4)])
    assert torch.allclose(unit_rows(rows), torch.full((9, 4), 0.5))
    with pytest.raises(DataError, match="8 directions"):
        unit_rows(rows[:8])


def test_directions_too_long_for_their_numbers_are_refused():
    with pytest.raises(DataError, match="Direction 2 has no finite length"):
        unit_rows(torch.ones(9, 4) * torch.tensor([1, 1, 1e30, *[1.0] * 6])[:, None])
