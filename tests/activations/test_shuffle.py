"""Shuffling: every token once an epoch, and the same batches after a stop."""

import pytest
import torch

from saekit.activations.batch import ActBatch
from saekit.activations.harvest import Counts, Harvest
from saekit.activations.pairs import Pair
from saekit.activations.shuffle import Resident, Rolling
from saekit.core.errors import DataError

N_TOKENS = 1000


class Text(Harvest):
    """A harvest whose activations are the number of the event, 1 to 13 a forward pass."""

    batch_rows = 2

    def __init__(self, n_passes=200, transcoder=False, window=0):
        write = ("L1.mlp_out",) if transcoder else ()
        self.pair = Pair(read=("L1.resid_post",), write=write, window=window)
        self.model = type("Model", (), {"device": torch.device("cpu")})
        self.counts, self.n_passes = Counts(), n_passes
        self.passes = 0

    def batches(self, first_row=0, n_rows=None):
        sizes = [i * 7 % 13 + (i % 5 > 0) for i in range(self.n_passes)]  # some are empty
        for i in range(first_row // 2, self.n_passes):
            first = sum(sizes[:i])
            self.passes += 1
            self.counts = self.counts.plus(Counts(sizes[i], 0, 0, sizes[i]))
            x = torch.arange(first, first + sizes[i]).float().unsqueeze(1)
            y = x if self.pair.is_autoencoder else -x
            yield ActBatch(x, y, torch.zeros(len(x)).long(), torch.zeros(len(x)).long())


def make(kind, text=None, epochs=2, batch=64, seed=0):
    settings = {"tokens": N_TOKENS, "epochs": epochs, "batch_tokens": batch, "seed": seed}
    if kind == "resident":
        return Resident(text or Text(), shown=False, **settings)
    return Rolling(text or Text(), buffer_tokens=kind, **settings)


def rest(stream):
    out = []
    while stream.served_tokens < stream.total_tokens:
        out.append(stream.batch())
    return out


KINDS = ["resident", 64, 333, N_TOKENS, 5000]


@pytest.mark.parametrize("kind", KINDS)
def test_every_token_comes_once_an_epoch(kind):
    stream = make(kind)
    batches = rest(stream)
    assert [len(x) for x, _ in batches[:-1]] == [64] * (len(batches) - 1)
    served = torch.cat([x for x, _ in batches]).flatten().long()
    assert torch.equal(torch.bincount(served), torch.full((N_TOKENS,), 2))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("at", [1, 5, 17, 30])
def test_going_on_gives_the_same_batches(kind, at):
    whole = rest(make(kind))
    stream = make(kind)
    for _ in range(at):
        stream.batch()
    tensors, values = stream.state()
    tensors = {k: v.clone() for k, v in tensors.items()}
    again = make(kind)
    again.load(tensors, values)
    for (a, _), (b, _) in zip(whole[at:], rest(again), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("kind", KINDS)
def test_the_seed_decides_the_order(kind):
    one, same, other = (rest(make(kind, seed=s))[0][0] for s in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("kind", KINDS)
def test_targets_stay_with_their_inputs(kind):
    for x, y in rest(make(kind, Text(transcoder=True))):
        assert torch.equal(y, -x)


def test_a_rolling_buffer_mixes_distant_tokens():
    first = make(333, epochs=1).batch()[0].flatten()
    assert first.max() - first.min() > 250


def test_resident_reads_the_text_once():
    text = Text()
    rest(make("resident", text, epochs=3))
    once = text.passes
    rest(make("resident", Text(), epochs=1))
    assert text.passes == once < 200


@pytest.mark.parametrize("kind", ["resident", 64])
def test_counts_do_not_count_twice_after_a_stop(kind):
    whole = make(kind)
    rest(whole)
    stream = make(kind)
    for _ in range(7):
        stream.batch()
    tensors, values = stream.state()
    again = make(kind)
    again.load(tensors, values)
    rest(again)
    assert again.harvest.counts == whole.harvest.counts


def test_too_little_text_is_an_error_before_the_first_batch():
    with pytest.raises(DataError, match="1,000 were asked"):
        rest(make("resident", Text(n_passes=20)))


def test_a_rolling_stream_ends_where_its_text_does():
    """What was trained by then is kept: the stream is done, with fewer tokens than were asked."""
    stream = make(64, Text(n_passes=20))
    asked = stream.total_tokens
    rest(stream)
    assert stream.served_tokens == stream.total_tokens < asked


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("window", "batch", "epochs"), [(7, 64, 2), (64, 64, 3), (3, 10, 1)])
def test_windows_are_served_in_as_many_batches_as_their_tokens_fill(kind, window, batch, epochs):
    def stream():
        return make(kind, Text(window=window), epochs=epochs, batch=batch)

    whole = stream()
    batches = [x for x, _ in rest(whole)]
    assert len(batches) == -(-N_TOKENS * epochs // batch)
    done = 0
    for i, x in enumerate(batches[:-1], 1):
        done += len(x) * window
        assert i * batch - window < done <= i * batch
    times = torch.bincount(torch.cat(batches).flatten().long())
    assert len(times) == -(-N_TOKENS // window)  # an epoch is whole windows
    assert N_TOKENS * epochs <= int(times.sum()) * window < N_TOKENS * epochs + window
    assert whole.served_tokens == int(times.sum()) * window
    for at in (1, len(batches) // 2, len(batches) - 1):
        again, other = stream(), stream()
        for _ in range(at):
            again.batch()
        tensors, values = again.state()
        other.load({k: v.clone() for k, v in tensors.items()}, values)
        for a, (b, _) in zip(batches[at:], rest(other), strict=True):
            assert torch.equal(a, b)
        assert other.harvest.counts == whole.harvest.counts


def test_too_little_text_for_windows_says_so():
    with pytest.raises(DataError, match="in windows of 64"):
        rest(make(64, Text(n_passes=1, window=64)))


def test_one_harvest_serves_other_orders_and_batches():
    text = Text()
    first = make("resident", text)
    passes = text.passes
    wanted = rest(make("resident", batch=100, seed=5))
    first.batch()
    other = first.again(batch_tokens=100, seed=5)
    found = rest(other)
    assert text.passes == passes  # nothing was harvested again
    assert first.served_tokens == 64  # and the first goes on where it was
    for a, b in zip(found, wanted, strict=True):
        assert torch.equal(a[0], b[0])
