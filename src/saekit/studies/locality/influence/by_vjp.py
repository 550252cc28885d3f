"""Exact influence by one vector-Jacobian product a pair, batched over windows and pairs."""

from saekit.studies.locality.influence.base import Found, Job
from saekit.studies.locality.influence.pullback import squares


def compute(job: Job) -> Found:
    """Return J of each pair."""
    seeds, window = job.seeds(), job.fired.row
    return squares(job.lm, job.windows, job.sites, seeds, window, **job.passes), None
