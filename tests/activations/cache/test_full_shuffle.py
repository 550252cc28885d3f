"""A full shuffle from disk: a permutation of each epoch, resumable anywhere, of any pair."""

import dataclasses

import pytest
import torch

from saekit.activations import passes
from saekit.activations.cache import caching
from saekit.activations.cache.full_shuffle import FullShuffle
from saekit.activations.cache.recorded import RecordedModel
from saekit.activations.cache.store import Store
from saekit.activations.pairs import Pair
from saekit.activations.rules import TokenRule
from saekit.activations.shuffle import Resident
from saekit.core.errors import DataError, FormatError
from saekit.saes.base import Scaling
from tests import world
from tests.activations.cached import SITES, everything, spec
from tests.activations.test_shuffle import rest

TOKENS = 2000
READ, OTHER = SITES
PAIRS = {
    "autoencoder": Pair(read=(READ,)),
    "transcoder": Pair(read=(READ,), write=(OTHER,)),
    "crosscoder": Pair(read=SITES),
    "folded": Pair(read=SITES, fold=True),
    "windows": Pair(read=(READ,), window=7),
    "folded windows": Pair(read=SITES, fold=True, window=5),
}


@pytest.fixture(autouse=True, scope="module")
def _small_passes():
    """Rows of a pass as few as shards of a small store need."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passes, "CPU_TOKENS", 512)
        yield


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Norms differ by site and a few are massive, so that sites keep other tokens."""
    folder = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        lm = world.model()
        real = type(lm).read

        def read(self, tokens, sites, **kwargs):
            found = real(self, tokens, sites, **kwargs)
            for i, acts in enumerate(found.values()):
                acts[(tokens * 7 + i * 3) % 23 == 0] *= 9
            return found

        patch.setattr(type(lm), "read", read)
        return caching.write(spec(folder), lm, folder / "cache", tokens=TOKENS, shown=False)


def harvest(store, pair):
    model = RecordedModel(Store.open(store.folder))
    return model.harvest(pair, TokenRule(), {})


def make(
    store,
    pair="autoencoder",
    *,
    tokens=1500,
    epochs=2,
    seed=0,
    batch=64,
    block=16,
    window=256,
    **changes,
):
    found = harvest(store, PAIRS[pair])
    for name, value in changes.items():
        setattr(found, name, value)
    return FullShuffle(
        found,
        tokens=tokens,
        epochs=epochs,
        batch_tokens=batch,
        seed=seed,
        window_tokens=window,
        block_tokens=block,
    )


def resident(store, pair, tokens=1500, batch=64, **changes):
    found = harvest(store, PAIRS[pair])
    for name, value in changes.items():
        setattr(found, name, value)
    return Resident(found, tokens=tokens, epochs=1, batch_tokens=batch, seed=0, shown=False)


def sorted_rows(batches):
    """Return all events as rows x then y, in the order of their values."""
    flat = torch.cat([torch.cat([x.flatten(1), y.flatten(1)], 1) for x, y in batches])
    rows, times = flat.unique(dim=0, return_counts=True)
    return rows.repeat_interleave(times, 0)


@pytest.mark.parametrize("pair", PAIRS)
def test_an_epoch_is_the_events_that_memory_would_hold(store, pair):
    """x with its y, each once, at every pair of sites: as the harvest itself gives them."""
    # Where an epoch ends within a store, folded sites differ in the last events: they take turns.
    tokens = harvest_size(store, pair) if "folded" in pair else 1500
    wanted = rest(resident(store, pair, tokens))
    found = rest(make(store, pair, tokens=tokens, epochs=1))
    assert torch.equal(sorted_rows(found), sorted_rows(wanted))
    assert [len(x) for x, _ in found] == [len(x) for x, _ in wanted]


def harvest_size(store, pair):
    found = harvest(store, PAIRS[pair])
    n = sum(len(acts.x) for acts in found.batches())
    return n * found.pair.event_tokens


def test_sites_that_share_an_sae_are_scaled_each_by_its_own(store):
    one = Scaling(torch.zeros(32), 2.0)
    other = Scaling(torch.ones(32), 0.5)
    pair = PAIRS["folded"]
    scalings = dict(zip(pair.reads, ((one, one), (other, other)), strict=True))
    size = harvest_size(store, "folded")
    wanted = rest(resident(store, "folded", size, scalings=scalings))
    found = rest(make(store, "folded", tokens=size, epochs=1, scalings=scalings))
    assert torch.equal(sorted_rows(found), sorted_rows(wanted))


@pytest.mark.parametrize("pair", ["autoencoder", "folded", "windows"])
@pytest.mark.parametrize(("block", "window"), [(1, 64), (16, 256), (64, 64), (50, 10**6), (999, 1)])
def test_every_event_comes_once_an_epoch(store, pair, block, window):
    stream = make(store, pair, block=block, window=window, epochs=3, tokens=1400)
    batches = rest(stream)
    served = sorted_rows(batches)
    each = served[::3]
    assert len(served) == stream.total_events
    if stream.total_events == 3 * stream.epoch_events:
        for i in range(3):
            assert torch.equal(served[i::3], each)


@pytest.mark.parametrize("pair", ["autoencoder", "transcoder", "folded windows"])
@pytest.mark.parametrize("at", [0, 1, 4, 7, 23, 24, 40])
def test_going_on_gives_the_same_batches(store, pair, at):
    whole = rest(make(store, pair))
    stream = make(store, pair)
    for _ in range(at):
        stream.batch()
    tensors, values = stream.state()
    assert not tensors and list(values) == ["served_events"]
    again = make(store, pair)
    again.load(tensors, values)
    for a, b in zip(whole[at:], rest(again), strict=True):
        assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])
    stream.load(tensors, values)  # also where it had read ahead
    assert torch.equal(stream.batch()[0], whole[at][0])


def test_seed_and_epoch_decide_the_order(store):
    first = make(store, epochs=2)
    batches = [x for x, _ in rest(first)]
    assert torch.equal(batches[0], make(store).batch()[0])
    assert not torch.equal(batches[0], make(store, seed=1).batch()[0])
    one, two = torch.cat(batches).split(1500)
    assert not torch.equal(one, two)


def test_the_order_does_not_hang_on_how_rows_lie_in_shards(store, tmp_path):
    lm = world.model()
    orders = []
    for size in (50_000, 10**7):
        config = dataclasses.replace(spec(tmp_path), shard_bytes=size)
        made = caching.write(config, lm, tmp_path / str(size), tokens=1500, shown=False)
        orders.append(rest(make(made, tokens=1500)))
        assert (len(made.records) > 2) == (size == 50_000)
    for (a, _), (b, _) in zip(*orders, strict=True):
        assert torch.equal(a, b)


def test_blocks_of_one_are_a_uniform_order(store):
    """Over seeds, the mean place of an event is the middle, wherever it lay in the text."""
    places = torch.zeros(256)
    n = 200
    stream = make(store, tokens=256, epochs=n, block=1, window=64)
    for epoch in range(n):
        windows = range(len(stream._order(epoch).begins) - 1)
        order = torch.cat([stream._events(epoch, w) for w in windows])
        assert torch.equal(order.sort().values, torch.arange(256))
        places[order] += torch.arange(256.0)
    means = places / n  # each of standard deviation 74 / sqrt(n) = 5.2
    assert (means - 127.5).abs().max() < 5 * 5.3
    assert means.std() == pytest.approx(5.2, rel=0.25)


def test_tokens_of_a_block_are_spread_over_its_window(store):
    stream = make(store, tokens=1500, block=16, window=256)
    order = stream._events(0, 0)
    blocks = (order // 16).unique()
    assert 240 < len(order) <= 256 and len(blocks) == 16  # the last block may be in it
    neighbours = (order.diff().abs() == 1).float().mean()
    assert neighbours < 0.06  # of 255 pairs; 0.0075 were the window text in random order


def test_counts_are_those_of_the_rule(store):
    stream = make(store, "autoencoder")
    counts = stream.harvest.counts
    assert counts.seen == counts.special + counts.high_norm + counts.kept
    assert counts.kept >= 1500 and counts.high_norm > 0 and counts.special > 0


def test_too_small_a_store_says_so_before_anything_is_read(store):
    with pytest.raises(DataError, match=r"99,999 were asked.*saekit cache write --resume"):
        make(store, tokens=99_999)


def test_damage_is_raised_where_batches_are_asked_for(tmp_path):
    made = caching.write(spec(tmp_path), world.model(), tmp_path / "c", tokens=1500, shown=False)
    whole = rest(make(made))
    path = made.folder / made.records[-1].file
    data = bytearray(path.read_bytes())
    data[path.stat().st_size // 3] ^= 1
    path.write_bytes(data)
    with pytest.raises(FormatError, match=f"{path.name}.*--repair"):
        rest(make(made))
    caching.repair(world.model(), made.folder, shown=False)
    assert torch.equal(whole[0][0], make(made).batch()[0])


@pytest.mark.parametrize("precision", ["bfloat16", "float16", "float8", "int8w"])
def test_single_tokens_are_what_rows_are_in_every_precision(tmp_path, precision):
    config = dataclasses.replace(spec(tmp_path), precision=precision)
    made = caching.write(config, world.model(), tmp_path / "c", tokens=1500, shown=False)
    acts = everything(made)[READ].flatten(0, 1)
    places = torch.tensor([0, 77, 1, 77])
    site = next(iter(made.sites))
    assert torch.equal(Store.open(made.folder).take(0, site, places), acts[places])
    assert torch.equal(
        sorted_rows(rest(make(made, epochs=1))), sorted_rows(rest(resident(made, "autoencoder")))
    )
