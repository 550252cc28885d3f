"""The strongest contexts: chosen, bounded by documents, merged."""

import pytest
import torch

from saekit.core.errors import ConfigError
from saekit.data.tokenise import Rows
from saekit.studies.layers.examples import Examples
from tests.studies.layers.world import codes, some_acts

N_CTX = 6


def rows(n, first=0, docs=None):
    tokens = torch.arange(n * N_CTX).view(n, N_CTX) + first * N_CTX
    return Rows(tokens, torch.zeros_like(tokens) if docs is None else docs, first)


def kept(acts, step=None, n=2, docs=None):
    found = Examples(acts.shape[0], acts.shape[2], n=n, before=2, after=1)
    n_rows = acts.shape[1] // N_CTX
    for first in range(0, n_rows, step or n_rows):
        end = min(first + (step or n_rows), n_rows)
        part = codes(acts[:, first * N_CTX : end * N_CTX])
        own = None if docs is None else docs[first:end]
        for index, layer in enumerate(part):
            found.add(index, layer, rows(end - first, first, own))
    return found


def brute(acts, layer, latent, n=2):
    """The strongest token of every row, the strongest rows first."""
    values = acts[layer, :, latent].view(-1, N_CTX)
    best, pos = values.max(1)
    order = sorted(range(len(best)), key=lambda r: (-float(best[r]), r))
    return [(r, int(pos[r]), float(best[r])) for r in order[:n] if best[r] > 0]


def test_they_are_the_strongest_tokens():
    acts = some_acts(3, 48, 7)
    found = kept(acts)
    for layer in range(3):
        for latent in range(7):
            got = [(e.row, e.pos, e.strength) for e in found.of(layer, latent)]
            assert got == brute(acts, layer, latent)


def test_windows_show_text_and_activations():
    acts = some_acts(2, 48, 5, on=0.6)
    for e in kept(acts).of(1, 2):
        at = range(max(e.pos - 2, 0), min(e.pos + 2, N_CTX))
        assert e.tokens == [e.row * N_CTX + p for p in at]
        assert e.strengths == [float(acts[1, e.row * N_CTX + p, 2]) for p in at]
        assert e.tokens[e.peak] == e.row * N_CTX + e.pos
        assert e.strengths[e.peak] == e.strength


def test_a_window_ends_with_its_document():
    acts = torch.zeros(1, 2 * N_CTX, 1)
    acts[0, 2] = 5.0  # row 0: documents 0 0 | 1 1 1 1
    acts[0, N_CTX + 1] = 4.0  # row 1: documents 2 2 | 3 3 3 3
    docs = torch.tensor([[0, 0, 1, 1, 1, 1], [2, 2, 3, 3, 3, 3]])
    first, second = kept(acts, docs=docs).of(0, 0)
    assert first.tokens == [2, 3] and first.peak == 0
    assert second.tokens == [6, 7] and second.peak == 1  # not the next document, not row 0


@pytest.mark.parametrize("step", [1, 3, 5])
def test_batches_change_nothing(step):
    acts = (some_acts(3, 60, 7) * 4).ceil()  # many ties
    one, other = kept(acts), kept(acts, step)
    for name, value in one.tensors().items():
        assert torch.equal(other.tensors()[name], value), name


@pytest.mark.parametrize("turned", [False, True])
def test_two_halves_are_the_whole(turned):
    acts = (some_acts(2, 60, 7) * 4).ceil()
    whole = kept(acts)
    halves = []
    for part in (slice(0, 5), slice(5, 10)):
        half = Examples(2, 7, n=2, before=2, after=1)
        tokens = slice(part.start * N_CTX, part.stop * N_CTX)
        for index, layer in enumerate(codes(acts[:, tokens])):
            half.add(index, layer, rows(5, part.start))
        halves.append(half)
    one, other = reversed(halves) if turned else halves
    one.merge(other)
    for name, value in whole.tensors().items():
        used = whole.row >= 0
        assert torch.equal(one.row, whole.row)
        assert torch.equal(one.tensors()[name][used], value[used]), name


def test_packing_is_undone():
    found = kept(some_acts(2, 30, 5))
    again = Examples(2, 5, n=2, before=2, after=1)
    again.unpack(found.packed())
    assert all(again.of(1, i) == found.of(1, i) for i in range(5))


def test_other_shapes_do_not_merge_and_none_is_none():
    one = Examples(1, 2, n=1, before=2, after=1)
    with pytest.raises(ConfigError, match="same layers, latents"):
        one.merge(Examples(1, 2, n=1, before=1, after=2))
    with pytest.raises(ConfigError, match="`before`"):
        Examples(1, 2, n=1, before=-1, after=1)
    nothing = kept(some_acts(1, 12, 2), n=0)
    assert nothing.of(0, 1) == []
