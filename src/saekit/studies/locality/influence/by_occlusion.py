"""Check by occlusion: how far a latent's activation moves when one token's embedding is blanked.

J(t') = (f - f_without_t')^2, the embedding of t' replaced by the mean of those of the window. A
change of finite size, through gates that may switch: it agrees with gradients in order, not in
value.
"""

import torch
from torch import Tensor

from saekit.models.sites import EMBED
from saekit.studies.locality.influence.base import Found, Job
from saekit.studies.locality.influence.pullback import Windows

ROWS_TOKENS = 2048


def compute(job: Job) -> Found:
    """Return J of each pair, from one forward pass for each position."""
    n_ctx = job.windows.tokens.shape[1]
    J = job.x.new_zeros(len(job.fired.row), n_ctx)
    size = job.chunk or max(ROWS_TOKENS // n_ctx, 1)
    for w in job.fired.row.unique().tolist():
        mine = (job.fired.row == w).nonzero().squeeze(-1)
        last = int(job.windows.position[w])
        for places in torch.arange(last + 1).split(size):
            moved = _without(job, w, places)
            row = torch.arange(len(places)).repeat_interleave(len(mine))
            latent = job.fired.latent[mine].repeat(len(places))
            there = job.encoder.at(moved, row, latent).activation.view(len(places), len(mine))
            J[mine[:, None], places] = (there.T - job.fired.activation[mine, None]).square()
    return J, None


def _without(job: Job, w: int, places: Tensor) -> Tensor:
    """Return activations of a window with one embedding blanked, a row for each place."""
    last = job.windows.position[w]

    def blank(x: Tensor) -> Tensor:
        x = x.clone()
        x[torch.arange(len(places)), places] = x[0, : int(last) + 1].mean(0)
        return x

    rows = Windows(
        job.windows.tokens[w].expand(len(places), -1).contiguous(), last.expand(len(places))
    )
    # The mean is that of the window itself, so it is taken before anything is written.
    found = job.lm.read(rows.tokens, list(job.sites), replace={EMBED: blank})
    return rows.at([found[s] for s in job.sites]).float()
