"""Examples of each latent in bands: strongest, by quarter of its range, random, weakest, off.

One peak a row of tokens counts, its strongest, so that no text is shown twice in a band. Draws are
by a fixed hash of row and latent, so nothing depends on how the store was cut into shards.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from saekit.activations.latents import LatentStore, Shard
from saekit.analysis.firing import FiringSums
from saekit.analysis.index_words import BANDS as BANDS
from saekit.analysis.index_words import ORDER as ORDER

TOP, QUARTER, RANDOM, BOUNDARY, NEGATIVE = 10, 3, 5, 5, 5  # examples of a latent in each band
RESERVOIR = 32  # rows of a latent that its quarters are drawn from
TRIGGERS = 5  # its commonest tokens, at which it is looked for off
OCCURRENCES = 32  # of a token that are looked at for that
WINDOW, BEFORE = 128, 96  # tokens of a row that are shown at most, and of these before the peak
PAIRS_AT_ONCE = 2**21


class Examples(NamedTuple):
    """Examples sorted by latent, then band, then rank."""

    latent: np.ndarray  # int64
    band: np.ndarray  # number in `BANDS`
    rank: np.ndarray  # from 0
    row: np.ndarray  # of the token stream
    pos: np.ndarray  # of the peak, or of the token at which it is off
    value: np.ndarray  # float32, act units; 0 where it is off
    start: np.ndarray  # first position of the row that is shown
    end: np.ndarray  # one more than the last
    doc: np.ndarray  # document of the peak
    starts: np.ndarray  # of the entries of each example, one more than examples
    at: np.ndarray  # places after `start` at which it is on
    acts: np.ndarray  # how strongly, float32


class _Best:
    """The `n` entries of lowest score of every group so far."""

    def __init__(self, n_groups: int, n: int):
        self.n = n
        self.limit = np.full(n_groups, np.inf)
        self.score = np.empty(0)
        self.group, self.row, self.pos = (np.empty(0, np.int64) for _ in range(3))
        self.value = np.empty(0, np.float32)

    def add(
        self,
        group: np.ndarray,
        score: np.ndarray,
        row: np.ndarray,
        pos: np.ndarray,
        value: np.ndarray,
    ) -> None:
        """Take in entries of later rows than those before: of equal scores the earlier stays."""
        hopeful = score < self.limit[group]
        every_group = np.concatenate([self.group, group[hopeful]])
        every_score = np.concatenate([self.score, score[hopeful]])
        order = _sorted(every_group, every_score, len(self.limit))
        rank = ranks(every_group[order])
        order, rank = order[rank < self.n], rank[rank < self.n]
        self.group, self.score = every_group[order], every_score[order]
        self.row = np.concatenate([self.row, row[hopeful]])[order]
        self.pos = np.concatenate([self.pos, pos[hopeful]])[order]
        self.value = np.concatenate([self.value, value[hopeful]])[order]
        full = rank == self.n - 1
        self.limit[self.group[full]] = self.score[full]


def _sorted(group: np.ndarray, score: np.ndarray, n_groups: int) -> np.ndarray:
    """Return what sorts entries by group, then score; equals stay in their order."""
    order = np.argsort(score, kind="stable")
    # Numbers of two bytes are sorted in the order of their digits, many times faster.
    short = group.astype(np.uint16) if n_groups <= 2**16 else group
    return order[np.argsort(short[order], kind="stable")]


def ranks(group: np.ndarray) -> np.ndarray:
    """Return the place of each entry in its group, from 0; `group` is sorted."""
    new = np.ones(len(group), bool)
    new[1:] = group[1:] != group[:-1]
    return np.arange(len(group)) - np.flatnonzero(new)[new.cumsum() - 1]


def shuffled(*keys: np.ndarray) -> np.ndarray:
    """Return a fixed pseudo-random number in [0, 1) for each tuple of whole numbers.

    Source:
        Steele et al. 2014, "Fast splittable pseudorandom number generators" (the mixing of
        SplitMix64), once for each key.
    """
    mixed = np.zeros(np.broadcast(*keys).shape, np.uint64)
    for key in keys:
        mixed = mixed + (key.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed = mixed ^ (mixed >> np.uint64(31))
    return (mixed >> np.uint64(11)).astype(np.float64) / 2.0**53


class _Text(NamedTuple):
    """A shard's rows, with where each token's document begins and ends in its row."""

    first_row: int
    tokens: np.ndarray  # [rows, n_ctx]
    docs: np.ndarray
    begin: np.ndarray
    end: np.ndarray


def _text_of(shard: Shard) -> _Text:
    rows = shard.rows()
    docs = rows.doc_ids.numpy()
    n, width = docs.shape
    at = np.arange(width)
    new = np.ones((n, width), bool)
    new[:, 1:] = docs[:, 1:] != docs[:, :-1]
    begin = np.maximum.accumulate(np.where(new, at, 0), axis=1)
    last = np.ones((n, width), bool)
    last[:, :-1] = new[:, 1:]
    ends = np.where(last, at + 1, width)
    end = np.minimum.accumulate(ends[:, ::-1], axis=1)[:, ::-1]
    return _Text(shard.first_row, rows.tokens.numpy(), docs, begin, end)


class _Entries(NamedTuple):
    """A shard's codes by latent, with keys that are sorted: latent, then place."""

    latent: np.ndarray
    row: np.ndarray
    pos: np.ndarray
    value: np.ndarray
    keys: np.ndarray
    span: int  # places of the shard
    first_row: int
    n_ctx: int

    def key(self, latent: np.ndarray, row: np.ndarray, pos: np.ndarray) -> np.ndarray:
        """Return the key of a latent at a place."""
        return latent * self.span + (row - self.first_row) * self.n_ctx + pos


def _entries_of(shard: Shard, n_ctx: int) -> _Entries:
    found = shard.by_latent()
    latent, row = found.latents().numpy(), found.row.numpy()
    pos, span = found.pos.numpy(), shard.n_rows * n_ctx
    keys = latent * span + (row - shard.first_row) * n_ctx + pos
    return _Entries(latent, row, pos, found.values.numpy(), keys, span, shard.first_row, n_ctx)


def find_examples(store: LatentStore, fired: FiringSums) -> Examples:
    """Return the examples of every latent; reads the store twice, a shard at a time.

    Args:
        store: the codes.
        fired: of the same store, `Firing.measure`.
    """
    top, weak = _Best(store.d_sae, TOP), _Best(store.d_sae, BOUNDARY)
    sample = _Best(store.d_sae, RESERVOIR)
    wanted = _triggers(fired, store.d_sae)
    seen = _Best(len(fired.tokens), OCCURRENCES)
    is_trigger = np.zeros(len(fired.tokens), bool)
    is_trigger[wanted[1]] = True
    for shard in store.shards():
        e = _entries_of(shard, store.n_ctx)
        peak = _strongest(e)
        latent, row, pos, value = e.latent[peak], e.row[peak], e.pos[peak], e.value[peak]
        size = np.abs(value).astype(np.float64)
        top.add(latent, -size, row, pos, value)
        weak.add(latent, size, row, pos, value)
        sample.add(latent, shuffled(row, latent), row, pos, value)
        _add_occurrences(seen, shard, is_trigger)
    chosen = [_columns("top", top), *_drawn(sample), _columns("boundary", weak)]
    chosen.append(_negatives(store, wanted, seen))
    latent, band, rank, row, pos, value = (np.concatenate(c) for c in zip(*chosen, strict=True))
    order = np.lexsort((rank, band, latent))
    return _shown(store, latent[order], band[order], rank[order], row[order], pos[order])


_Chosen = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def _columns(band: str, best: _Best, where: np.ndarray | None = None) -> _Chosen:
    """Return latent, band, rank, row, pos and value of what was kept, the best first."""
    at = np.arange(len(best.group)) if where is None else where
    group = best.group[at]
    number = np.full(len(at), ORDER.index(band))
    return group, number, ranks(group), best.row[at], best.pos[at], best.value[at]


def _drawn(sample: _Best) -> Iterator[_Chosen]:
    """Yield examples of each quarter of a sample of rows, and random ones."""
    n = np.bincount(sample.group, minlength=len(sample.limit))[sample.group]
    by_size = np.lexsort((-np.abs(sample.value), sample.group))
    rank = np.empty(len(by_size), np.int64)
    rank[by_size] = ranks(sample.group[by_size])
    quarter = rank * 4 // np.maximum(n, 1)  # 0: the strongest
    for i, band in enumerate(("q4", "q3", "q2", "q1")):
        mine = np.flatnonzero(quarter == i)  # in the order of the hash, within each latent
        mine = mine[ranks(sample.group[mine]) < QUARTER]
        mine = mine[np.lexsort((-np.abs(sample.value[mine]), sample.group[mine]))]
        yield _columns(band, sample, mine)
    yield _columns("random", sample, np.flatnonzero(ranks(sample.group) < RANDOM))


def _ranges(first: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Return first, first + 1 and so on, `n` numbers of each, one after another."""
    return np.repeat(first - (n.cumsum() - n), n) + np.arange(n.sum())


def _strongest(e: _Entries) -> np.ndarray:
    """Return the index of the value of largest size of each latent and row, the first of equals."""
    if not len(e.value):
        return np.empty(0, np.int64)
    new = np.ones(len(e.latent), bool)
    new[1:] = (e.latent[1:] != e.latent[:-1]) | (e.row[1:] != e.row[:-1])
    size, starts = np.abs(e.value), np.flatnonzero(new)
    reached = np.flatnonzero(size == np.maximum.reduceat(size, starts)[new.cumsum() - 1])
    segment = new.cumsum()[reached]
    first = np.ones(len(reached), bool)
    first[1:] = segment[1:] != segment[:-1]
    return reached[first]


def _triggers(fired: FiringSums, d_sae: int) -> tuple[np.ndarray, np.ndarray]:
    """Return latents and their commonest tokens, sorted by latent."""
    latent, token = fired.triggers.latent.numpy(), fired.triggers.token.numpy()
    order = np.lexsort((-fired.triggers.count.numpy(), latent))
    order = order[ranks(latent[order]) < TRIGGERS]
    return latent[order], token[order]


def _add_occurrences(seen: _Best, shard: Shard, is_trigger: np.ndarray) -> None:
    """Keep some tokens that count of each id that is wanted."""
    kept = shard.by_token()
    row, pos = kept.row.numpy(), kept.pos.numpy()
    token = shard.rows().tokens.numpy()[row - shard.first_row, pos]
    mine = is_trigger[token]
    row, pos, token = row[mine], pos[mine], token[mine]
    value = np.zeros(len(row), np.float32)
    seen.add(token, shuffled(row, pos), row, pos, value)


def _negatives(store: LatentStore, wanted: tuple[np.ndarray, np.ndarray], seen: _Best) -> _Chosen:
    """Return places of each latent's tokens at which it is off, one a row.

    Those in a document part of a row in which it is off throughout come first.
    """
    starts = np.concatenate([[0], np.bincount(seen.group, minlength=len(seen.limit)).cumsum()])
    best = _Best(store.d_sae, NEGATIVE)
    for shard in store.shards():
        e, text = _entries_of(shard, store.n_ctx), _text_of(shard)
        here = (seen.row >= shard.first_row) & (seen.row < shard.first_row + shard.n_rows)
        found: list[tuple[np.ndarray, ...]] = []
        for begin in range(0, len(wanted[0]), PAIRS_AT_ONCE // OCCURRENCES):
            part = slice(begin, begin + PAIRS_AT_ONCE // OCCURRENCES)
            first, n = starts[wanted[1][part]], np.diff(starts)[wanted[1][part]]
            latent, place = np.repeat(wanted[0][part], n), _ranges(first, n)
            latent, place = latent[here[place]], place[here[place]]
            row, pos = seen.row[place], seen.pos[place]
            at = row - shard.first_row
            low = np.searchsorted(e.keys, e.key(latent, row, text.begin[at, pos]))
            high = np.searchsorted(e.keys, e.key(latent, row, text.end[at, pos]))
            key = e.key(latent, row, pos)
            spot = np.searchsorted(e.keys, key)
            on = np.zeros(len(row), bool)
            inside = spot < len(e.keys)
            on[inside] = e.keys[spot[inside]] == key[inside]
            score = (high > low) + shuffled(row, pos, latent)
            found.append((latent[~on], score[~on], row[~on], pos[~on]))
        if not found:
            continue
        latent, score, row, pos = (np.concatenate(c) for c in zip(*found, strict=True))
        order = np.lexsort((score, row, latent))
        latent, score, row, pos = latent[order], score[order], row[order], pos[order]
        new = np.ones(len(latent), bool)  # one a row, the best; a row is in one shard
        new[1:] = (latent[1:] != latent[:-1]) | (row[1:] != row[:-1])
        value = np.zeros(int(new.sum()), np.float32)
        best.add(latent[new], score[new], row[new], pos[new], value)
    return _columns("negative", best)


def _shown(
    store: LatentStore,
    latent: np.ndarray,
    band: np.ndarray,
    rank: np.ndarray,
    row: np.ndarray,
    pos: np.ndarray,
) -> Examples:
    """Return chosen examples with the text around them and the latent's activations in it."""
    n = len(latent)
    start, end, doc, lengths = (np.zeros(n, np.int64) for _ in range(4))
    value = np.zeros(n, np.float32)
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for shard in store.shards():
        mine = np.flatnonzero((row >= shard.first_row) & (row < shard.first_row + shard.n_rows))
        if not len(mine):
            continue
        e, text = _entries_of(shard, store.n_ctx), _text_of(shard)
        at, where = row[mine] - shard.first_row, pos[mine]
        begin, stop = text.begin[at, where], text.end[at, where]
        low = np.maximum(begin, where - BEFORE)
        high = np.minimum(stop, low + WINDOW)
        low = np.maximum(begin, high - WINDOW)
        start[mine], end[mine], doc[mine] = low, high, text.docs[at, where]
        a = np.searchsorted(e.keys, e.key(latent[mine], row[mine], low))
        b = np.searchsorted(e.keys, e.key(latent[mine], row[mine], high))
        count = b - a
        lengths[mine] = count
        entry = _ranges(a, count)
        owner = np.repeat(mine, count)
        parts.append((owner, e.pos[entry] - start[owner], e.value[entry]))
        peaks = e.pos[entry] == pos[owner]
        value[owner[peaks]] = e.value[entry[peaks]]
    owner, at, acts = (
        (np.concatenate(c) for c in zip(*parts, strict=True))
        if parts
        else (np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))
    )
    order = np.argsort(owner, kind="stable")
    starts = np.concatenate([[0], lengths.cumsum()])
    return Examples(
        latent, band, rank, row, pos, value, start, end, doc, starts, at[order], acts[order]
    )
