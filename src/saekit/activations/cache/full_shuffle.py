"""Stored: all events of a store in a new random order each epoch, from disk."""

from collections.abc import Iterator
from typing import Any, NamedTuple, final

import torch
from jaxtyping import Int
from torch import Tensor
from typing_extensions import override

from saekit.activations.ahead import Ahead
from saekit.activations.cache.recorded import CachedHarvest
from saekit.activations.harvest import Counts
from saekit.activations.shuffle import Batch, Shuffle
from saekit.core.errors import DataError
from saekit.core.seeds import generator
from saekit.models.sites import Site


class _Epoch(NamedTuple):
    """The order of an epoch: blocks, and where windows of blocks begin in it."""

    blocks: Int[Tensor, "n_blocks"]  # their order
    begins: Int[Tensor, "n_windows_1"]  # first event served of each window; the end at last


@final
class FullShuffle(Shuffle):
    """Events of a store in random order, read in blocks that are mixed many at a time.

    An epoch permutes blocks of consecutive events; as many blocks as fill `window_tokens` are
    read and their events permuted. Blocks of one token are a uniform order; longer ones are
    read sooner from a disk, and are as good where a window mixes many of them. The order
    is a function of seed, epoch and the events alone, not of how they lie in shards, so the
    position is one number. The next window is read on a thread while the present is served.

    In memory are two windows, and 4 bytes an event for where it is.

    Args:
        harvest: of a store.
        window_tokens: tokens that are mixed at once.
        block_tokens: tokens that stay together up to the window they are mixed in.
        kwargs: of `Shuffle`.

    Raises:
        DataError: the store has too few tokens that count.
        FormatError: a shard is damaged.
    """

    def __init__(
        self, harvest: CachedHarvest, *, window_tokens: int, block_tokens: int, **kwargs: Any
    ):
        super().__init__(harvest, **kwargs)
        self.store = harvest.store
        self.block_events = max(block_tokens // self.event_tokens, 1)
        window_events = max(window_tokens // self.event_tokens, 1)
        self.n_blocks = -(-self.epoch_events // self.block_events)
        self.window_blocks = min(max(window_events // self.block_events, 1), self.n_blocks)
        self._places: list[Tensor] = []  # of each shard, first token of each event, int32
        self._sites: list[Tensor] = []  # and which site it is of, where these are folded, int8
        self._begins = self._index()  # event at which each shard begins
        self._epochs: dict[int, _Epoch] = {}
        self._source: Ahead[tuple[int, list[Tensor]]] | None = None
        self._window: tuple[int, list[Tensor]] = (0, [])  # first event served of it; its sides

    def _index(self) -> Int[Tensor, "n_shards"]:
        """Find the events of the epoch, from norms and token ids alone."""
        harvest, pair = self.harvest, self.harvest.pair
        harvest.counts = Counts()
        begins, n = [], 0
        for index, record in enumerate(self.store.records):
            if n >= self.epoch_events:
                break
            rows = self.store.text(record.first_row, record.n_rows)
            norms = {site: self.store.norms(index, site) for site in pair.sites}
            masks = {s: harvest.rules[str(s)].keep_norms(rows.tokens, norms[s]) for s in norms}
            flat, which = [], []
            for i, (row, pos) in enumerate(harvest.places(rows, masks).values()):
                first = row * self.store.n_ctx + (pos[:, 0] if pair.window else pos)
                flat.append(first)
                which.append(torch.full_like(first, i))
            places, sites = torch.cat(flat), torch.cat(which)
            order = (places * len(flat) + sites).argsort()  # sites of a token together
            begins.append(n)
            n += len(order)
            self._places.append(places[order].int())
            self._sites.append(sites[order].to(torch.int8) if len(flat) > 1 else order[:0])
        if n < self.epoch_events:
            raise DataError(
                f"The cache has {n * self.event_tokens:,} tokens that count at "
                f"{pair.label}; {self.tokens:,} were asked. Lower `tokens`, raise `epochs`, or "
                f"{harvest.more}."
            )
        return torch.tensor(begins)

    @override
    def batch(self) -> Batch:
        parts: list[list[Tensor]] = []
        wanted = self._batch_events()
        while wanted:
            begin, sides = self._window
            at = self.served_events - begin
            if not sides or at >= len(sides[0]):
                self._window = self._next_window()
                continue
            parts.append([side[at : at + wanted] for side in sides])
            self.served_events += len(parts[-1][0])
            wanted -= len(parts[-1][0])
        device = self.harvest.model.device
        out = [torch.cat(side).to(device).float() for side in zip(*parts, strict=True)]
        return out[0], out[-1]

    def _next_window(self) -> tuple[int, list[Tensor]]:
        if self._source is None:
            self._source = Ahead(self._windows(*divmod(self.served_events, self.epoch_events)))
        return next(self._source)

    def _windows(self, epoch: int, at: int) -> Iterator[tuple[int, list[Tensor]]]:
        """Yield the windows from that of an event on, to the end of the last epoch."""
        first = int(torch.searchsorted(self._order(epoch).begins, at, right=True)) - 1
        for e in range(epoch, self.epochs):
            begins = self._order(e).begins
            for window in range(first, len(begins) - 1):
                events = self._events(e, window)
                yield e * self.epoch_events + int(begins[window]), self._read(events)
            first = 0

    def _order(self, epoch: int) -> _Epoch:
        if epoch not in self._epochs:
            chance = generator(self.seed, "blocks", epoch)
            blocks = torch.randperm(self.n_blocks, generator=chance)
            sizes = torch.full((self.n_blocks,), self.block_events)
            sizes[blocks.argmax()] -= self.n_blocks * self.block_events - self.epoch_events
            ends = sizes.cumsum(0)
            last = torch.arange(self.window_blocks, self.n_blocks, self.window_blocks) - 1
            begins = torch.cat([ends.new_zeros(1), ends[last], ends[-1:]])
            self._epochs = {epoch: _Epoch(blocks, begins)}
        return self._epochs[epoch]

    def _events(self, epoch: int, window: int) -> Int[Tensor, "n"]:
        """Return the events of a window in the order in which they are served."""
        blocks = self._order(epoch).blocks[window * self.window_blocks :][: self.window_blocks]
        events = (blocks[:, None] * self.block_events + torch.arange(self.block_events)).flatten()
        events = events[events < self.epoch_events]
        chance = generator(self.seed, "window", epoch, window)
        return events[torch.randperm(len(events), generator=chance)]

    def _read(self, events: Int[Tensor, "n"]) -> list[Tensor]:
        """Return x, and y where it is not x, of some events."""
        events, place = events.sort()  # in the order of the disk
        shards = torch.searchsorted(self._begins, events, right=True) - 1
        found, counts = shards.unique_consecutive(return_counts=True)
        out: list[Tensor] = []
        done = 0
        for shard, n in zip(found.tolist(), counts.tolist(), strict=True):
            here = events[done : done + n] - self._begins[shard]
            for i in range(1 if self.harvest.pair.is_autoencoder else 2):
                side = self._side(shard, here, i)
                if len(out) == i:
                    out.append(side.new_empty(len(events), *side.shape[1:]))
                out[i][place[done : done + n]] = side
            done += n
        return out

    def _side(self, shard: int, events: Int[Tensor, "n"], i: int) -> Tensor:
        """Return what is read (0) or predicted (1) of some events of a shard."""
        pair = self.harvest.pair
        both = list(zip(pair.reads, pair.writes if i else pair.reads, strict=True))
        places = self._places[shard][events].long()
        if not len(self._sites[shard]):
            return pair.arrange([self._acts(shard, read, at, places, i) for read, at in both])
        sites = self._sites[shard][events]
        out: Tensor | None = None
        for k, (read, at) in enumerate(both):
            mine = (sites == k).nonzero()[:, 0]
            acts = self._acts(shard, read, at, places[mine], i)
            out = acts.new_empty(len(events), *acts.shape[1:]) if out is None else out
            out[mine] = acts
        assert out is not None
        return out

    def _acts(self, shard: int, read: Site, at: Site, places: Tensor, i: int) -> Tensor:
        if not self.harvest.pair.window:
            return self.harvest.scaled(self.store.take(shard, at, places), read, i)
        every = places[:, None] + torch.arange(self.event_tokens)
        acts = self.store.take(shard, at, every.flatten())
        return self.harvest.scaled(acts.unflatten(0, every.shape), read, i)

    @override
    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return {}, {"served_events": self.served_events}

    @override
    def load(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        if self._source is not None:
            self._source.close()
        self._source, self._window = None, (0, [])
        self.served_events = values["served_events"]
