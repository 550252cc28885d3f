"""Exact influence by one vector-Jacobian product a pair, batched over windows and pairs."""

from saekit.locality.influence import Found, Job
from saekit.locality.pullback import pull_back


def compute(job: Job) -> Found:
    """Return J of each pair."""
    J = job.x.new_zeros(len(job.fired.row), job.windows.tokens.shape[1])
    parts = pull_back(job.lm, job.windows, job.sites, job.seeds(), job.fired.row, **job.passes)
    for part in parts:
        J[part.seeds] = part.gradient.float().square().sum(-1).to(J)
    return J, None
