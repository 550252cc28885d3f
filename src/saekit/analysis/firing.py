"""On which tokens, where in the row and in how many documents each latent is on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from typing_extensions import override

from saekit.activations.latents import LatentStore
from saekit.activations.text_axis import pieces
from saekit.analysis.base import Analysis, registry
from saekit.core.config import setting
from saekit.core.result import Table


class Triggers(NamedTuple):
    """How often each latent is on at each token id, sorted by latent, then by id."""

    latent: Int[Tensor, "pairs"]
    token: Int[Tensor, "pairs"]
    count: Int[Tensor, "pairs"]


class FiringSums(NamedTuple):
    """Sums over the tokens at which each latent is on."""

    counts: Int[Tensor, "d_sae"]
    docs: Int[Tensor, "d_sae"]  # documents it is on in
    pos: Float[Tensor, "d_sae"]  # sum of positions in the row
    pos_squares: Float[Tensor, "d_sae"]
    triggers: Triggers
    tokens: Int[Tensor, "ids"]  # tokens that count, by token id
    n_tokens: int

    def summary(self, shares: Sequence[float]) -> dict[str, int]:
        """Return how many latents are never on, and how many on more than some shares of tokens."""
        density = self.counts.double() / self.n_tokens
        over = {f"over_{share:g}": int((density > share).sum()) for share in shares}
        return {"dead": int((self.counts == 0).sum()), **over}


@registry.register
@dataclass(frozen=True, kw_only=True)
class Firing(Analysis):
    """How often each latent is on, in how many documents, where in a row, and on which tokens.

    density = count / tokens that count;  mean_pos = sum of t / count, t the position in
    the row from 0 (with BOS at 0 where rows begin with it);  std_pos with divisor count;
    trigger_bits = entropy in bits of the token ids it is on at, empty below `min_count`.
    ``top_tokens`` lists ``id:count`` of the commonest, ties by id. A latent is on where it is not
    0: negative activations count, by their size.

    Args:
        threshold: activations of this size or less are off, act units.
        top: number of tokens to list for each latent, those at which it is on most often.
        min_count: occurrences needed for an entropy.

    Raises:
        ConfigError: a number is out of range.

    Source:
        lccqqqqq/sae-analysis, feature_sparsity and feature_location_analysis.
        Differs: positions are those in the row, which its note defines and its code
        confuses with offsets in the corpus; no cap on occurrences; BOS left out by rule.
    """

    name: ClassVar[str] = "firing"
    threshold: float = setting(0.0, least=0)
    top: int = setting(5, least=1)
    min_count: int = setting(20, least=1)

    def measure(self, store: LatentStore) -> FiringSums:
        """Return the sums, in one pass over the store."""
        d = store.d_sae
        counts, docs = (torch.zeros(d, dtype=torch.int64) for _ in range(2))
        pos, squares = (torch.zeros(d, dtype=torch.float64) for _ in range(2))
        last = torch.full((d,), -1, dtype=torch.int64)  # stretch each latent was last on in
        found = torch.empty(2, 0, dtype=torch.int64)  # keys and counts
        vocab = 1 + max(int(shard.rows().tokens.max()) for shard in store.shards())
        tokens = torch.zeros(vocab, dtype=torch.int64)
        for piece in pieces(store, self.threshold):
            tokens += torch.bincount(piece.tokens[piece.kept], minlength=vocab)
            counts += torch.bincount(piece.latent, minlength=d)
            wide = piece.pos.double()
            pos.index_add_(0, piece.latent, wide)
            squares.index_add_(0, piece.latent, wide * wide)
            docs += _new_documents(piece.latent, piece.stretch[piece.at], last)
            keys, times = (piece.latent * vocab + piece.tokens[piece.at]).unique(return_counts=True)
            found = _merged(torch.cat([found, torch.stack([keys, times])], dim=1))
        triggers = Triggers(found[0] // vocab, found[0] % vocab, found[1])
        n = int(tokens.sum())
        return FiringSums(counts, docs, pos, squares, triggers, tokens, n)

    @override
    def run(self, latents: LatentStore) -> Table:
        return self.table(self.measure(latents))

    def table(self, fired: FiringSums) -> Table:
        """Return one row a latent."""
        n = fired.counts.double()
        mean = fired.pos / n
        std = (fired.pos_squares / n - mean * mean).clamp(min=0).sqrt()
        d = len(n)
        share = fired.triggers.count.double() / n[fired.triggers.latent]
        bits = torch.zeros(d, dtype=torch.float64)
        bits.index_add_(0, fired.triggers.latent, -share * share.log2())
        bits[fired.counts < self.min_count] = torch.nan
        return Table(
            columns={
                "latent": list(range(d)),
                "count": fired.counts.tolist(),
                "density": (n / fired.n_tokens).tolist(),
                "n_docs": fired.docs.tolist(),
                "mean_pos": mean.tolist(),
                "std_pos": std.tolist(),
                "n_trigger_tokens": torch.bincount(fired.triggers.latent, minlength=d).tolist(),
                "trigger_bits": bits.tolist(),
                "top_tokens": self._top(fired.triggers, d),
            },
            units={
                "count": "tokens",
                "density": "share of tokens",
                "n_docs": "documents",
                "mean_pos": "tokens",
                "std_pos": "tokens",
                "trigger_bits": "bits",
            },
        )

    def top_tokens(self, triggers: Triggers, d_sae: int) -> list[list[tuple[int, int]]]:
        """Return token id and count of each latent's commonest trigger tokens."""
        order = torch.sort(triggers.count, descending=True, stable=True).indices
        order = order[torch.sort(triggers.latent[order], stable=True).indices]
        latent = triggers.latent[order]
        ends = torch.bincount(latent, minlength=d_sae).cumsum(0)
        rank = torch.arange(len(latent)) - (ends - torch.bincount(latent, minlength=d_sae))[latent]
        out: list[list[tuple[int, int]]] = [[] for _ in range(d_sae)]
        few = order[rank < self.top]
        columns = (triggers.latent[few], triggers.token[few], triggers.count[few])
        for a, token, count in zip(*(c.tolist() for c in columns), strict=True):
            out[a].append((token, count))
        return out

    def _top(self, triggers: Triggers, d_sae: int) -> list[str]:
        found = self.top_tokens(triggers, d_sae)
        return [" ".join(f"{token}:{count}" for token, count in each) for each in found]


def _new_documents(
    latent: Int[Tensor, "nnz"], stretch: Int[Tensor, "nnz"], last: Int[Tensor, "d_sae"]
) -> Int[Tensor, "d_sae"]:
    """Return in how many further documents each latent is on; `last` is brought up to date."""
    if not len(latent):
        return torch.zeros_like(last)
    new = torch.ones(len(latent), dtype=torch.bool)
    new[1:] = (latent[1:] != latent[:-1]) | (stretch[1:] != stretch[:-1])
    head = torch.ones_like(new)
    head[1:] = latent[1:] != latent[:-1]
    new[head] = stretch[head] != last[latent[head]]
    end = torch.ones_like(new)
    end[:-1] = latent[1:] != latent[:-1]
    last[latent[end]] = stretch[end]
    return torch.bincount(latent[new], minlength=len(last))


def _merged(found: Int[Tensor, "2 n"]) -> Int[Tensor, "2 m"]:
    keys, where = found[0].unique(return_inverse=True)
    return torch.stack([keys, torch.zeros_like(keys).index_add_(0, where, found[1])])
