"""Distributions: at which layers a latent is active, and how that is summed up."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saekit.core.result import Table
from saekit.core.stats.plain import deviation, share
from saekit.studies.layers.sums import LayerSums

BINS_PER_LAYER = 16  # of a histogram of mean layers: the published figure's
LEAST_SHARE = 1e-4  # of tokens: a latent counts as active at a layer from here (the source's)


class Distribution(NamedTuple):
    """P(layer | latent) of every latent, and its moments; NaN for a latent never active."""

    p: Float[Tensor, "layers d_sae"]
    mean: Float[Tensor, "d_sae"]  # layers
    variance: Float[Tensor, "d_sae"]  # layers squared, at least 0
    std: Float[Tensor, "d_sae"]  # layers
    entropy: Float[Tensor, "d_sae"]  # nats, 0 to ln(layers)
    bimodality: Float[Tensor, "d_sae"]  # above 0, at most 1; NaN where the variance is 0


def distribution(totals: Float[Tensor, "layers d_sae"], numbers: Sequence[int]) -> Distribution:
    r"""Return how the activity of each latent is spread over layers.

    .. math:: P(l \mid i) = a_{li} / \sum_{l'} a_{l'i}

    with a the sum of strengths (or of counts, or of strengths on one token or prompt). Mean
    and variance are of the layer number under P, entropy is :math:`-\sum P \ln P` and

    .. math:: b = (s^2 + 1) / k

    with skewness s and kurtosis k (3 for a normal distribution): 5/9 for an even spread over
    many layers, higher for two modes, 1 for two layers with nothing between, lower for one.

    Args:
        totals: at least 0.
        numbers: the layer of each row.

    Source:
        Lawson et al. 2024, arXiv:2409.04185, section 3.3; bimodality: Pfister et al. 2013,
        Frontiers in Psychology 4:700 (population form of Sarle's coefficient).
        Differs: deviations from the mean are squared, not squares subtracted, so that no
        variance is below 0 and no latent of one layer is lost.
    """
    totals = totals.double()
    layer = torch.tensor(numbers, dtype=torch.float64, device=totals.device)[:, None]
    whole = totals.sum(0)
    p = totals / whole.where(whole > 0, math.nan)
    mean = (layer * p).sum(0)
    away = layer - mean
    variance = (away.square() * p).sum(0)
    # Where one layer has all, the mean is that layer but for rounding.
    variance = variance.where(~((p > 0).sum(0) == 1), 0.0)
    spread = variance.where(variance > 0, math.nan)
    skewness = (away.pow(3) * p).sum(0) / spread.pow(1.5)
    kurtosis = (away.pow(4) * p).sum(0) / spread.square()
    return Distribution(
        p,
        mean,
        variance,
        variance.sqrt(),
        -torch.special.xlogy(p, p).sum(0),
        (skewness.square() + 1) / kurtosis,
    )


def even_spread(numbers: Sequence[int]) -> float:
    """Return the standard deviation over layers of a latent that is evenly spread over them."""
    return deviation(numbers)


def by_mean_layer(found: Distribution) -> Int[Tensor, "alive"]:
    """Return latents that were ever active, those of late layers first; ties by number."""
    alive = (~found.mean.isnan()).nonzero()[:, 0]
    return alive[found.mean[alive].argsort(descending=True, stable=True)]


def single_layer_share(sums: LayerSums) -> float:
    """Return on which share of the tokens of latents a latent is active at one layer only."""
    return share(int(sums.singles.sum()), int(sums.pairs.sum()))


def mean_layer_density(
    found: Distribution, numbers: Sequence[int], bins_per_layer: int = BINS_PER_LAYER
) -> Table:
    """Return a histogram of the mean layers of latents, as a density: its area is 1.

    Args:
        found: of all latents; those never active are left out.
        numbers: the layers.
        bins_per_layer: bins from one layer to the next.
    """
    mean = found.mean[~found.mean.isnan()].float()
    low, high = min(numbers), max(max(numbers), min(numbers) + 1)
    counts, edges = torch.histogram(
        mean, bins_per_layer * (high - low), range=(float(low), float(high))
    )
    width = float(edges[1] - edges[0])
    density = counts / max(len(mean), 1) / width
    return Table(
        columns={
            "layer_from": edges[:-1].tolist(),
            "layer_to": edges[1:].tolist(),
            "latents": [int(c) for c in counts],
            "density": density.tolist(),
        }
    )


def active_layers(
    counts: Int[Tensor, "layers d_sae"],
    tokens: Int[Tensor, "layers"],
    least_share: float = LEAST_SHARE,
) -> Int[Tensor, "d_sae"]:
    """Return at how many layers each latent is active: on this share of tokens or more.

    A single token is always too few to miss: at least one activation is needed.

    Args:
        counts: tokens on which the latent is active at the layer.
        tokens: tokens that count at the layer.
        least_share: 0 to 1.

    Source:
        Lawson et al., later revisions of arXiv:2409.04185: 10,000 of 100 million tokens.
    """
    least = (least_share * tokens.double()).clamp_min(1.0)[:, None]
    return (counts >= least.to(counts.device)).sum(0)


def latent_table(sums: LayerSums, sites: Sequence[str], least_share: float = LEAST_SHARE) -> Table:
    """Return one row a latent: how often and how strongly, and its spread over layers.

    Columns ``p_SITE`` hold P(layer | latent); a latent that was never active has empty cells.
    """
    found = distribution(sums.totals, sums.numbers)
    count, total, pairs = sums.counts.sum(0), sums.totals.sum(0), sums.pairs
    columns = {
        "latent": list(range(sums.d_sae)),
        "count": count.tolist(),
        "tokens": pairs.tolist(),
        "total": total.tolist(),
        "mean_strength": (total / count.where(count > 0, 1)).where(count > 0, math.nan).tolist(),
        "layer_mean": found.mean.tolist(),
        "layer_variance": found.variance.tolist(),
        "layer_std": found.std.tolist(),
        "layer_entropy": found.entropy.where(count > 0, math.nan).tolist(),
        "layers_effective": found.entropy.exp().where(count > 0, math.nan).tolist(),
        "layers_active": active_layers(sums.counts, sums.tokens, least_share).tolist(),
        "bimodality": found.bimodality.tolist(),
        "single_layer_share": (sums.singles / pairs.where(pairs > 0, 1))
        .where(pairs > 0, math.nan)
        .tolist(),
    }
    columns |= {f"p_{site}": p.tolist() for site, p in zip(sites, found.p, strict=True)}
    return Table(
        columns=columns,
        units={
            "count": "activations",
            "tokens": "tokens",
            "layer_mean": "layers",
            "layer_std": "layers",
            "layer_entropy": "nats",
        },
    )


def site_table(sums: LayerSums, sites: Sequence[str]) -> Table:
    """Return one row a layer: its tokens, how many latents are on, how strongly, how many ever."""
    tokens = sums.tokens.double().clamp_min(1).to(sums.totals.device)
    count = sums.counts.sum(1)
    return Table(
        columns={
            "site": list(sites),
            "layer": list(sums.numbers),
            "tokens": sums.tokens.tolist(),
            "l0": (count / tokens).tolist(),
            "l1": (sums.totals.sum(1) / tokens).tolist(),
            "latents": (sums.counts > 0).sum(1).tolist(),
            "latents_only_here": ((sums.counts > 0) & ((sums.counts > 0).sum(0) == 1))
            .sum(1)
            .tolist(),
            "dead_share": (sums.counts == 0).double().mean(1).tolist(),
        },
        units={"l0": "latents/token", "l1": "strength/token", "dead_share": "share of latents"},
    )


class Spread(NamedTuple):
    """A figure of each latent, summed up over those that were ever active."""

    mean: float
    variance: float  # with n in the denominator
    std: float
    sem: float  # std / sqrt(n)
    n: int  # latents


def spread(values: Float[Tensor, "d_sae"]) -> Spread:
    """Return mean, variance and standard error over latents, NaN left out.

    Source:
        Lawson et al. 2024, arXiv:2409.04185, table 1.
        Differs: the standard error divides by the latents that have a value, not by all.
    """
    some = values[~values.isnan()].double()
    n = len(some)
    if not n:
        return Spread(math.nan, math.nan, math.nan, math.nan, 0)
    variance = float(some.var(correction=0))
    std = math.sqrt(variance)
    return Spread(float(some.mean()), variance, std, std / math.sqrt(n), n)
