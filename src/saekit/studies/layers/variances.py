"""Variances: how much of the spread over layers is between latents, tokens, or within both."""

from typing import NamedTuple

import torch

from saekit.studies.layers.sums import LayerSums


class Decomposition(NamedTuple):
    """The variance of the layer of a unit of activity, in three parts that sum to it."""

    total: float  # layers squared
    between_latents: float  # Var_i E(L | i)
    between_tokens: float  # E_i Var_t E(L | i, t): one latent at other layers for other tokens
    within_token: float  # E_{i, t} Var(L | i, t): at several layers for the same token
    tokens_over_within: float  # between_tokens + within_token, over within_token; NaN where 0


def decomposition(sums: LayerSums) -> Decomposition:
    r"""Split the variance over layers by the law of total variance.

    .. math:: \mathrm{Var}(L) = \mathrm{Var}_i E(L \mid i)
              + E_i \mathrm{Var}_{t \mid i} E(L \mid i, t) + E_{i,t} \mathrm{Var}(L \mid i, t)

    Layer, token and latent are drawn together with a chance in proportion to the strength
    a(l, t, i), so every expectation is weighted with activity, tokens on which a latent is
    silent have no weight, and the parts sum to the whole exactly.

    Source:
        Law of total variance (Weiss 2005, A Course in Probability, 385-386); what it is asked
        of: Lawson et al. 2024, arXiv:2409.04185, section 4.2. Differs: weighted by activity;
        there, silent tokens count as distributions that sum to 0, see `legacy_variances`.
    """
    layer = torch.tensor(sums.numbers, dtype=torch.float64, device=sums.totals.device)
    whole = sums.totals.sum()
    layer = layer - (layer @ sums.totals.sum(1)) / whole  # about the mean: sums stay small
    shift = float(layer[0]) - sums.numbers[0]
    by_latent = sums.totals.sum(0)
    first, second = layer @ sums.totals, layer.square() @ sums.totals
    # The sums hold squares of E(L | i, t) about 0; about the mean they are these.
    at_zero = torch.tensor(sums.numbers, dtype=torch.float64, device=layer.device) @ sums.totals
    tokens = sums.centres + 2 * shift * at_zero + shift**2 * by_latent
    latents = (first.square() / by_latent.where(by_latent > 0, 1.0)).sum() / whole
    within = ((second - tokens).sum() / whole).clamp_min(0.0)
    between_tokens = (tokens.sum() / whole - latents).clamp_min(0.0)
    total = second.sum() / whole
    ratio = (between_tokens + within) / within  # nan where nothing is within
    return Decomposition(
        float(total),
        float(latents),
        float(between_tokens),
        float(within),
        float(ratio) if within > 0 else float("nan"),
    )


class LegacyVariances(NamedTuple):
    """The published figures, by their published names."""

    exp_var_l_tf: float
    exp_var_l_f: float
    var_l: float
    rel_var_f: float
    rel_var_t: float


def legacy_variances(sums: LayerSums, n_tokens: int | None = None) -> LegacyVariances:
    """Return the original formulas, for comparison with published numbers only.

    With p(l, t, i) the share of layer l in a latent's activity on a token, 0 where it is
    silent, and Var(x) = sum l^2 x_l - (sum l x_l)^2 of whatever x sums to:
    ``exp_var_l_tf`` = mean over tokens and latents of Var(p); ``exp_var_l_f`` = mean over
    latents of Var(mean over tokens of p); ``var_l`` = Var(mean over both of p); ``rel_var_f``
    = exp_var_l_f / var_l; ``rel_var_t`` = exp_var_l_tf / exp_var_l_f. Since silent tokens make
    p sum to less than 1, these are not a decomposition; use `decomposition`.

    Args:
        sums: what a pass kept.
        n_tokens: tokens over which means are taken; those that count where None.

    Source:
        tim-lawson/mlsae, analysis/variances.py@ba90c51. Differs: over the whole text, where
        the original takes means of batches.
    """
    layer = torch.tensor(sums.numbers, dtype=torch.float64, device=sums.shares.device)
    n = sums.n_tokens if n_tokens is None else n_tokens
    mean_p = sums.shares / n  # [layers, d_sae]
    tf = (layer.square() @ sums.shares - sums.even_centres).sum() / (n * sums.d_sae)
    f = (layer.square() @ mean_p - (layer @ mean_p).square()).mean()
    over_both = mean_p.mean(1)
    all_ = layer.square() @ over_both - (layer @ over_both).square()
    return LegacyVariances(float(tf), float(f), float(all_), float(f / all_), float(tf / f))
