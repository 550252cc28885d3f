"""Sums of cross-entropies, and the one formula of what is recovered."""

import torch

from saekit.metrics.base import Batch, Sums, total


def ce_sums(batch: Batch, *names: str) -> Sums:
    """Return ``n``, scored tokens, and the sum of the CE under each intervention, in nats."""
    values = batch.ce or {}
    n = len(values[names[0]]) if values else 0
    sums = {"n": torch.tensor(float(n), dtype=torch.float64)}
    nothing = torch.zeros((), dtype=torch.float64)
    return sums | {name: total(values[name]) if values else nothing for name in names}


def recovered(sums: Sums, ablated: str) -> float | None:
    """Return (CE_ablated - CE_spliced) / (CE_ablated - CE_clean), None if ablation helps."""
    harm = sums[ablated] - sums["clean"]
    return float((sums[ablated] - sums["spliced"]) / harm) if harm > 0 else None
