"""Ranks, and correlations of numbers and of their ranks."""

import torch
from jaxtyping import Float
from torch import Tensor


def ranks(x: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Return the ranks from 1 along the last dimension, float64; equal numbers share their mean."""
    if x.ndim > 1:
        return torch.stack([ranks(row) for row in x.reshape(-1, x.shape[-1])]).reshape(x.shape)
    values, where, counts = x.unique(return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    return (last - (counts.double() - 1) / 2)[where] if len(values) else x.double()


def pearson(x: Float[Tensor, "*n"], y: Float[Tensor, "*n"]) -> float:
    """Return the correlation; NaN where either is constant."""
    x, y = (v.double() - v.double().mean() for v in (x, y))
    return float((x * y).sum() / (x.square().sum() * y.square().sum()).sqrt())


def spearman(x: Float[Tensor, "*n"], y: Float[Tensor, "*n"]) -> float:
    """Return the correlation of the ranks; NaN where either is constant.

    Source:
        Spearman 1904, Am. J. Psychol. 15.
    """
    return pearson(ranks(x), ranks(y))
