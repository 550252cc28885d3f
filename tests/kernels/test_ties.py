"""The k largest, and of equals the first: against a stable sort."""

import pytest
import torch

from saekit.kernels import ties


@pytest.mark.parametrize("shape", [(1, 7), (50, 300), (4, 6, 20), (9, 64)])
@pytest.mark.parametrize("k", [1, 3, 4, 7])
def test_places_are_those_of_a_stable_sort(shape, k):
    values = torch.randint(-3, 4, shape, generator=torch.Generator().manual_seed(0)).float()
    values[..., ::5] *= 0.0  # of both signs
    want = torch.sort(values, dim=-1, descending=True, stable=True).indices[..., :k].sort(-1).values
    assert torch.equal(ties.top_places(values, k), want)


def test_not_a_number_is_the_largest():
    values = torch.tensor([[1.0, 1.0, float("nan"), 1.0, 0.0]])
    assert ties.top_places(values, 2).tolist() == [[0, 2]]
    assert ties.top_places(torch.full((1, 4), float("nan")), 2).shape == (1, 2)


def test_all_and_none():
    values = torch.zeros(2, 3)
    assert ties.top_places(values, 3).tolist() == [[0, 1, 2]] * 2
    assert ties.top_places(values, 0).shape == (2, 0)
    assert ties.top_places(values[:0], 2).shape == (0, 2)


def test_among_all_the_first_of_equals_are_kept():
    values = torch.tensor([2.0, 1.0, 3.0, 1.0, 1.0, -torch.inf])
    for k in range(7):
        order = torch.sort(values, descending=True, stable=True).indices[:k]
        want = torch.zeros(6, dtype=torch.bool).index_fill_(0, order, value=True)
        assert torch.equal(ties.among_largest(values, k), want)
