"""The text axis: a store's tokens as running text, without the BOS that rows begin with."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saekit.activations.latents import LatentMajor, LatentStore, Shard
from saekit.core.codes import is_on


class TextAxis(NamedTuple):
    """Places of tokens in the run of text that was cut into rows.

    Consecutive rows continue each other's documents, so a document of several rows is one
    stretch of places. BOS stands in a row but not in the text: it has no place.
    """

    first_row: int
    n_ctx: int
    skipped: int  # 1 where rows begin with BOS

    @property
    def per_row(self) -> int:
        """Places of a row."""
        return self.n_ctx - self.skipped

    def place(self, row: Int[Tensor, "*n"], pos: Int[Tensor, "*n"]) -> Int[Tensor, "*n"]:
        """Return the places of tokens that have one."""
        return (row - self.first_row) * self.per_row + pos - self.skipped

    def row(self, place: Int[Tensor, "*n"]) -> Int[Tensor, "*n"]:
        """Return the rows of places."""
        return place.div(self.per_row, rounding_mode="floor") + self.first_row

    def pos(self, place: Int[Tensor, "*n"]) -> Int[Tensor, "*n"]:
        """Return the positions in their rows of places."""
        return place.remainder(self.per_row) + self.skipped


class Text(NamedTuple):
    """The text of a shard; its places go on from `first`."""

    first: int
    tokens: Int[Tensor, "n"]
    doc: Int[Tensor, "n"]  # document id
    stretch: Int[Tensor, "n"]  # running number of the stretch of one document
    begin: Int[Tensor, "n"]  # place where that stretch began


class Piece(NamedTuple):
    """The text of a shard and its codes."""

    first: int
    tokens: Int[Tensor, "n"]
    doc: Int[Tensor, "n"]
    stretch: Int[Tensor, "n"]
    begin: Int[Tensor, "n"]
    kept: Bool[Tensor, "n"]  # tokens that count and were encoded
    latent: Int[Tensor, "nnz"]  # entries, sorted by latent, then by place
    at: Int[Tensor, "nnz"]  # place of each entry, less `first`
    pos: Int[Tensor, "nnz"]  # its position in the row
    value: Float[Tensor, "nnz"]  # act units


def axis_of(store: LatentStore) -> TextAxis:
    """Return the text axis of a store.

    Rows begin with BOS where the card says so and the rows show it: all rows of the first
    shard begin with one special token.
    """
    card: dict[str, Any] = store.meta.get("card", {})
    special = {i for rule in card.get("rules", {}).values() for i in rule["special_ids"]}
    heads = set(next(store.shards()).rows().tokens[:, 0].tolist())
    with_bos = bool(card.get("bos")) and len(heads) == 1 and heads <= special
    return TextAxis(store.first_row, store.n_ctx, int(with_bos))


def texts(store: LatentStore) -> Iterator[Text]:
    """Yield the text of each shard, in text order; the codes are not read."""
    axis = axis_of(store)
    stretch, begin, last_doc = -1, 0, None
    for shard in store.shards():
        rows = shard.rows()
        doc = rows.doc_ids[:, axis.skipped :].reshape(-1)
        first = (shard.first_row - axis.first_row) * axis.per_row
        new = torch.ones_like(doc, dtype=torch.bool)
        new[1:] = doc[1:] != doc[:-1]
        new[0] = last_doc is None or int(doc[0]) != last_doc
        place = torch.arange(first, first + len(doc))
        begins = torch.where(new, place, torch.tensor(begin)).cummax(0).values
        stretches = stretch + new.long().cumsum(0)
        stretch, begin, last_doc = int(stretches[-1]), int(begins[-1]), int(doc[-1])
        tokens = rows.tokens[:, axis.skipped :].reshape(-1)
        yield Text(first, tokens, doc, stretches, begins)


def pieces(store: LatentStore, threshold: float = 0.0) -> Iterator[Piece]:
    """Yield the shards of a store on its text axis, in text order.

    Args:
        store: the codes.
        threshold: entries of this size or less are left out, act units.
    """
    axis = axis_of(store)
    for shard, text in zip(store.shards(), texts(store), strict=True):
        latent, place, pos, value = _on_axis(shard.by_latent(), axis, threshold)
        yield Piece(*text, _kept(shard, axis), latent, place - text.first, pos, value)


def _kept(shard: Shard, axis: TextAxis) -> Bool[Tensor, "n"]:
    by_token = shard.by_token()
    grid = torch.zeros(shard.n_rows, axis.n_ctx, dtype=torch.bool)
    grid[by_token.row - shard.first_row, by_token.pos] = True
    return grid[:, axis.skipped :].reshape(-1)


def _on_axis(
    entries: LatentMajor, axis: TextAxis, threshold: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    on = (entries.pos >= axis.skipped) & is_on(entries.values, threshold)
    row, pos = entries.row[on], entries.pos[on]
    return entries.latents()[on], axis.place(row, pos), pos, entries.values[on]
