"""How wide a profile of influence over positions is: entropy in bits, and what else tells it."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

SPANS = (0.5, 0.9)  # shares of the influence whose span is told
NEAR = (1, 4, 16)  # last tokens whose share of the influence is told
LOG_2 = 0.6931471805599453
PUBLISHED_EPS = 1e-12  # added to every influence by the published code, whatever their scale


class Places(NamedTuple):
    """Which positions of each profile count: from the document's first to the latent's own.

    Args:
        first: position at which the document begins.
        last: position of the latent; what follows cannot influence it.
        special: special tokens, as BOS; None where there are none.
    """

    first: Int[Tensor, "pairs"]
    last: Int[Tensor, "pairs"]
    special: Bool[Tensor, "pairs n_ctx"] | None = None

    def inside(self, n_ctx: int) -> Bool[Tensor, "pairs n_ctx"]:
        """Return which positions count."""
        at = torch.arange(n_ctx, device=self.first.device)
        return (at >= self.first[:, None]) & (at <= self.last[:, None])

    def sinks(self, n_ctx: int) -> Bool[Tensor, "pairs n_ctx"]:
        """Return which of them models use as a place to attend to when nothing matters.

        That is the first position, whatever token is there, and special tokens.
        """
        at = torch.arange(n_ctx, device=self.first.device)
        found = at == self.first[:, None]
        return found if self.special is None else (found | self.special) & self.inside(n_ctx)


def places(
    n_ctx: int,
    rows: int,
    *,
    first: int | Int[Tensor, "pairs"] = 0,
    last: int | Int[Tensor, "pairs"] = -1,
    special: Bool[Tensor, "pairs n_ctx"] | None = None,
) -> Places:
    """Return `Places` from one number for all profiles or one for each; -1 is the last position."""

    def each(value: int | Tensor) -> Tensor:
        found = torch.as_tensor(value, dtype=torch.int64)
        found = torch.where(found < 0, found + n_ctx, found)
        return found.expand(rows) if found.ndim == 0 else found

    return Places(each(first), each(last), special)


def shares(
    J: Float[Tensor, "pairs n_ctx"],
    counted: Bool[Tensor, "pairs n_ctx"],
    relative_eps: float = 1e-12,
) -> Float[Tensor, "pairs n_ctx"]:
    """Return P = (J + e) / sum(J + e) over counted positions with e = relative_eps * max J.

    float64; the same for every scale of J. NaN in the whole row where J is 0 at every counted
    position, or not finite: such a profile has no distribution.
    """
    kept = J.double() * counted
    top = kept.amax(-1, keepdim=True) if J.shape[1] else kept.sum(-1, keepdim=True)
    raised = (kept + relative_eps * top) * counted
    fine = (top > 0) & top.isfinite()
    return torch.where(fine, raised / raised.sum(-1, keepdim=True), torch.nan)


def entropy_of(P: Float[Tensor, "*rows n_ctx"]) -> Float[Tensor, "*rows"]:
    """Return -sum P log2 P, bits; NaN where P is."""
    return -torch.special.xlogy(P, P).sum(-1) / torch.log(torch.tensor(2.0, dtype=P.dtype))


def entropy_bits(
    J: Float[Tensor, "*pairs n_ctx"],
    *,
    first: int | Int[Tensor, "*pairs"] = 0,
    last: int | Int[Tensor, "*pairs"] = -1,
    relative_eps: float = 1e-12,
) -> Float[Tensor, "*pairs"]:
    """Return the entropy of each profile of influence, in bits.

    H = -sum P log2 P with P = (J + e) / sum(J + e), e = relative_eps * max J; 0 where one
    position holds all, log2 n where n positions hold the same. NaN where J is 0 everywhere:
    there is no distribution. The same for c * J.

    Args:
        J: influence of each position.
        first: first position that counts.
        last: last position that counts; -1 is the end of the row.
        relative_eps: what keeps logarithms finite, in shares of the largest influence.

    Source:
        Definition of the SAE Locality dataset (H_pos).
        Differs: the published code adds 1e-12 whatever the scale of J, which makes an all-zero
        profile log2 n and blurs profiles of small gradients (`published_entropy_bits`).
    """
    n_ctx, batch = J.shape[-1], J.shape[:-1]
    flat = J.reshape(batch.numel(), n_ctx)
    first, last = (v.reshape(-1) if isinstance(v, Tensor) and v.ndim else v for v in (first, last))
    inside = places(n_ctx, len(flat), first=first, last=last).inside(n_ctx)
    return entropy_of(shares(flat, inside, relative_eps)).reshape(batch)


def published_entropy_bits(J: Float[Tensor, "*pairs n_ctx"]) -> Float[Tensor, "*pairs"]:
    """Return the entropy as the published numbers have it: 1e-12 added whatever the scale.

    log2 n where J is 0 everywhere.
    """
    raised = J.double() + PUBLISHED_EPS
    return entropy_of(raised / raised.sum(-1, keepdim=True))


def summaries(
    J: Float[Tensor, "pairs n_ctx"],
    where: Places | None = None,
    *,
    token_vector: Float[Tensor, "pairs n_ctx"] | None = None,
    log_shares: Float[Tensor, "pairs n_ctx"] | None = None,
    relative_eps: float = 1e-12,
) -> dict[str, Tensor]:
    """Return what tells how local each profile is; float64, one value a profile.

    With P the shares of influence over the n positions that count:

    n_positions: n. entropy_bits: H. entropy_share: H / log2 n, 0 to 1; NaN for n = 1.
    effective_tokens: 2^H, 1 to n. participation: 1 / sum P^2, 1 to n.
    span_50, span_90: fewest positions that hold 50 % and 90 % of the influence.
    look_back: sum P(t') (t - t'), tokens. near_1, near_4, near_16: share of the last tokens.
    sink_mass: share of the first position and of special tokens.
    entropy_without_sink_bits: H when these are left out and the rest sums to 1.
    kl_bits: sum P log2(P / Q), Q the shares of `token_vector`: how far the profile differs
        from that of the whole vector; only where that, or `log_shares`, is given.
    undefined: 1 where J is 0 or not finite, and all else NaN.

    Args:
        J: influence of each position.
        where: positions that count; all of them where None.
        token_vector: influence on the whole activation vector, exact, a row for each pair.
        log_shares: in its place, where it is estimated: the logarithms of its shares without
            the bias of an estimate, from `unbiased_log_shares`. KL may then be a little below 0.
        relative_eps: see `entropy_bits`.
    """
    pairs, n_ctx = J.shape
    where = where or places(n_ctx, pairs)
    inside = where.inside(n_ctx)
    P = shares(J, inside, relative_eps)
    H, n = entropy_of(P), inside.sum(-1).double()
    back = (where.last[:, None] - torch.arange(n_ctx, device=J.device)).double()
    sinks = where.sinks(n_ctx)
    rest = shares(J, inside & ~sinks, relative_eps)
    found = {
        "n_positions": n,
        "entropy_bits": H,
        "entropy_share": torch.where(n > 1, H / n.log2(), torch.nan),
        "effective_tokens": H.exp2(),
        "participation": 1 / P.square().sum(-1),
        **{f"span_{round(100 * p)}": span(P, p) for p in SPANS},
        "look_back": (P * back).sum(-1),
        **{f"near_{k}": torch.where(back < k, P, 0.0 * P).sum(-1) for k in NEAR},
        "sink_mass": torch.where(sinks, P, 0.0 * P).sum(-1),
        "entropy_without_sink_bits": entropy_of(rest),
        "undefined": P.isnan().any(-1).double(),
    }
    if token_vector is not None:
        found["kl_bits"] = kl_bits(P, shares(token_vector, inside, relative_eps))
    elif log_shares is not None:
        gap = torch.special.xlogy(P, P) - torch.where(inside, P * log_shares, 0.0 * P)
        found["kl_bits"] = gap.sum(-1) / LOG_2
    return found


def unbiased_log_shares(
    by_probe: Float[Tensor, "rows probes n_ctx"],
    inside: Bool[Tensor, "rows n_ctx"],
    relative_eps: float = 1e-12,
) -> Float[Tensor, "rows n_ctx"]:
    """Return ln Q, Q the shares of the mean over probes, without the bias of few probes.

    Noise in Q can only lower the mean of ln Q, and so raise a divergence from it. Leaving each
    of m probes out in turn shows by how much: m ln Q - (m - 1) mean(ln Q without one) has no bias
    of order 1/m. NaN where a row has no shares; meaningless outside `inside`.

    Args:
        by_probe: an estimate of R from each probe, at least 2.
        inside: positions that count.
        relative_eps: see `entropy_bits`.

    Source:
        Quenouille 1956, Notes on bias in estimation (jackknife).
    """
    m, total = by_probe.shape[1], by_probe.double().sum(1)
    found = m * shares(total, inside, relative_eps).log()
    for probe in by_probe.double().unbind(1):
        found -= (m - 1) / m * shares(total - probe, inside, relative_eps).log()
    return found


def span(P: Float[Tensor, "pairs n_ctx"], share: float) -> Float[Tensor, "pairs"]:
    """Return the fewest positions that together hold `share` of the influence; NaN where P is."""
    # The epsilon of shares takes a little from the largest ones, which is no position more.
    held = P.sort(-1, descending=True).values.cumsum(-1)
    found = (held < share * (1 - 1e-9)).sum(-1).double() + 1
    return torch.where(P.isnan().any(-1), torch.nan, found)


def kl_bits(
    P: Float[Tensor, "pairs n_ctx"], Q: Float[Tensor, "pairs n_ctx"]
) -> Float[Tensor, "pairs"]:
    """Return sum P log2(P / Q), at least 0; NaN where either is."""
    log2 = torch.log(torch.tensor(2.0, dtype=P.dtype))
    ratio = torch.special.xlogy(P, P) - torch.special.xlogy(P, Q)
    return (ratio.sum(-1) / log2).clamp_min(0)
