"""Where each latent is strongest in the documents it is on in, one place a document."""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from typing_extensions import override

from saekit.activations.latents import LatentStore
from saekit.activations.text_axis import Piece, axis_of, pieces
from saekit.analysis.base import Analysis, registry
from saekit.core.config import setting
from saekit.core.result import Table


class DocPeaks(NamedTuple):
    """One token a latent and document, sorted by latent, then from the strongest."""

    latent: Int[Tensor, "m"]
    rank: Int[Tensor, "m"]  # among the documents of its latent, from 0
    place: Int[Tensor, "m"]  # on the text axis of the store
    stretch: Int[Tensor, "m"]  # which stretch of text, as `pieces` numbers them
    doc: Int[Tensor, "m"]  # document id
    doc_pos: Int[Tensor, "m"]  # tokens before it in its document
    value: Float[Tensor, "m"]  # act units

    def of(self, latents: Int[Tensor, "k"]) -> "DocPeaks":
        """Return the peaks of some latents."""
        return self.only(torch.isin(self.latent, latents))

    def only(self, which: Tensor) -> "DocPeaks":
        """Return some peaks, by mask or index."""
        return DocPeaks(*(column[which] for column in self))


@registry.register
@dataclass(frozen=True, kw_only=True)
class DocumentPeaks(Analysis):
    """Each latent's strongest token of every document, and of these the strongest.

    Of a document only one token counts (the first of equals), however many rows it was cut
    into, so events are of different documents and as independent as the corpus is. Only
    activations over the threshold are events. Strength is size; a negative activation keeps its
    sign. Among equal sizes the earlier place wins. Memory: a shard, and `n` events per latent.

    Args:
        n: most events for each latent, one per document.
        threshold: activations of this size or less are no events, act units.

    Raises:
        ConfigError: a number is out of range.

    Source:
        Ours; `MaxActs` is the same with rows in place of documents.
    """

    name: ClassVar[str] = "document_peaks"
    n: int = setting(20, least=1)
    threshold: float = setting(0.0, least=0)

    def peaks(self, store: LatentStore) -> DocPeaks:
        """Return the chosen events of every latent."""
        empty = torch.empty(0, dtype=torch.int64)
        best = DocPeaks(*(empty.float() if f == "value" else empty for f in DocPeaks._fields))
        for piece in pieces(store, self.threshold):
            best = self._kept(_cat(best, _candidates(piece)))
        return best

    @override
    def run(self, latents: LatentStore) -> Table:
        found, axis = self.peaks(latents), axis_of(latents)
        return Table(
            columns={
                "latent": found.latent.tolist(),
                "rank": found.rank.tolist(),
                "doc": found.doc.tolist(),
                "doc_pos": found.doc_pos.tolist(),
                "row": axis.row(found.place).tolist(),
                "pos": axis.pos(found.place).tolist(),
                "value": found.value.tolist(),
            },
            units={"value": "act units", "doc_pos": "tokens"},
        )

    def _kept(self, found: DocPeaks) -> DocPeaks:
        found = _best_of_each(found)
        order = torch.sort(found.place, stable=True).indices
        order = order[torch.sort(found.value[order].abs(), descending=True, stable=True).indices]
        found = found.only(order[torch.sort(found.latent[order], stable=True).indices])
        counts = torch.bincount(found.latent) if len(found.latent) else found.latent
        begins = counts.cumsum(0) - counts
        rank = torch.arange(len(found.latent)) - begins[found.latent]
        return found._replace(rank=rank).only(rank < self.n)


def _candidates(piece: Piece) -> DocPeaks:
    stretch, at = piece.stretch[piece.at], piece.at
    begin = piece.begin[at]
    found = DocPeaks(
        piece.latent,
        torch.zeros_like(at),
        at + piece.first,
        stretch,
        piece.doc[at],
        at + piece.first - begin,
        piece.value,
    )
    return _best_of_each(found)


def _best_of_each(found: DocPeaks) -> DocPeaks:
    """Return the strongest of each latent and stretch, the first of equals."""
    order = torch.sort(found.place, stable=True).indices
    order = order[torch.sort(found.value[order].abs(), descending=True, stable=True).indices]
    key = found.latent * (int(found.stretch.max()) + 1 if len(order) else 1) + found.stretch
    order = order[torch.sort(key[order], stable=True).indices]
    first = torch.ones(len(order), dtype=torch.bool)
    first[1:] = key[order][1:] != key[order][:-1]
    return found.only(order[first])


def _cat(one: DocPeaks, other: DocPeaks) -> DocPeaks:
    return DocPeaks(*(torch.cat(pair) for pair in zip(one, other, strict=True)))
