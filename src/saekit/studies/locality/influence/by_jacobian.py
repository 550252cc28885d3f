"""Exact influence from one Jacobian: d_model gradients a window give every latent and R at once.

Worth it where as many latents as dimensions are wanted, or the token vector too. Gradients of the
latents are summed up from rows of the Jacobian as they come; the Jacobian itself is never held.
"""

import torch
from torch import Tensor

from saekit.core.errors import ConfigError
from saekit.studies.locality.influence.base import Found, Job
from saekit.studies.locality.influence.pullback import Windows, pull_back


def compute(job: Job) -> Found:
    """Return J of each pair, and R of each window."""
    if len(job.sites) > 1:
        raise ConfigError('Method "jacobian" is for SAEs of one site; use "vjp" for a crosscoder.')
    windows, n_ctx = job.windows.tokens.shape
    seeds, J = job.seeds(), job.x.new_zeros(len(job.fired.row), n_ctx)
    R = torch.zeros(windows, n_ctx, dtype=torch.float64)
    for w in range(windows):
        mine = (job.fired.row == w).nonzero().squeeze(-1)
        _check_room(job, len(mine))
        R[w], J[mine] = _of_window(job, w, seeds[mine])
    return J, R


def _check_room(job: Job, pairs: int) -> None:
    n_bytes = 4 * pairs * job.windows.tokens.shape[1] * job.lm.d_model
    if job.memory_bytes is not None and n_bytes > job.memory_bytes:
        raise ConfigError(
            f'Method "jacobian" needs {n_bytes / 1e6:,.0f} MB for the gradients of {pairs} '
            f"latents at once; the budget is {job.memory_bytes / 1e6:,.0f} MB. Raise --memory, "
            f'or use method "vjp".'
        )


def _of_window(job: Job, w: int, seeds: Tensor) -> tuple[Tensor, Tensor]:
    """Return R of a window and J of its pairs."""
    n_ctx, width = job.windows.tokens.shape[1], job.x.shape[-1]
    window = Windows(*(x[w : w + 1] for x in job.windows))
    basis = torch.eye(width).to(job.x)
    G = job.x.new_zeros(len(seeds), n_ctx * job.lm.d_model)  # gradients of the latents
    R = torch.zeros(n_ctx, dtype=torch.float64)
    of = torch.zeros(width, dtype=torch.int64)
    for part in pull_back(job.lm, window, job.sites, basis, of, **job.passes):
        G.addmm_(seeds[:, part.seeds], part.gradient.flatten(1).to(G))
        R += part.gradient.square().sum(-1).sum(0, dtype=torch.float64).cpu()
    return R, G.view(len(seeds), n_ctx, job.lm.d_model).square().sum(-1)
