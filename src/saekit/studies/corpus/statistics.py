"""Statistics of token counts: entropy, divergences, n-grams. Closed forms, without a model."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def entropy(counts: Float[Tensor, "vocab"]) -> float:
    """Return the plug-in entropy in bits: that of the shares that were seen, which is too low."""
    shares = counts[counts > 0].double() / counts.sum().double()
    return float(-(shares * shares.log2()).sum())


def chao_shen(counts: Float[Tensor, "vocab"]) -> float:
    """Return the entropy in bits, corrected for tokens that were not seen.

    Source:
        Chao and Shen 2003, Nonparametric estimation of Shannon's index of diversity when there are
        unseen species, Environ. Ecol. Stat. 10. Differs: where every token was seen once the
        coverage is taken as if one had been seen twice, for it would be 0.
    """
    seen = counts[counts > 0].double()
    n = float(seen.sum())
    once = min(float((seen == 1).sum()), n - 1)
    shares = (1 - once / n) * seen / n
    present = -torch.expm1(n * torch.log1p(-shares.clamp(max=1 - 1e-15)))
    return float(-(shares * shares.log2() / present).sum())


def jensen_shannon(p: Float[Tensor, "*vocab"], q: Float[Tensor, "*vocab"]) -> Tensor:
    """Return the Jensen-Shannon divergence of shares in bits: 0 of the same ones, at most 1.

    Source:
        Lin 1991, Divergence measures based on the Shannon entropy, equal weights.
    """
    p, q = p.double(), q.double()
    half = (p + q) / 2
    return (_relative(p, half) + _relative(q, half)).sum(-1) / 2


def kl(p: Float[Tensor, "vocab"], q: Float[Tensor, "vocab"], floor: float = 1e-10) -> float:
    """Return the KL divergence of q from p in nats, with a share added where q may be 0.

    Source:
        FaithfulSAE (arXiv:2506.17673), measure_dataset: sum of p ln((p + 1e-10) / (q + 1e-10)) over
        tokens with p > 0.
    """
    p, q = p.double(), q.double()
    there = p > 0
    return float((p[there] * ((p[there] + floor) / (q[there] + floor)).log()).sum())


def _relative(p: Tensor, q: Tensor) -> Tensor:
    return torch.where(p > 0, p * (p / q.clamp_min(1e-300)).log2(), torch.zeros_like(p))


def shares(counts: Tensor) -> Float[Tensor, "*vocab"]:
    """Return counts as shares of their sum, in double precision."""
    return counts.double() / counts.double().sum(-1, keepdim=True)


def ngrams(ids: Int[Tensor, "n"], size: int) -> Int[Tensor, "m"]:
    """Return a 64-bit number for each run of `size` tokens, equal for equal runs.

    Of m distinct runs about m^2 / 2^65 pairs agree by chance.
    """
    if len(ids) < size:
        return ids.new_zeros(0)
    found = torch.zeros(len(ids) - size + 1, dtype=torch.int64)
    for i in range(size):
        found = (found ^ ids[i : len(ids) - size + 1 + i].long()) * -7046029254386353131
        found = found ^ (found >> 29)
    return found


def distinct(
    grams: Int[Tensor, "m"], blocks: Int[Tensor, "m"], n_blocks: int
) -> tuple[float, Float[Tensor, "blocks"]]:
    """Return the share of runs that are distinct, and the same without each block."""
    order = grams.argsort(stable=True)
    ranked, owners = grams[order], blocks[order]
    starts = torch.ones(len(ranked), dtype=torch.bool)
    starts[1:] = ranked[1:] != ranked[:-1]
    run = starts.cumsum(0) - 1
    n_runs = int(starts.sum())
    first, last = torch.full((n_runs,), n_blocks), torch.full((n_runs,), -1)
    first.scatter_reduce_(0, run, owners, "amin")
    last.scatter_reduce_(0, run, owners, "amax")
    alone = torch.bincount(first[first == last], minlength=n_blocks).double()
    sizes = torch.bincount(blocks, minlength=n_blocks).double()
    m = len(grams)
    return n_runs / m, (n_runs - alone) / (m - sizes).clamp_min(1)
