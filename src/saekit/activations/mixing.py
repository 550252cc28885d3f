"""Mixing: the shuffle of SAELens, event for event, for runs that compare with it."""

from collections.abc import Iterator
from typing import Any, final

import torch
from torch import Tensor
from typing_extensions import override

from saekit.activations.batch import ActBatch
from saekit.activations.harvest import Counts, Harvest
from saekit.activations.shuffle import Batch, Shuffle, TextEnded
from saekit.core.seeds import generator


@final
class Mixing(Shuffle):
    """A buffer that is filled, shuffled, and served down to the share that is kept back.

    Whole forward passes are appended until the buffer holds `buffer_tokens` or more. Then all
    of it is permuted (not where `mixing` is 0), and as many whole batches as leave
    ``mixing * buffer_tokens`` tokens or more are served from its front, one at least. When
    the text is used up, what is left is served as it lies. An event may wait for ever, with
    chance ``mixing`` at each refill.

    Args:
        harvest: where activations come from.
        buffer_tokens: fill before each shuffle, at least `batch_tokens`.
        mixing: share of it that is kept back, 0 to 1.
        kwargs: of `Shuffle`.

    Source:
        SAELens 6.54.12, training/mixing_buffer.py (`activations_mixing_fraction`), whose
        buffer_size is `buffer_tokens` here. Given the same forward passes and the same
        generator, the order is the same (tests/parity). Differs: each event is stored once
        and copied out once, where there the buffer is copied at each pass and each shuffle;
        the last batch of a stream may be smaller, where there a rest is dropped; contents
        and generator are part of a checkpoint.
    """

    def __init__(self, harvest: Harvest, *, buffer_tokens: int, mixing: float, **kwargs: Any):
        super().__init__(harvest, **kwargs)
        self.buffer_events = max(buffer_tokens // self.event_tokens, 1)
        self.kept_events = int(self.buffer_events * mixing)
        self.shuffled = mixing > 0
        self._chance = generator(self.seed, "mixing")
        self._slots: list[Tensor] = []  # x, and y where it is not x
        self._free = torch.empty(0, dtype=torch.int64)  # slots that hold nothing
        self._held = torch.empty(0, dtype=torch.int64)  # slots in the order of the buffer
        self._serving = 0  # events at its front that are served before the next shuffle
        self._read_events, self._row = 0, 0  # of the text, over all epochs; row of this epoch
        self._source: Iterator[ActBatch] | None = None

    @override
    def batch(self) -> Batch:
        if not self._serving:
            self._mix()
        n = self._batch_events()
        slots, self._held = self._held[:n], self._held[n:]
        parts = [side[slots.to(side.device)].float() for side in self._slots]
        self._free = torch.cat([self._free, slots])
        self._serving -= n
        self.served_events += n
        return parts[0], parts[-1]

    def _mix(self) -> None:
        """Fill, shuffle, and decide how much of the front is served."""
        new, held = [self._held], len(self._held)
        while held < self.buffer_events and (acts := self._next_pass()) is not None:
            new.append(self._stored(acts))
            held += len(acts.x)
        self._held = torch.cat(new)
        if held < self.buffer_events:  # the text is used up
            self._serving = held
            return
        if self.shuffled:
            self._held = self._held[torch.randperm(held, generator=self._chance)]
        self._serving = self._batch_events()
        left = self.total_events - self.served_events
        while self._serving < left:
            more = self._batch_events(self.served_events + self._serving)
            if self._serving + more > held - self.kept_events:
                break
            self._serving += more

    def _next_pass(self) -> ActBatch | None:
        """Return the events of the next forward pass; None at the end of the last epoch."""
        left = self.total_events - self._read_events
        if not left:
            return None
        if self._source is None:
            self._source = self._epoch(self._row, self._read_events % self.epoch_events)
        try:
            acts = ActBatch(*(part[:left] for part in next(self._source)))
        except TextEnded as error:
            self._end_text(error)  # this epoch is over; later ones are as long
            self._source, self._row = None, 0
            return self._next_pass()
        self._row += self.harvest.batch_rows
        self._read_events += len(acts.x)
        if len(acts.x) and self._read_events % self.epoch_events == 0:
            self._source, self._row = None, 0
        return acts

    def _stored(self, acts: ActBatch) -> Tensor:
        """Copy events into free slots and return these, in order."""
        sides = [acts.x] if self.harvest.pair.is_autoencoder else [acts.x, acts.y]
        n = len(acts.x)
        if n > len(self._free) or not self._slots:
            self._grow(sides, n - len(self._free))
        slots, self._free = self._free[:n], self._free[n:]
        for place, new in zip(self._slots, sides, strict=True):
            place.index_copy_(0, slots.to(place.device), new)
        return slots

    def _grow(self, like: list[Tensor], n: int) -> None:
        before = len(self._slots[0]) if self._slots else 0
        # At first a whole buffer and the pass that fills it over; later what is lacking.
        n = max(n, self.buffer_events + len(like[0]) - before)
        added = [side.new_empty(n, *side.shape[1:]) for side in like]
        old = self._slots or [side[:0] for side in like]
        self._slots = [torch.cat(both) for both in zip(old, added, strict=True)]
        self._free = torch.cat([self._free, torch.arange(before, before + n)])

    @override
    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors = {
            f"held.{i}": side[self._held.to(side.device)] for i, side in enumerate(self._slots)
        }
        return tensors | {"chance": self._chance.get_state()}, {
            "served_events": self.served_events,
            "read_events": self._read_events,
            "serving": self._serving,
            "row": self._row,
            "counts": list(self.harvest.counts),
            "ended_at": self._ended_at,
        }

    @override
    def load(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        device = self.harvest.model.device
        sides = sorted(key for key in tensors if key.startswith("held."))
        self._slots = [tensors[key].to(device) for key in sides]
        self._held = torch.arange(len(self._slots[0]) if self._slots else 0)
        self._free = torch.empty(0, dtype=torch.int64)
        self._chance.set_state(tensors["chance"])
        self.served_events, self._read_events = values["served_events"], values["read_events"]
        self._serving, self._row = values["serving"], values["row"]
        if values.get("ended_at") is not None:
            self._shorten(values["ended_at"])
        self.harvest.counts = Counts(*values["counts"])
        self._source = None
