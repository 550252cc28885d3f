"""Neighbours by what latents write are those of the whole product, in steps of any size."""

import pytest
import torch
from torch.nn import functional

from saekit.analysis import neighbours


@pytest.mark.parametrize("most_at_once", [2**26, 700, 1])
def test_alike_is_the_product_without_the_diagonal(most_at_once, monkeypatch):
    monkeypatch.setattr(neighbours, "MOST_AT_ONCE", most_at_once)
    directions = torch.randn(101, 6, generator=torch.Generator().manual_seed(0))
    unit = functional.normalize(directions, dim=1)
    wanted = (unit @ unit.T).fill_diagonal_(-torch.inf).topk(5, dim=1)
    found = neighbours.alike(directions, 5)
    assert found is not None
    assert torch.equal(found.latents, wanted.indices)
    torch.testing.assert_close(found.values, wanted.values)


def test_alike_leaves_out_what_a_cpu_cannot(monkeypatch):
    monkeypatch.setattr(neighbours, "MOST_PRODUCTS", 10)
    assert neighbours.alike(torch.ones(4, 3), 2) is None
    assert neighbours.alike(torch.ones(1, 3), 2) is None
