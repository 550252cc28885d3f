"""Check by integrated gradients: gradients averaged on the way from a blank window to the real one.

A(t') = sum_mu (x - b)[t', mu] * mean over the way of d f / d x[t', mu]; J = A^2. b is the mean
embedding of the window at every position. Where no gate switches on the way the sum of A is
f(x) - f(b) (completeness).

Source:
    Sundararajan et al. 2017, arXiv:1703.01365.
    Differs: squared, to stand beside J; the midpoint rule.
"""

import torch
from torch import Tensor

from saekit.models.sites import EMBED
from saekit.studies.locality.influence.base import Found, Job
from saekit.studies.locality.influence.latent_gradient import ActiveLatents

STEPS = 16


def compute(job: Job) -> Found:
    """Return J of each pair."""
    A = attributions(job)
    return A.square(), None


def attributions(job: Job, steps: int = STEPS) -> Tensor:
    """Return A of each pair, act units, ``[pairs, n_ctx]``."""
    n_ctx = job.windows.tokens.shape[1]
    A = job.x.new_zeros(len(job.fired.row), n_ctx)
    for w in job.fired.row.unique().tolist():
        mine = (job.fired.row == w).nonzero().squeeze(-1)
        for step in range(steps):
            A[mine] += _at(job, w, mine, (step + 0.5) / steps) / steps
    return A


def _at(job: Job, w: int, mine: Tensor, share: float) -> Tensor:
    """Return (x - b) . gradient at one place of the way, for the pairs of a window."""
    window = job.windows._replace(
        tokens=job.windows.tokens[w : w + 1], position=job.windows.position[w : w + 1]
    )
    last, away = int(window.position[0]), []

    def between(x: Tensor) -> Tensor:
        blank = x[:, : last + 1].mean(1, keepdim=True)
        away.append((x - blank).detach())
        return (blank + share * (x - blank)).detach().requires_grad_()

    found = job.lm.read(window.tokens, [EMBED, *job.sites], replace={EMBED: between}, grad=True)
    y = window.at([found[s] for s in job.sites])
    latent = job.fired.latent[mine]
    alone = ActiveLatents(torch.zeros_like(latent), latent, job.fired.activation[mine])
    seeds = job.encoder.gradients(y.detach().float(), alone)
    rows = [
        torch.autograd.grad(y, found[EMBED], seed[None].to(y), retain_graph=True)[0][0]
        for seed in seeds
    ]
    return (torch.stack(rows) * away[0]).sum(-1)
