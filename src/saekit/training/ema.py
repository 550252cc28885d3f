"""A running mean of weights over training."""

import math

import torch
from torch import Tensor

from saekit.saes.base import SAE


class WeightMean:
    """The exponential mean of an SAE's parameters over steps, unbiased from the first.

    After step t the mean is sum_s decay^(t - s) * p_s / sum_s decay^(t - s), s = 1..t.
    Buffers, as running thresholds, have no mean: they are taken anew of the finished weights.

    Args:
        sae: whose parameters.
        decay: weight of the past at each step, 0 < decay < 1.

    Source:
        Polyak & Juditsky 1992 (averages of iterates); the correction is that of Kingma & Ba
        2015, arXiv:1412.6980, section 3.
    """

    def __init__(self, sae: SAE, decay: float):
        self.decay = decay
        self.named = dict(sae.named_parameters())
        self.mean = {k: torch.zeros_like(p) for k, p in self.named.items()}  # layouts stay

    @torch.no_grad()
    def update(self, n_steps: int) -> None:
        """Take in the parameters after `n_steps` steps, this one counted."""
        weight = (1 - self.decay) / -math.expm1(n_steps * math.log(self.decay))
        for name, parameter in self.named.items():
            self.mean[name].lerp_(parameter, weight)

    @torch.no_grad()
    def restart(self, name: str, latents: Tensor, axis: int) -> None:
        """Forget the past of some latents of a parameter, which have new weights."""
        new = self.named[name].index_select(axis, latents)
        self.mean[name].index_copy_(axis, latents, new)

    @torch.no_grad()
    def finish(self) -> None:
        """Put the mean where the parameters are."""
        for name, parameter in self.named.items():
            parameter.copy_(self.mean[name])

    @torch.no_grad()
    def load(self, tensors: dict[str, Tensor]) -> None:
        """Go on from a mean that was saved."""
        for name, mean in self.mean.items():
            mean.copy_(tensors[name])
