"""Shuffle: activations in text order to batches in random order, each event once an epoch.

An event is a token, or a window of tokens where these are coded jointly. Sizes are given in
tokens and kept in whole events: an epoch is the fewest events that hold its tokens, and a
batch ends at the last event that ends within its tokens, so that n batches hold n times
`batch_tokens` less at most a window, and the stream has as many batches as tokens alone say.
"""

import abc
import copy
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from saekit.activations.batch import ActBatch
from saekit.activations.harvest import Counts, Harvest
from saekit.core.errors import DataError
from saekit.core.progress import Progress
from saekit.core.seeds import generator

Batch = tuple[Float[Tensor, "n *event d_in"], Float[Tensor, "n *event d_out"]]


@runtime_checkable
class Stream(Protocol):
    """Training batches, whatever they are made from, that can be left and taken up again."""

    @property
    def served_tokens(self) -> int:
        """Tokens served so far."""
        ...

    def batch(self) -> Batch:
        """Return the next batch in float32, on the device where training is."""
        ...

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the tensors and the JSON-ready values that `load` needs to go on from here."""
        ...

    def load(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """Go on from where `state` was taken: the same batches follow."""
        ...


class TextEnded(DataError):
    """The text has fewer events than were asked; `events` of them came."""

    def __init__(self, message: str, events: int):
        super().__init__(message)
        self.events = events


class Shuffle(abc.ABC):
    """A stream of training batches that can be left and taken up again exactly.

    Where the text ends before `tokens` of it came and batches were served already, the stream
    is shorter: `tokens` is then what came, and `total_tokens` changes with it. Before the first
    batch it is a `TextEnded`.

    Args:
        harvest: where activations come from.
        tokens: tokens of one epoch, counted after the rule; the corpus must hold them.
        epochs: passes over them.
        batch_tokens: tokens of a batch, at least those of an event; the last batch of the
            stream may be smaller.
        seed: decides the order.
    """

    def __init__(self, harvest: Harvest, *, tokens: int, epochs: int, batch_tokens: int, seed: int):
        self.harvest = harvest
        self.tokens, self.epochs, self.batch_tokens = tokens, epochs, batch_tokens
        self.seed = seed
        self.event_tokens = harvest.pair.event_tokens
        assert batch_tokens >= self.event_tokens  # `check_event` refuses it
        self.epoch_events = -(-tokens // self.event_tokens)
        self.total_events = -(-tokens * epochs // self.event_tokens)
        self.served_events = 0
        self.may_end = True  # early, where the text does; streams that go in step may not
        self._ended_at: int | None = None  # events of an epoch, where the text ended early

    def _end_text(self, error: TextEnded) -> None:
        """Make an epoch as long as the text turned out to be.

        Raises:
            TextEnded: nothing was served yet, or other streams go in step with this one.
        """
        if not self.served_events or not self.may_end:
            raise error
        self._shorten(error.events)

    def _shorten(self, events: int) -> None:
        self._ended_at = self.epoch_events = events
        self.tokens = events * self.event_tokens
        self.total_events = events * self.epochs

    @property
    def total_tokens(self) -> int:
        """Tokens of all epochs, as asked or as the text turned out to have."""
        return self.tokens * self.epochs

    @property
    def served_tokens(self) -> int:
        """Tokens served so far; at the end up to an event more than asked."""
        return self.served_events * self.event_tokens

    def _batch_events(self, served_events: int | None = None) -> int:
        """Return the number of events of the next batch, or of that after so many events."""
        served = self.served_events if served_events is None else served_events
        done = -(-served * self.event_tokens // self.batch_tokens)  # batches served
        end = (done + 1) * self.batch_tokens
        if end >= self.total_tokens:
            return self.total_events - served
        return end // self.event_tokens - served

    @abc.abstractmethod
    def batch(self) -> Batch:
        """Return the next batch in float32, on the model's device."""

    @abc.abstractmethod
    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the tensors and the JSON-ready values that `load` needs to go on from here."""

    @abc.abstractmethod
    def load(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """Go on from where `state` was taken: the same batches follow."""

    def _epoch(self, first_row: int, before: int) -> Iterator[ActBatch]:
        """Yield the batches of an epoch from a row on, `before` events having come already."""
        for acts in self.harvest.batches(first_row):
            left = self.epoch_events - before
            yield ActBatch(*(part[:left] for part in acts))
            before += min(len(acts.x), left)
            if before >= self.epoch_events:
                return
        apart = f" in windows of {self.event_tokens}" if self.harvest.pair.window else ""
        raise TextEnded(
            f"The corpus ended after {before * self.event_tokens:,} tokens that count{apart}; "
            f"{self.tokens:,} were asked. Set `tokens` to no more than that, with `epochs` for "
            f"more passes over them, or {self.harvest.more}"
            f"{', or make windows shorter' if apart else ''}.",
            before,
        )


class Resident(Shuffle):
    """All activations in memory, in a new random order each epoch.

    The order is a function of seed and epoch, so the position is one number.
    """

    def __init__(self, harvest: Harvest, *, filled: bool = True, shown: bool = True, **kwargs: Any):
        super().__init__(harvest, **kwargs)
        self._sides: list[Tensor] = []  # x, and y where it is not x
        self._order = (-1, torch.empty(0))  # epoch, and its order
        if filled:
            self._fill_all([self], shown)

    @staticmethod
    def together(
        harvests: Sequence[Harvest], *, shown: bool = True, **kwargs: Any
    ) -> list["Resident"]:
        """Return a stream for each harvest, filled in step: pass by pass for all of them.

        Harvests of one `Shared` model then pay for each forward pass once.
        """
        streams = [Resident(harvest, filled=False, **kwargs) for harvest in harvests]
        Resident._fill_all(streams, shown)
        return streams

    @staticmethod
    def _fill_all(streams: Sequence["Resident"], shown: bool) -> None:
        progress = Progress("harvest", sum(s.tokens for s in streams), shown=shown)
        filling = [s._fill() for s in streams]
        while filling:
            still = []
            for one in filling:
                n = next(one, None)
                if n is not None:
                    progress.reach(progress.done + n)
                    still.append(one)
            filling = still
        progress.close()

    def _fill(self) -> Iterator[int]:
        """Take all activations, yielding the tokens of each forward pass."""
        done = 0
        for acts in self._epoch(0, 0):
            sides = [acts.x] if self.harvest.pair.is_autoencoder else [acts.x, acts.y]
            if not self._sides:
                self._sides = [s.new_empty(self.epoch_events, *s.shape[1:]) for s in sides]
            for place, new in zip(self._sides, sides, strict=True):
                place[done : done + len(new)] = new
            done += len(acts.x)
            yield len(acts.x) * self.event_tokens

    def again(self, *, batch_tokens: int | None = None, seed: int | None = None) -> "Resident":
        """Return the same activations from the beginning, in other batches or another order.

        They are shared, not copied, so that many SAEs can be trained on one harvest.
        """
        twin = copy.copy(self)
        twin.served_events, twin._order = 0, (-1, torch.empty(0))
        twin.batch_tokens = batch_tokens or self.batch_tokens
        twin.seed = self.seed if seed is None else seed
        return twin

    @override
    def batch(self) -> Batch:
        parts, wanted = [], self._batch_events()
        while wanted:
            epoch, first = divmod(self.served_events, self.epoch_events)
            if self._order[0] != epoch:
                chance = generator(self.seed, "order", epoch)
                self._order = (epoch, torch.randperm(self.epoch_events, generator=chance))
            parts.append(self._order[1][first : first + wanted])
            self.served_events += len(parts[-1])
            wanted -= len(parts[-1])
        index = torch.cat(parts)
        parts = [side[index].float() for side in self._sides]
        return parts[0], parts[-1]

    @override
    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return {}, {"served_events": self.served_events}

    @override
    def load(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        self.served_events = values["served_events"]


class Rolling(Shuffle):
    """A buffer of `buffer_tokens` whose slots are served in random order and refilled in place.

    A round serves every slot once, in a random order, and each slot served takes the next
    event of the text; an event therefore waits between none and two rounds. When the text
    is used up, slots stay empty and later rounds pass them by. Each event is copied in once
    and out once.
    """

    def __init__(self, harvest: Harvest, *, buffer_tokens: int, **kwargs: Any):
        super().__init__(harvest, **kwargs)
        self.n_slots = min(max(buffer_tokens // self.event_tokens, 1), self.total_events)
        self._slots: list[Tensor] = []  # x, and y where it is not x
        self._live = torch.ones(self.n_slots, dtype=torch.bool)  # holds an unserved event
        self._round, self._at = 0, 0  # which round; how many of its slots were served
        self._order: Tensor | None = None  # live slots in the order of this round
        self._read_events = 0  # taken from the text, over all epochs
        self._row, self._used = 0, 0  # forward pass the next event is from; events used of it
        self._counts = harvest.counts  # before that forward pass
        self._source: Iterator[ActBatch] | None = None
        self._acts: ActBatch | None = None  # of that forward pass

    def _take(self, n: int) -> Iterator[list[Tensor]]:
        """Yield the next n events of the text as [x] or [x, y], in parts."""
        sides = slice(0, 1 if self.harvest.pair.is_autoencoder else 2)
        while n:
            if self._source is None:
                before = self._read_events % self.epoch_events - self._used
                self._source = self._epoch(self._row, before)
            if self._acts is None:
                self._counts = self.harvest.counts
                try:
                    self._acts = next(self._source)
                except TextEnded as error:
                    self._end_text(error)  # this epoch is over; later ones are as long
                    n = min(n, self.total_events - self._read_events)
                    self._source, self._row, self._used = None, 0, 0
                    continue
            part = ActBatch(*(a[self._used : self._used + n] for a in self._acts))
            n -= len(part.x)
            self._used += len(part.x)
            self._read_events += len(part.x)
            if self._used == len(self._acts.x):
                self._acts, self._used = None, 0
                self._row += self.harvest.batch_rows
            if len(part.x) and self._read_events % self.epoch_events == 0:  # an epoch is over
                self._source, self._acts, self._row, self._used = None, None, 0, 0
            yield [part.x, part.y][sides]

    @override
    def batch(self) -> Batch:
        if not self._slots:
            self._fill()
        wanted = self._batch_events()
        served: list[list[Tensor]] = []
        while wanted:
            if self._order is None:
                chance = generator(self.seed, "round", self._round)
                order = torch.randperm(self.n_slots, generator=chance)
                self._order = order[self._live[order]]
            slots = self._order[self._at : self._at + wanted]
            served.append([side[slots] for side in self._slots])
            self._at += len(slots)
            wanted -= len(slots)
            self.served_events += len(slots)
            self._refill(slots)
            wanted = min(wanted, self.total_events - self.served_events)  # the text may have ended
            if self._at == len(self._order):
                self._round, self._at, self._order = self._round + 1, 0, None
        parts = [_joined(side).float() for side in zip(*served, strict=True)]
        return parts[0], parts[-1]

    def _fill(self) -> None:
        """Take the first events of the text into all slots."""
        done = 0
        for sides in self._take(self.n_slots):
            if not self._slots:
                self._slots = [new.new_empty(self.n_slots, *new.shape[1:]) for new in sides]
            for side, new in zip(self._slots, sides, strict=True):
                side[done : done + len(new)] = new
            done += len(sides[0])

    def _refill(self, slots: Tensor) -> None:
        n = min(len(slots), self.total_events - self._read_events)
        done = 0
        for sides in self._take(n):
            places = slots[done : done + len(sides[0])]
            for side, new in zip(self._slots, sides, strict=True):
                side.index_copy_(0, places.to(side.device), new)
            done += len(places)
        self._live[slots[done:]] = False

    @override
    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors = {f"slots.{i}": side for i, side in enumerate(self._slots)}
        tensors["live"] = self._live
        if self._order is not None:
            tensors["order"] = self._order
        # A pass that is not used up is done again on resume, and counted then; unless nothing more
        # is wanted of it.
        again = self._acts is not None and self._read_events < self.total_events
        counts = self._counts if again else self.harvest.counts
        return tensors, {
            "served_events": self.served_events,
            "read_events": self._read_events,
            "round": self._round,
            "at": self._at,
            "row": self._row,
            "used": self._used,
            "counts": list(counts),
            "ended_at": self._ended_at,
        }

    @override
    def load(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        device = self.harvest.model.device
        sides = sorted(key for key in tensors if key.startswith("slots."))
        self._slots = [tensors[key].to(device) for key in sides]
        self._live, self._order = tensors["live"], tensors.get("order")
        self.served_events, self._read_events = values["served_events"], values["read_events"]
        self._round, self._at = values["round"], values["at"]
        self._row, self._used = values["row"], values["used"]
        if values.get("ended_at") is not None:
            self._shorten(values["ended_at"])
        self.harvest.counts = Counts(*values["counts"])
        self._source = self._acts = None


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))
