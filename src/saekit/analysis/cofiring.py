"""Which latents are on at the same token more, or less, often than by chance."""

from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from typing_extensions import override

from saekit.activations.latents import LatentStore
from saekit.analysis.base import Analysis, registry
from saekit.analysis.firing import FiringSums
from saekit.core.codes import Codes, is_on
from saekit.core.config import setting
from saekit.core.result import Table

PAIRS_AT_ONCE = 2**22
IDS_AT_ONCE = 2048  # token ids of a dense product


class CofiringCounts(NamedTuple):
    """Counts over the tokens that count, of some latents."""

    latents: Int[Tensor, "m"]
    counts: Int[Tensor, "m"]  # tokens each is on for
    both: Int[Tensor, "m m"]  # tokens at which two are on; the diagonal is `counts`
    n_tokens: int

    def covariance(self) -> Float[Tensor, "m m"]:
        """Return E[1_a 1_b] - E[1_a] E[1_b]."""
        rate = self.counts.double() / self.n_tokens
        return self.both.double() / self.n_tokens - rate[:, None] * rate

    def phi(self) -> Float[Tensor, "m m"]:
        """Return the correlation of the two events, -1..1; NaN beside a latent always alike."""
        rate = self.counts.double() / self.n_tokens
        spread = (rate * (1 - rate)).sqrt()
        spread[spread == 0] = torch.nan
        return self.covariance() / (spread[:, None] * spread)


@registry.register
@dataclass(frozen=True, kw_only=True)
class Cofiring(Analysis):
    """Covariance and correlation of two latents being on at the same token.

    cov(a, b) = E[1_a 1_b] - E[1_a] E[1_b];  phi = cov / sqrt(var(1_a) var(1_b))

    over the tokens that count, 1_a = [|f_a| > threshold]. Pairs are counted in the sparse
    codes; the counts of the chosen latents are ``[m, m]``. Ties go by latent.

    Args:
        threshold: activations of this size or less are off, act units.
        most: number of latents whose pairs are counted, those that are on most often.
        pairs: pairs reported.
        by: what orders pairs: the size of phi, or of the covariance.

    Raises:
        ConfigError: a number is out of range.

    Source:
        lccqqqqq/sae-analysis, compute_correlations.
        Differs: that is the covariance of token-conditional firing rates (`by_token`); this
        is of the events themselves.
    """

    name: ClassVar[str] = "cofiring"
    threshold: float = setting(0.0, least=0)
    most: int = setting(4096, least=2)
    pairs: int = setting(1000, least=1)
    by: Literal["phi", "covariance"] = "phi"

    def count(self, store: LatentStore) -> CofiringCounts:
        """Return how often each two of the commonest latents are on together."""
        chosen = self._commonest(store)
        m = len(chosen)
        place = torch.full((store.d_sae,), -1, dtype=torch.int64)
        place[chosen] = torch.arange(m)
        both = torch.zeros(m * m, dtype=torch.int64)
        for shard in store.by_token():
            codes = shard.codes
            codes = codes.only(is_on(codes.values, self.threshold) & (place[codes.latents] >= 0))
            for one, other in _pairs(codes):
                keys = place[one] * m + place[other]
                both.index_add_(0, keys, torch.ones_like(keys))
        both = both.view(m, m)
        both = both + both.T - both.diag().diag()
        return CofiringCounts(chosen, both.diag().clone(), both, store.n_tokens)

    @override
    def run(self, latents: LatentStore) -> Table:
        found = self.count(latents)
        covariance, phi = found.covariance(), found.phi()
        m = len(found.latents)
        a, b = torch.triu_indices(m, m, offset=1)
        size = (phi if self.by == "phi" else covariance)[a, b].abs()
        defined = ~size.isnan()
        a, b, size = a[defined], b[defined], size[defined]
        order = torch.sort(size, descending=True, stable=True).indices[: self.pairs]
        a, b = a[order], b[order]
        return Table(
            columns={
                "latent": found.latents[a].tolist(),
                "other": found.latents[b].tolist(),
                "n_both": found.both[a, b].tolist(),
                "count": found.counts[a].tolist(),
                "count_other": found.counts[b].tolist(),
                "covariance": covariance[a, b].tolist(),
                "phi": phi[a, b].tolist(),
            },
            units={"n_both": "tokens", "count": "tokens", "count_other": "tokens"},
        )

    def _commonest(self, store: LatentStore) -> Int[Tensor, "m"]:
        order = torch.sort(store.counts, descending=True, stable=True).indices[: self.most]
        return order[store.counts[order] > 0].sort().values


def by_token(fired: FiringSums, latents: Int[Tensor, "m"]) -> Float[Tensor, "m m"]:
    """Return the covariance of token-conditional firing rates of some latents.

    C_ab = (1/T) sum over token ids v of N(a,v) N(b,v) / N(v)  -  (N_a / T) (N_b / T)

    N(a, v) tokens of id v at which a is on, N(v) tokens of id v, T all. It says how alike
    two latents are in the tokens they are on at, whether or not they are on together.

    Args:
        fired: what `Firing.measure` gave.
        latents: which, distinct.

    Source:
        lccqqqqq/sae-analysis, compute_correlations.
        Differs: nothing known.
    """
    place = torch.full((len(fired.counts),), -1, dtype=torch.int64)
    place[latents] = torch.arange(len(latents))
    row = place[fired.triggers.latent]
    ours = row >= 0
    ids, column = fired.triggers.token[ours].unique(return_inverse=True)
    scale = (fired.tokens[ids].double() * fired.n_tokens).sqrt()
    values = fired.triggers.count[ours] / scale[column]
    out = torch.zeros(len(latents), len(latents), dtype=torch.float64)
    for begin in range(0, len(ids), IDS_AT_ONCE):
        here = (column >= begin) & (column < begin + IDS_AT_ONCE)
        v = torch.zeros(len(latents), IDS_AT_ONCE, dtype=torch.float64)
        v[row[ours][here], column[here] - begin] = values[here]
        out += v @ v.T
    rate = fired.counts[latents].double() / fired.n_tokens
    return out - rate[:, None] * rate


def co_occurring(store: LatentStore, most: int, rows: Bool[Tensor, "n_rows"]) -> CofiringCounts:
    """Return how often each two of the commonest latents are on together in some rows of tokens.

    Args:
        store: the codes.
        most: latents looked at: the commonest. Memory: four bytes a pair of them.
        rows: which rows of the store.
    """
    order = torch.sort(store.counts, descending=True, stable=True).indices[:most]
    chosen = order[store.counts[order] > 0].sort().values
    m, n_tokens = len(chosen), 0
    place = torch.full((store.d_sae,), -1, dtype=torch.int64)
    place[chosen] = torch.arange(m)
    both = torch.zeros(m * m, dtype=torch.int32)
    for shard in store.shards():
        mine = rows[shard.first_row - store.first_row :][: shard.n_rows]
        if not bool(mine.any()):
            continue
        kept = shard.by_token()
        codes = kept.codes.take(mine[kept.row - shard.first_row].nonzero()[:, 0])
        n_tokens += codes.n_rows
        codes = codes.only((codes.values != 0) & (place[codes.latents] >= 0))
        codes = codes._replace(latents=place[codes.latents])
        for one, other in _pairs(codes):
            keys = one * m + other
            both.index_add_(0, keys, torch.ones_like(keys, dtype=torch.int32))
    both = both.view(m, m)
    counts = both.diag().clone()
    both = both + both.T
    both.diagonal().sub_(counts)
    return CofiringCounts(chosen, counts.long(), both, n_tokens)


def _pairs(codes: Codes):
    """Yield latents a and b of the entries of each token, each unordered pair once, a = b too."""
    n = codes.starts.diff()
    row = codes.rows()
    left = codes.starts[1:][row] - torch.arange(len(row))  # entries of the token from this on
    for begin in range(0, len(row), step := max(1, PAIRS_AT_ONCE // max(1, int(n.max())))):
        part = left[begin : begin + step]
        first = torch.repeat_interleave(torch.arange(begin, begin + len(part)), part)
        offset = torch.arange(len(first)) - torch.repeat_interleave(part.cumsum(0) - part, part)
        yield codes.latents[first], codes.latents[first + offset]
