"""Sums against the formulas on a dense array; batches and merging change nothing."""

import pytest
import torch

from saekit.core.errors import ConfigError
from saekit.studies.layers import sums as module
from saekit.studies.layers.sums import LayerSums
from tests.studies.layers.world import codes, some_acts

NUMBERS = [0, 3, 4]


def summed(acts, step=None, n_ctx=5):
    found = LayerSums(NUMBERS, acts.shape[2])
    step = step or acts.shape[1]
    for first in range(0, acts.shape[1], step):
        part = acts[:, first : first + step]
        found.add(codes(part), part.shape[1], part.shape[1])
    return found


def test_sums_are_those_of_the_formulas():
    acts = some_acts()
    a = acts.double()
    found = summed(acts)
    layer = torch.tensor(NUMBERS).double()[:, None, None]
    mass = a.sum(0)
    p = (a / mass).nan_to_num(0)
    expected = (layer * p).sum(0)  # [tokens, d_sae]
    torch.testing.assert_close(found.counts, (a > 0).sum(1))
    torch.testing.assert_close(found.totals, a.sum(1))
    torch.testing.assert_close(found.squares, a.square().sum(1))
    torch.testing.assert_close(found.shares, p.sum(1))
    torch.testing.assert_close(found.centres, (mass * expected.square()).sum(0))
    torch.testing.assert_close(found.even_centres, expected.square().sum(0))
    assert torch.equal(found.pairs, (mass > 0).sum(0))
    assert torch.equal(found.singles, ((a > 0).sum(0) == 1).sum(0))
    assert found.n_tokens == 40 and found.tokens.tolist() == [40, 40, 40]


@pytest.mark.parametrize("step", [1, 7, 20])
def test_batches_change_nothing(step):
    acts = some_acts()
    one, other = summed(acts), summed(acts, step)
    for name, value in one.tensors().items():
        torch.testing.assert_close(other.tensors()[name], value, rtol=1e-12, atol=1e-12)
    assert torch.equal(one.counts, other.counts) and torch.equal(one.pairs, other.pairs)


def test_few_places_at_a_time_change_nothing(monkeypatch):
    acts = some_acts()
    whole = summed(acts)
    monkeypatch.setattr(module, "PAIR_CELLS", 21)  # three tokens
    for name, value in summed(acts).tensors().items():
        torch.testing.assert_close(value, whole.tensors()[name], rtol=1e-12, atol=1e-12)


def test_two_halves_are_the_whole():
    acts = some_acts()
    half = summed(acts[:, :20])
    half.merge(summed(acts[:, 20:]))
    whole = summed(acts)
    for name, value in whole.tensors().items():
        torch.testing.assert_close(half.tensors()[name], value, rtol=1e-12, atol=1e-12)
    assert half.n_tokens == whole.n_tokens


def test_counts_of_many_tokens_are_exact():
    found = LayerSums([0], 1)
    found.counts += 2**24  # where float32 stops counting
    found.add(codes(torch.ones(1, 3, 1)), 3, 3)
    assert int(found.counts) == 2**24 + 3


def test_sums_of_other_layers_are_refused():
    with pytest.raises(ConfigError, match=r"\[0, 3, 4\] and \[0, 1, 2\]"):
        LayerSums(NUMBERS, 4).merge(LayerSums([0, 1, 2], 4))
