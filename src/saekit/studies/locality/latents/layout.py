"""Latents in the plane by their directions: principal components, or t-SNE of 1 - |cos|."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from saekit.core.errors import ConfigError
from saekit.core.seeds import generator
from saekit.studies.locality.latents.geometry import cosines

Way = Literal["pca", "tsne"]
STEPS, EARLY_STEPS, EARLY_FACTOR = 1000, 250, 12.0


def layout(
    directions: Float[Tensor, "n d"], way: Way, *, perplexity: float = 10.0, seed: int = 0
) -> Float[Tensor, "n 2"]:
    """Return a place in the plane for each direction.

    Args:
        directions: of the decoder.
        way: ``pca``: the first two principal components of the unit directions; ``tsne``: an
            embedding of the distances 1 - |cos|, so that opposite directions are close.
        perplexity: of t-SNE, effective number of neighbours, above 1 and below n.
        seed: of where t-SNE begins.

    Raises:
        ConfigError: fewer than 3 directions, or a perplexity that n does not allow.
    """
    if len(directions) < 3:
        raise ConfigError(f"A layout needs 3 latents or more; got {len(directions)}.")
    if way == "pca":
        return principal(functional.normalize(directions.detach().double().cpu(), dim=-1))
    return tsne(1 - cosines(directions).abs(), perplexity=perplexity, seed=seed)


def principal(x: Float[Tensor, "n d"]) -> Float[Tensor, "n 2"]:
    """Return scores on the two first principal components; signs so that the largest is > 0."""
    _, _, axes = torch.linalg.svd(x - x.mean(0), full_matrices=False)
    axes = axes[:2]
    sign = axes.gather(1, axes.abs().argmax(1, keepdim=True)).sign()
    found = (x - x.mean(0)) @ (axes * sign).T
    return functional.pad(found, (0, 2 - found.shape[1]))


def tsne(
    distance: Float[Tensor, "n n"], *, perplexity: float, seed: int = 0
) -> Float[Tensor, "n 2"]:
    """Return the t-SNE embedding of a matrix of distances, by the exact gradient.

    p(j|i) ~ exp(-d_ij^2 b_i), b_i such that the entropy of p(.|i) is log2 of the perplexity;
    P the symmetric mean; q_ij ~ 1 / (1 + |y_i - y_j|^2); minimises KL(P || Q) by gradient
    descent with momentum and per-entry gains. Time and memory grow as n^2: for hundreds of
    latents, up to a few thousand.

    Raises:
        ConfigError: the perplexity is not between 1 and n - 1.

    Source:
        van der Maaten and Hinton 2008, "Visualizing Data using t-SNE"; learning rate n / 12,
        at least 50, as Belkina et al. 2019.
    """
    n = len(distance)
    if not 1 < perplexity < n - 1:
        raise ConfigError(
            f"`perplexity` must lie between 1 and {n - 1} for {n} latents; got {perplexity}."
        )
    P = affinities(distance.double(), perplexity)
    y = 1e-4 * torch.randn(n, 2, generator=generator(seed, "tsne"), dtype=torch.float64)
    speed, gains = torch.zeros_like(y), torch.ones_like(y)
    rate = max(n / EARLY_FACTOR, 50.0)
    for step in range(STEPS):
        early = step < EARLY_STEPS
        near = 1 / (1 + torch.cdist(y, y).square())
        near.fill_diagonal_(0.0)
        pull = (P * (EARLY_FACTOR if early else 1.0) - near / near.sum()) * near
        slope = 4 * (pull.sum(1, keepdim=True) * y - pull @ y)
        same = (slope > 0) == (speed > 0)
        gains = torch.where(same, gains * 0.8, gains + 0.2).clamp(min=0.01)
        speed = (0.5 if early else 0.8) * speed - rate * gains * slope
        y = y + speed
        y = y - y.mean(0)
    return y


def affinities(distance: Float[Tensor, "n n"], perplexity: float) -> Float[Tensor, "n n"]:
    """Return P of t-SNE: symmetric, zero on the diagonal, sum 1."""
    n = len(distance)
    square = distance.square()
    square = square - square.clone().fill_diagonal_(torch.inf).amin(1, keepdim=True)
    low, high = torch.zeros(n, 1).double(), torch.full((n, 1), torch.inf).double()
    width = torch.ones(n, 1, dtype=torch.float64)
    target = torch.tensor(perplexity, dtype=torch.float64).log()
    off = ~torch.eye(n, dtype=torch.bool)
    p = torch.zeros_like(distance)
    for _ in range(100):
        p = torch.exp(-square * width) * off
        p = p / p.sum(1, keepdim=True)
        entropy = -torch.special.xlogy(p, p).sum(1, keepdim=True)
        wide = entropy > target
        low, high = torch.where(wide, width, low), torch.where(wide, high, width)
        width = torch.where(high.isinf(), width * 2, (low + high) / 2)
    return (p + p.T) / (2 * n)
