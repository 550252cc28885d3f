"""Geometry: directions of latents beside one another, and beside embeddings of tokens."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from saekit.core.errors import ConfigError, ShapeError
from saekit.core.result import Table
from saekit.core.stats.plain import standard_error
from saekit.studies.layers.distributions import Spread, spread

CHUNK_CELLS = 2**24  # cosines in memory at a time
COSINE_BINS, DISTANCE_BINS = 256, 64
# From so many latents on the original code takes another path, some rows at a time.
LEGACY_LATENTS, LEGACY_ROWS = 16384, 1024


def max_cosines(
    one: Float[Tensor, "n d"], other: Float[Tensor, "m width"] | None = None
) -> Float[Tensor, "n"]:
    """Return the largest cosine of each row with a row of another dictionary.

    Args:
        one: directions.
        other: directions; None: the other rows of `one` itself.

    Raises:
        ShapeError: widths differ.
        ConfigError: there is nothing to compare with.
    """
    target = one if other is None else other
    if one.shape[1] != target.shape[1]:
        raise ShapeError(
            f"Directions are {one.shape[1]} and {target.shape[1]} wide. Compare SAEs of one width."
        )
    if len(target) < (2 if other is None else 1):
        raise ConfigError(
            f"A direction is compared with another one at least; got {len(target)} to compare with."
        )
    unit, to = normalize(one.detach().float(), dim=1), normalize(target.detach().float(), dim=1)
    parts = []
    for first, rows in _chunks(unit, len(to)):
        cosines = (rows @ to.t()).clamp_(-1, 1)
        if other is None:
            own = torch.arange(len(rows), device=rows.device)
            cosines[own, first + own] = -math.inf
        parts.append(cosines.amax(1))
    return torch.cat(parts)


def mmcs(one: Float[Tensor, "n d"], other: Float[Tensor, "m width"] | None = None) -> Spread:
    r"""Mean max cosine similarity, with its spread over latents.

    .. math:: \frac{1}{n} \sum_i \max_{j \ne i} \cos(w_i, w_j)

    of a dictionary with itself, or over all j with another. Not symmetric in two.

    Source:
        Sharkey et al. 2022, "Taking features out of superposition"; Lawson et al. 2024,
        arXiv:2409.04185, appendix. Differs: every other latent is looked at; see `legacy_mmcs`.
    """
    return spread(max_cosines(one, other))


def legacy_mmcs(directions: Float[Tensor, "n d"]) -> Spread:
    """Return what the original code calls MMCS, for comparison with published numbers only.

    The largest cosine of each latent is taken over some of the others only, and is at least 0.
    Below 16,384 latents these are the lower-numbered ones. From there on latents go in groups
    of 1,024 and place r of the group that ends before latent e looks at latents below r, its
    place in its group, and at those from e on. The variance divides by n - 1.

    Source:
        tim-lawson/mlsae, figures/mmcs.py@ba90c51. Differs: nothing known.
    """
    unit = normalize(directions.detach().float(), dim=1)
    n = len(unit)
    own, number = torch.arange(n, device=unit.device), torch.arange(n, device=unit.device)
    place, end = own, torch.full_like(own, n)
    if n >= LEGACY_LATENTS:
        place, end = own % LEGACY_ROWS, (own // LEGACY_ROWS + 1) * LEGACY_ROWS
    found = []
    for first, rows in _chunks(unit, n):
        some = slice(first, first + len(rows))
        seen = (number < place[some, None]) | (number >= end[some, None])
        cosines = (rows @ unit.t()).masked_fill_(~seen, 0.0)
        found.append(cosines.amax(1).clamp_min(0.0))
    values = torch.cat(found).double()
    variance = float(values.var(correction=1))
    std = math.sqrt(variance)
    return Spread(float(values.mean()), variance, std, std / math.sqrt(len(values)), len(values))


class Neighbours(NamedTuple):
    """The tokens whose vectors each latent's direction is nearest to."""

    cosines: Float[Tensor, "m n"]  # the largest first
    tokens: Int[Tensor, "m n"]


def nearest_tokens(
    directions: Float[Tensor, "m d"], vectors: Float[Tensor, "vocab width"], n: int = 8
) -> Neighbours:
    """Return the n rows of an embedding or unembedding of largest cosine with each direction.

    Raises:
        ShapeError: widths differ.
        ConfigError: `n` is out of range.

    Source:
        Lawson et al. 2024, mlsae figures/embed_cos_sim.py. Differs: nothing known.
    """
    if directions.shape[1] != vectors.shape[1]:
        raise ShapeError(
            f"Directions are {directions.shape[1]} wide and token vectors {vectors.shape[1]}. Take "
            f"both from one model."
        )
    if not 1 <= n <= len(vectors):
        raise ConfigError(f"`n` must lie in 1..{len(vectors)} (the vocabulary); got {n}.")
    unit, to = normalize(directions.detach().float(), dim=1), normalize(vectors.float(), dim=1)
    tops = [(rows @ to.t()).topk(n) for _, rows in _chunks(unit, len(to))]
    return Neighbours(torch.cat([t.values for t in tops]), torch.cat([t.indices for t in tops]))


class PairHistogram(NamedTuple):
    """Pairs of latents by distance in layers and cosine of directions."""

    counts: Int[Tensor, "distance cosine"]
    distance_edges: Float[Tensor, "distance_and_one"]  # layers
    cosine_edges: Float[Tensor, "cosine_and_one"]
    mean: Float[Tensor, "distance"]  # cosine by distance; NaN where no pair is
    std: Float[Tensor, "distance"]
    n_latents: int

    def fullness(self) -> Float[Tensor, "distance cosine"]:
        """Return the pairs of each bin as a share of the fullest bin at its distance."""
        counts = self.counts.double()
        return counts / counts.amax(1, keepdim=True).clamp_min(1)

    def shown_cosines(self, beyond: float) -> tuple[float, float]:
        """Return the ends of an axis of cosines.

        Args:
            beyond: share of pairs that may lie beyond either end.
        """
        counts = self.counts.double().sum(0)
        below = counts.cumsum(0) / counts.sum().clamp_min(1)
        used = ((below > beyond) & (below < 1 - beyond)).nonzero()[:, 0]
        used = used if len(used) else (counts > 0).nonzero()[:, 0]
        used = used if len(used) else torch.arange(len(counts))
        return float(self.cosine_edges[used[0]]), float(self.cosine_edges[used[-1] + 1])

    def middles(self) -> Float[Tensor, "distance"]:
        """Return the middle of each bin of distances."""
        return (self.distance_edges[1:] + self.distance_edges[:-1]) / 2

    def means(self) -> Table:
        """Return, by distance, the mean cosine of pairs, its deviation and its standard error."""
        n = self.counts.sum(1).tolist()
        sem = [standard_error(s, k) for s, k in zip(self.std.tolist(), n, strict=True)]
        return Table(
            columns={
                "distance_from": self.distance_edges[:-1].tolist(),
                "distance_to": self.distance_edges[1:].tolist(),
                "pairs": n,
                "mean": self.mean.tolist(),
                "std": self.std.tolist(),
                "sem": sem,
            }
        )


def cosine_by_distance(
    directions: Float[Tensor, "n d"], layer_mean: Float[Tensor, "n"], numbers: Sequence[int]
) -> PairHistogram:
    """Count pairs of latents by |difference of mean layers| and cosine, in chunks.

    Distances go from 0 to the span of the layers, cosines from -1 to 1. A latent without a
    mean (never active) is in no pair. Direction and mean of a pair are those of the same two
    latents; each pair counts once.

    Source:
        Lawson et al. 2024, mlsae figures/dists_cos_sim_heatmaps.py. Differs: directions and
        means in one order, any number of layers, memory independent of pairs.
    """
    known = ~layer_mean.isnan()
    unit = normalize(directions.detach().float()[known], dim=1)
    at = layer_mean[known].double()
    span = float(max(max(numbers) - min(numbers), 1))
    counts = torch.zeros(DISTANCE_BINS * COSINE_BINS, dtype=torch.int64)
    sums = torch.zeros(2, DISTANCE_BINS, dtype=torch.float64)
    for first, rows in _chunks(unit, len(unit)):
        cosines = (rows @ unit.t()).clamp_(-1, 1)
        own = torch.arange(first, first + len(rows), device=rows.device)
        upper = torch.arange(len(unit), device=rows.device) > own[:, None]
        cosine = cosines[upper].double()
        gap = (at[own, None] - at).abs()[upper]
        d = (gap / span * DISTANCE_BINS).long().clamp_(0, DISTANCE_BINS - 1)
        c = ((cosine + 1) / 2 * COSINE_BINS).long().clamp_(0, COSINE_BINS - 1)
        counts += torch.bincount(d * COSINE_BINS + c, minlength=len(counts)).cpu()
        for power in (1, 2):
            sums[power - 1] += torch.bincount(
                d, weights=cosine.pow(power), minlength=DISTANCE_BINS
            ).cpu()
    table = counts.view(DISTANCE_BINS, COSINE_BINS)
    n = table.sum(1).double()
    n = n.where(n > 0, math.nan)
    mean = sums[0] / n
    return PairHistogram(
        table,
        torch.linspace(0, span, DISTANCE_BINS + 1),
        torch.linspace(-1, 1, COSINE_BINS + 1),
        mean,
        (sums[1] / n - mean.square()).clamp_min(0).sqrt(),
        len(unit),
    )


def _chunks(rows: Tensor, columns: int) -> Iterator[tuple[int, Tensor]]:
    step = max(1, CHUNK_CELLS // max(columns, 1))
    for first in range(0, len(rows), step):
        yield first, rows[first : first + step]
