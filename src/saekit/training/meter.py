"""What is logged of training steps: averages between two records."""

import time
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from saekit.core import machine
from saekit.core.processes import Mesh
from saekit.saes.base import Loss
from saekit.training.trainer import Training


class Meter:
    """Averages between two records of the log.

    A token is a row of the codes, so numbers per token are right where activations are
    coded several at a time.

    Args:
        seconds_before: seconds a run took before it was taken up again.
        baseline: the mean target, scaled as in training: what FVU is measured against.
    """

    def __init__(self, seconds_before: float, baseline: Float[Tensor, "*joint d_out"]):
        self.seconds_before = seconds_before
        self.baseline = baseline
        self._began = self._last = time.monotonic()
        self.clear()

    def clear(self) -> None:
        """Forget what was counted since the last record."""
        self.n = self.fired = 0
        self.err = self.square = 0.0
        self.terms: dict[str, float] = {}

    def add(self, loss: Loss, y: Float[Tensor, "n *event d_out"]) -> None:
        """Count one step; errors and squares are summed over every axis of `y`."""
        n = loss.acts.n_rows
        self.n += n
        self.err += float((loss.y_hat.detach() - y).square().sum())
        self.square += float((y - self.baseline).square().sum())
        self.fired += int((loss.acts.values != 0).sum())
        for key, value in loss.terms.items():
            self.terms[key] = self.terms.get(key, 0.0) + n * float(value.detach())

    def record(self, training: Training) -> dict[str, Any]:
        """Return what is logged, of all processes, and begin anew. Collective."""
        now = time.monotonic()
        self._join(training.mesh)
        terms = {k: v / self.n for k, v in self.terms.items()}
        out = {
            "step": training.index,
            "tokens": training.stream.served_tokens,
            "seconds": self.seconds_before + now - self._began,
            "loss": sum(terms.values()),
            "terms": terms,
            "fvu": self.err / self.square,
            "l0": self.fired / self.n,
            "dead": int(training.mesh.latent.sum(training.dead.sum())),
            "lr": training.run.lr_at(training.index - 1) * training.lr_share,
            "memory_bytes": machine.used_memory(training.silent_tokens.device),
            "tokens_per_second": self.n / max(now - self._last, 1e-9),
        }
        self._last = now
        self.clear()
        return out

    def _join(self, mesh: Mesh) -> None:
        """Add up what processes counted: rows over data groups, latents over latent groups."""
        if mesh.every.size == 1:
            return
        numbers = [self.n, self.err, self.square, *self.terms.values()]
        rows = torch.tensor(numbers, dtype=torch.float64, device=mesh.every.device)
        self.n, self.err, self.square, *terms = mesh.data.sum(rows).tolist()
        self.terms = dict(zip(self.terms, terms, strict=True))
        fired = torch.tensor(self.fired, device=mesh.every.device)
        self.fired = int(mesh.every.sum(fired))
