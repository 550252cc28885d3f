"""Toy: a metric in one file."""

from typing import ClassVar, final

import torch

from saekit.metrics.base import Metric, registry, total


@final
@registry.register
class ToyMetric(Metric):
    r"""Mean number of latents that are on and positive.

    .. math:: \frac{1}{n} \sum_i |\{j : a_{ij} > 0\}|

    A code that predicts the mean has 0; a perfect reconstruction has no number of its own.

    Source:
        Ours.
        Differs: nothing known.
    """

    name: ClassVar[str] = "toy_metric"
    version: ClassVar[int] = 1
    unit: ClassVar[str] = "latents/token"
    better: ClassVar[str] = "neither"

    def sums(self, batch):
        n = torch.tensor(float(batch.acts.n_rows), dtype=torch.float64)
        return {"n": n, "on": total(batch.acts.values > 0)}

    def compute(self, sums):
        return float(sums["on"] / sums["n"]) if sums["n"] else None
