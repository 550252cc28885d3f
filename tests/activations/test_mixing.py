"""Mixing: what is served when, and the same batches after a stop."""

import pytest
import torch

from saekit.activations.mixing import Mixing
from saekit.core.errors import DataError
from tests.activations.test_shuffle import N_TOKENS, Text, rest


def make(buffer=256, mixing=0.5, text=None, epochs=2, seed=0, batch=64):
    return Mixing(
        text or Text(),
        buffer_tokens=buffer,
        mixing=mixing,
        tokens=N_TOKENS,
        epochs=epochs,
        batch_tokens=batch,
        seed=seed,
    )


CASES = [(256, 0.5), (64, 0.0), (64, 1.0), (333, 0.9), (256, 0.0), (700, 0.25)]


@pytest.mark.parametrize(("buffer", "mixing"), CASES)
@pytest.mark.parametrize("transcoder", [False, True])
def test_every_token_comes_once_an_epoch(buffer, mixing, transcoder):
    batches = rest(make(buffer, mixing, Text(transcoder=transcoder)))
    assert [len(x) for x, _ in batches[:-1]] == [64] * (len(batches) - 1)
    served = torch.cat([x for x, _ in batches]).flatten().long()
    assert torch.equal(torch.bincount(served), torch.full((N_TOKENS,), 2))
    assert not transcoder or all(torch.equal(y, -x) for x, y in batches)


@pytest.mark.parametrize(("buffer", "mixing"), CASES)
@pytest.mark.parametrize("at", [0, 1, 5, 17, 30])
def test_going_on_gives_the_same_batches(buffer, mixing, at):
    whole = make(buffer, mixing)
    batches = rest(whole)
    stream = make(buffer, mixing)
    for _ in range(at):
        stream.batch()
    tensors, values = stream.state()
    again = make(buffer, mixing)
    again.load({k: v.clone() for k, v in tensors.items()}, values)
    for (a, _), (b, _) in zip(batches[at:], rest(again), strict=True):
        assert torch.equal(a, b)
    assert again.harvest.counts == whole.harvest.counts


def test_without_mixing_the_order_is_that_of_the_text():
    served = torch.cat([x for x, _ in rest(make(256, 0.0, epochs=1))]).flatten()
    assert torch.equal(served, torch.arange(N_TOKENS).float())


def test_so_much_is_served_as_leaves_the_share():
    stream = make(256, 0.5, epochs=1)
    stream.batch()
    assert stream._serving == 64  # of 256 to 268, two batches; one was served
    assert 256 - 128 <= len(stream._held) <= 268 - 64


def test_one_batch_is_served_where_all_is_kept_back():
    stream = make(256, 1.0, epochs=1)
    for _ in range(5):
        stream.batch()
        assert stream._serving == 0


def test_the_seed_decides_the_order():
    one, same, other = (rest(make(seed=s))[0][0] for s in (0, 0, 1))
    assert torch.equal(one, same) and not torch.equal(one, other)


@pytest.mark.parametrize(("window", "batch"), [(7, 64), (3, 10)])
def test_windows_are_mixed_as_events(window, batch):
    def stream():
        return make(256, 0.5, Text(window=window), batch=batch)

    batches = [x for x, _ in rest(stream())]
    assert len(batches) == -(-N_TOKENS * 2 // batch)
    times = torch.bincount(torch.cat(batches).flatten().long())
    assert len(times) == -(-N_TOKENS // window)
    assert times.sum() == -(-N_TOKENS * 2 // window)


def test_too_little_text_is_an_error():
    with pytest.raises(DataError, match="1,000 were asked"):
        rest(make(text=Text(n_passes=20)))
