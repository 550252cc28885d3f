"""Events: a latent at a token where it is strong, and the document's text up to there."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saekit.activations.latents import LatentStore
from saekit.activations.text_axis import texts
from saekit.core.errors import ConfigError


class Event(NamedTuple):
    """One latent at one token.

    Args:
        latent: which.
        rank: among the events of its latent, from 0, the strongest first.
        value: activation in the text it was found in, act units.
        ids: tokens of its document up to and with the peak, without BOS; the last ones where
            it is long.
        doc: index of the document.
        place: of the peak in the running text that it was found in.
    """

    latent: int
    rank: int
    value: float
    ids: tuple[int, ...]
    doc: int = 0
    place: int = 0

    @property
    def peak(self) -> int:
        """Index of the peak in `ids`."""
        return len(self.ids) - 1


def from_store(
    store: LatentStore,
    latent: Int[Tensor, "m"],
    place: Int[Tensor, "m"],
    value: Float[Tensor, "m"],
    *,
    n_ctx: int,
) -> list[Event]:
    """Return events with the text before them, never of another document.

    Ranks are given by the size of values within each latent, equal ones in the order given.

    Args:
        store: where the events were found.
        latent: of each event.
        place: on the text axis of the store.
        value: activation there, act units.
        n_ctx: tokens kept at most, the peak included.

    Raises:
        ConfigError: `n_ctx` is below 1.
    """
    if n_ctx < 1:
        raise ConfigError(f"`n_ctx` must be at least 1 token; got {n_ctx}.")
    order = torch.sort(value.abs(), descending=True, stable=True).indices
    order = order[torch.sort(latent[order], stable=True).indices]
    latent, place, value = latent[order], place[order], value[order]
    at = place[:, None] + torch.arange(1 - n_ctx, 1)  # [m, n_ctx]
    ids, doc, stretch = (torch.full(at.shape, -1) for _ in range(3))
    for text in texts(store):
        inside = (at >= text.first) & (at < text.first + len(text.doc))
        here = at[inside] - text.first
        ids[inside], doc[inside] = text.tokens[here], text.doc[here]
        stretch[inside] = text.stretch[here]
    own = stretch == stretch[:, -1:]
    columns = (latent, value, doc[:, -1], place)
    found: list[Event] = []
    for i, (a, v, d, p) in enumerate(zip(*(c.tolist() for c in columns), strict=True)):
        rank = found[-1].rank + 1 if found and found[-1].latent == a else 0
        found.append(Event(a, rank, v, tuple(ids[i][own[i]].tolist()), d, p))
    return found


def distinct(events: Sequence[Event], same_tokens: int = 32) -> list[Event]:
    """Return events whose last `same_tokens` tokens are not those of a stronger one.

    Compared within a latent; ranks are given anew. Text that a corpus repeats would
    otherwise count as many events.

    Raises:
        ConfigError: `same_tokens` is below 1.
    """
    if same_tokens < 1:
        raise ConfigError(f"`same_tokens` must be at least 1; got {same_tokens}.")
    seen: set[tuple[int, tuple[int, ...]]] = set()
    ranks: dict[int, int] = {}
    found = []
    for event in events:
        key = (event.latent, event.ids[-same_tokens:])
        if key not in seen:
            seen.add(key)
            rank = ranks.get(event.latent, 0)
            ranks[event.latent] = rank + 1
            found.append(event._replace(rank=rank))
    return found


def strongest(events: Sequence[Event], n: int) -> list[Event]:
    """Return the first `n` events of each latent.

    Raises:
        ConfigError: `n` is below 1.
    """
    if n < 1:
        raise ConfigError(f"`n` must be at least 1 event a latent; got {n}.")
    return [event for event in events if event.rank < n]
