"""Exact influence, one gradient at a time through encode and model: the reference of tests."""

import torch

from saekit.models.sites import EMBED
from saekit.studies.locality.influence.base import Found, Job


def compute(job: Job) -> Found:
    """Return J of each pair; no seeds, no batch: autograd from the latent to the embedding."""
    J = job.x.new_zeros(len(job.fired.row), job.windows.tokens.shape[1])
    for i, (row, latent) in enumerate(
        zip(job.fired.row.tolist(), job.fired.latent.tolist(), strict=True)
    ):
        one = job.windows._replace(
            tokens=job.windows.tokens[row : row + 1], position=job.windows.position[row : row + 1]
        )
        found = job.lm.read(one.tokens, [EMBED, *job.sites], grad=True)
        with torch.enable_grad():
            codes = job.encoder(one.at([found[s] for s in job.sites]))
            value = codes.values[codes.latents == latent].sum()
        if value.requires_grad:
            J[i] = torch.autograd.grad(value, found[EMBED])[0][0].square().sum(-1)
    return J, None
