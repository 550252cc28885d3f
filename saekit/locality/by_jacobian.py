"""Exact influence from one Jacobian: d_model gradients a window give every latent and R at once.

Worth it where as many latents as dimensions are wanted, or the token vector too. Gradients of the
latents are summed up from rows of the Jacobian as they come; the Jacobian itself is never held.
"""

import torch
from torch import Tensor

from saekit.core.errors import ConfigError
from saekit.locality.influence import Found, Job
from saekit.locality.pullback import PASS_TOKENS, Windows, pull_back

BLOCK_ROWS = 64  # of the Jacobian, held before they are multiplied


def compute(job: Job) -> Found:
    """Return J of each pair, and R of each window."""
    if len(job.sites) > 1:
        raise ConfigError(
            'Method "jacobian" is for SAEs of one site; use "vjp" for a crosscoder.'
        )
    windows, n_ctx = job.windows.tokens.shape
    seeds, J = job.seeds(), job.x.new_zeros(len(job.fired.row), n_ctx)
    R = torch.zeros(windows, n_ctx, dtype=torch.float64)
    most = job.chunk or max(PASS_TOKENS // n_ctx, 1)
    for index in torch.arange(windows).split(most):
        mine = torch.isin(job.fired.row, index).nonzero().squeeze(-1)
        local = job.fired.row[mine] - index[0]
        _check_room(job, len(mine))
        R[index], J[mine] = _of_windows(job, index, local, seeds[mine])
    return J, R


def _check_room(job: Job, pairs: int) -> None:
    n_bytes = 4 * pairs * job.windows.tokens.shape[1] * job.lm.d_model
    if job.memory_bytes is not None and n_bytes > job.memory_bytes:
        raise ConfigError(
            f"Method \"jacobian\" needs {n_bytes / 1e6:,.0f} MB for the gradients of {pairs} "
            f"latents at once; the budget is {job.memory_bytes / 1e6:,.0f} MB. Raise --memory, "
            f"lower `chunk`, or use method \"vjp\"."
        )


def _of_windows(
    job: Job, index: Tensor, local: Tensor, seeds: Tensor
) -> tuple[Tensor, Tensor]:
    """Return R of some windows and J of their pairs."""
    n_ctx, width = job.windows.tokens.shape[1], job.x.shape[-1]
    windows = Windows(job.windows.tokens[index], job.windows.position[index])
    basis = torch.eye(width).to(job.x).repeat(len(index), 1)
    window = torch.arange(len(index)).repeat_interleave(width)
    R = torch.zeros(len(index), n_ctx, dtype=torch.float64)
    G = job.x.new_zeros(len(seeds), n_ctx, job.lm.d_model)  # gradients of the latents
    held: list[list[tuple[int, Tensor]]] = [[] for _ in index]

    def spend(w: int) -> None:
        rows = torch.tensor([row for row, _ in held[w]])
        block = torch.stack([gradient for _, gradient in held[w]])  # [rows, n_ctx, d_model]
        mine = (local == w).nonzero().squeeze(-1)
        if len(mine):
            G[mine] += torch.einsum("ar,rnd->and", seeds[mine][:, rows], block)
        R[w] += block.square().sum(-1).sum(0, dtype=torch.float64)
        held[w].clear()

    for part in pull_back(job.lm, windows, job.sites, basis, window, **job.passes):
        for seed, gradient in zip(part.seeds.tolist(), part.gradient, strict=True):
            w, row = divmod(seed, width)
            held[w].append((row, gradient))
            if len(held[w]) == BLOCK_ROWS:
                spend(w)
    for w, rows in enumerate(held):
        if rows:
            spend(w)
    return R, G.square().sum(-1)
