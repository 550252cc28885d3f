"""Counts of tokens by latent, which several metrics read."""

import torch

from saekit.metrics.base import Batch, Sums


def firing_counts(batch: Batch) -> Sums:
    """Return ``n``, tokens, and ``fired`` ``[d_sae]``, tokens on which each latent fired."""
    live = batch.acts.live()
    fired = torch.bincount(live.latents, minlength=live.d_sae)
    return {
        "n": torch.tensor(float(live.n_rows), dtype=torch.float64),
        "fired": fired.cpu().double(),
    }
