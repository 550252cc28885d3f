"""Matching: how well the directions of a dictionary are those of known features.

Formulas about two dictionaries, not metrics over tokens, so nothing here is registered.
Directions are compared by cosine; a row of length 0 has cosine 0 with everything.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saekit.core.errors import ShapeError
from saekit.metrics.assignment import assign_dense

GRID = 20_001  # points of the integral of `expected_best_cosine`; its error is below 1e-5


class Matches(NamedTuple):
    """Pairs of a one-to-one matching, as many as the smaller dictionary has rows."""

    latents: Int[Tensor, "pairs"]
    features: Int[Tensor, "pairs"]
    cosines: Float[Tensor, "pairs"]  # with their sign


def cosines(
    directions: Float[Tensor, "n d"], features: Float[Tensor, "m width"]
) -> Float[Tensor, "n m"]:
    """Return the cosine of every direction with every feature, in float32.

    Raises:
        ShapeError: widths differ.
    """
    if directions.shape[1] != features.shape[1]:
        raise ShapeError(
            f"Directions are {directions.shape[1]} wide and features {features.shape[1]}. "
            f"Compare an SAE with the truth that it was trained on."
        )
    one, other = (
        torch.nn.functional.normalize(t.detach().float(), dim=1) for t in (directions, features)
    )
    return (one @ other.t().to(one.device)).clamp_(-1, 1)


def match(cosine: Float[Tensor, "n m"]) -> Matches:
    """Return the one-to-one matching of rows and columns with the largest sum of |cosine|.

    Signs are left out, since a latent and its opposite span one direction. Exact; of
    n rows and m columns it takes time of order min(n, m)^2 * max(n, m).

    Raises:
        MissingExtraError: scipy is not installed.

    Source:
        Kuhn 1955, Naval Research Logistics 2 ("Hungarian"); Crouse 2016, IEEE Transactions on
        Aerospace and Electronic Systems 52(4) (as scipy has it).
    """
    found = assign_dense(cosine.abs())
    rows, columns = found.rows, found.columns
    return Matches(rows, columns, cosine.cpu()[rows, columns])


def mcc(cosine: Float[Tensor, "n m"]) -> float:
    r"""Mean correlation coefficient: the mean :math:`|\cos|` of the best one-to-one matching.

    .. math:: \frac{1}{\min(n, m)} \max_\pi \sum_i |\cos(d_i, f_{\pi(i)})|

    1 where every direction is a feature of its own (or every feature a direction), at least
    0; invariant to order and sign of either dictionary. What a random dictionary gets is
    not 0: see `expected_best_cosine` and `chance_mcc`.

    Source:
        Hyvarinen and Morioka 2016, arXiv:1605.06336 (MCC); SAELens, synthetic evals
        (directions in place of activations). Differs: nothing known.
    """
    return float(match(cosine).cosines.double().abs().mean())


def expected_best_cosine(d: int, m: int) -> float:
    r"""Return the expected largest :math:`|\cos|` of a random direction with m random ones.

    .. math:: \int_0^1 1 - I_{t^2}(\tfrac12, \tfrac{d-1}{2})^m \, dt

    Exact for directions drawn evenly from the sphere in d dimensions. A matching has to
    share, so the expected `mcc` of a random dictionary is at most this, and close to it
    where there are many more features than latents.

    Args:
        d: width, at least 2.
        m: directions to choose from, at least 1.
    """
    # The density of cos is proportional to (1 - t^2)^((d - 3) / 2); with t = sin(angle) it is
    # cos(angle)^(d - 2), smooth for every d.
    angle = torch.linspace(0, math.pi / 2, GRID, dtype=torch.float64)
    below = torch.cumulative_trapezoid(angle.cos().pow(d - 2), angle)
    below = torch.cat([below.new_zeros(1), below / below[-1]])
    return float(torch.trapezoid((1 - below.pow(m)) * angle.cos(), angle))


def chance_mcc(
    features: Float[Tensor, "m d"], n: int, generator: torch.Generator, draws: int = 8
) -> Float[Tensor, "draws"]:
    """Return the MCC of `draws` dictionaries of n random directions with these features."""
    found = []
    for _ in range(draws):
        drawn = torch.randn(n, features.shape[1], generator=generator)
        found.append(mcc(cosines(drawn, features.cpu())))
    return torch.tensor(found, dtype=torch.float64)
