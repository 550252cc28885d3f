"""Spread dictionaries: directions as far from each other as they can be driven."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from saekit.core.config import setting
from saekit.studies.truth.model.dictionaries import Dictionary, Orthogonal, registry, unit_rows


def largest_cos(rows: Float[Tensor, "n d"], chunk_rows: int = 1024) -> float:
    """Return the largest |cos| between two of some unit rows, in chunks of rows."""
    most = 0.0
    for first in range(0, len(rows), chunk_rows):
        most = max(most, float(_cosines(rows, first, chunk_rows).abs().max()))
    return most


def _cosines(rows: Tensor, first: int, chunk_rows: int) -> Float[Tensor, "c n"]:
    """Return cosines of a chunk with all rows, 0 with themselves."""
    cos = rows[first : first + chunk_rows] @ rows.T
    at = torch.arange(len(cos), device=rows.device)
    cos[at, at + first] = 0
    return cos


@registry.register
@dataclass(frozen=True, kw_only=True)
class Spread(Dictionary):
    """Random directions pushed apart: first the mean square of cos, then the largest |cos|.

    Minimises sum |cos|^p over the unit rows by Adam along the sphere: p = 2 for `steps`, then
    p = 4, 8, ... `most_power`, each for `sharpen_steps`, with steps that shrink as p grows.
    The first stage reaches the Welch bound in the root mean square only and leaves a few close
    pairs; the second drives these apart. Memory is `chunk_rows` x n_features. No more features
    than dimensions are orthogonal outright.

    Args:
        steps: of the first stage.
        sharpen_steps: of each power of the second stage; 0 leaves it out.
        most_power: the last power.
        lr: of Adam; radians at first.
        chunk_rows: rows compared at a time.

    Raises:
        ConfigError: a number is out of range.

    Source:
        SAELens 6.29 synthetic data, `orthogonalize_embeddings`, for the first stage.
        Differs: rows stay on the sphere; the second stage (p-frame potentials of growing p).
    """

    name = "spread"
    steps: int = setting(200, least=0)
    sharpen_steps: int = setting(150, least=0)
    most_power: int = setting(512, least=4)
    lr: float = setting(0.01, above=0)
    chunk_rows: int = setting(1024, least=1)

    @override
    def directions(
        self, n_features: int, d_model: int, generator: torch.Generator
    ) -> Float[Tensor, "n_features d_model"]:
        if n_features <= d_model:
            return Orthogonal().directions(n_features, d_model, generator)
        rows = torch.randn(n_features, d_model, generator=generator)
        small = rows.numel() * n_features < 2**26
        rows = unit_rows(rows.double() if small else rows)
        rows = self._pushed(rows, 2, self.steps, self.lr)
        power = 4
        best, least = rows, largest_cos(rows, self.chunk_rows)
        while self.sharpen_steps and power <= self.most_power and n_features > 1:
            rows = self._pushed(best, power, self.sharpen_steps, self.lr * 4 / power)
            reached = largest_cos(rows, self.chunk_rows)
            if reached < least:
                best, least = rows, reached
            power *= 2
        return best.float()

    def _pushed(
        self, rows: Float[Tensor, "n d"], power: int, steps: int, lr: float
    ) -> Float[Tensor, "n d"]:
        """Return the rows after some steps of Adam on sum |cos|^power, lr falling to 0."""
        rows = rows.clone()
        first, second = torch.zeros_like(rows), torch.zeros_like(rows)
        most = largest_cos(rows, self.chunk_rows)
        for step in range(steps):
            grad, most = self._gradient(rows, power, most)
            first.lerp_(grad, 0.1)
            second.lerp_(grad.square(), 0.01)
            size = lr * (1 - step / steps)
            scale = (second / (1 - 0.99 ** (step + 1))).sqrt_().add_(1e-12)
            rows = unit_rows(rows - size / (1 - 0.9 ** (step + 1)) * first / scale)
        return rows

    def _gradient(
        self, rows: Float[Tensor, "n d"], power: int, scale: float
    ) -> tuple[Float[Tensor, "n d"], float]:
        """Return the gradient along the sphere, up to a factor, and the largest |cos|.

        Powers are of |cos| over `scale`, a recent largest, so that they do not underflow.
        """
        grad, most = torch.empty_like(rows), 0.0
        for at in range(0, len(rows), self.chunk_rows):
            cos = _cosines(rows, at, self.chunk_rows)
            if power > 2:
                cos /= scale
                size = cos.abs()
                most = max(most, float(size.max()) * scale)
                cos *= size.pow_(power - 2)
            grad[at : at + self.chunk_rows] = cos @ rows
        return grad - (grad * rows).sum(-1, keepdim=True) * rows, most or scale
