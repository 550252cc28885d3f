"""Dictionaries: the directions of the features."""

import abc
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

import saekit.studies.truth.model as package
from saekit.core.config import Config
from saekit.core.errors import ConfigError
from saekit.core.registry import Registry


class Dictionary(Config, abc.ABC):
    """The unit directions of the features, as a value."""

    @classmethod
    def variant(cls, name: str) -> "type[Config]":
        """Return the class called `name`."""
        return registry.get(name)

    @abc.abstractmethod
    def directions(
        self, n_features: int, d_model: int, generator: torch.Generator
    ) -> Float[Tensor, "n_features d_model"]:
        """Return unit rows, float32.

        Raises:
            ConfigError: so many directions cannot be had in so many dimensions.
        """


registry = Registry[Dictionary]("dictionary", package)


def unit_rows(rows: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Return the rows divided by their lengths; a zero row stays zero."""
    return rows / rows.norm(dim=-1, keepdim=True).clamp_min(1e-30)


@registry.register
@dataclass(frozen=True, kw_only=True)
class Random(Dictionary):
    """Independent random directions, evenly spread over the sphere.

    Source:
        Muller 1959, Communications of the ACM 2(4): normalised Gaussians.
    """

    name = "random"

    @override
    def directions(
        self, n_features: int, d_model: int, generator: torch.Generator
    ) -> Float[Tensor, "n_features d_model"]:
        return unit_rows(torch.randn(n_features, d_model, generator=generator))


@registry.register
@dataclass(frozen=True, kw_only=True)
class Orthogonal(Dictionary):
    """Directions at right angles to each other, turned at random.

    Raises:
        ConfigError: there are more features than dimensions (on `directions`).

    Source:
        Mezzadri 2007, Notices of the AMS 54(5): QR of a Gaussian with the signs of R.
    """

    name = "orthogonal"

    @override
    def directions(
        self, n_features: int, d_model: int, generator: torch.Generator
    ) -> Float[Tensor, "n_features d_model"]:
        if n_features > d_model:
            raise ConfigError(
                f"`dictionary` `orthogonal` holds at most `d_model`={d_model} features; got "
                f"`n_features`={n_features}. Use `spread`, or fewer features."
            )
        draws = torch.randn(d_model, n_features, generator=generator, dtype=torch.float64)
        q, r = torch.linalg.qr(draws)
        return (q * r.diagonal().sign()).T.float().contiguous()


@registry.register
@dataclass(frozen=True, kw_only=True)
class GivenDirections(Dictionary):
    """Directions given one by one; rows are scaled to length 1.

    Args:
        rows: one direction a feature; null where they are handed to `TruthConfig.build` as a
            tensor.

    Raises:
        ConfigError: the shape is not [n_features, d_model] or a row is zero (on `directions`).

    Source:
        The user.
    """

    name = "given"
    rows: tuple[tuple[float, ...], ...] | None = None

    @override
    def directions(
        self, n_features: int, d_model: int, generator: torch.Generator
    ) -> Float[Tensor, "n_features d_model"]:
        if self.rows is None:
            raise ConfigError(
                "`dictionary` `given` has no `rows`; give them, or call `build(features=...)`."
            )
        for i, row in enumerate(self.rows):
            if len(row) != d_model:
                raise ConfigError(
                    f"`rows[{i}]` must have `d_model`={d_model} entries; got {len(row)}."
                )
        return checked(torch.tensor(self.rows), n_features, d_model)


def checked(rows: Tensor, n_features: int, d_model: int) -> Float[Tensor, "n_features d_model"]:
    """Return directions from outside as unit rows, float32.

    Raises:
        ConfigError: the shape is not [n_features, d_model], or a row is zero or not finite.
    """
    if tuple(rows.shape) != (n_features, d_model):
        raise ConfigError(
            f"`features` must be [{n_features}, {d_model}] (features, d_model); got "
            f"{list(rows.shape)}."
        )
    rows = rows.double()
    wrong = ~(rows.isfinite().all(-1) & (rows.norm(dim=-1) > 0))
    if wrong.any():
        i = int(wrong.nonzero()[0])
        raise ConfigError(f"`features[{i}]` must be finite and not zero; got {rows[i].tolist()}.")
    unit = unit_rows(rows)
    # rows that are unit already keep their bits
    return torch.where((rows.norm(dim=-1) - 1).abs()[:, None] < 1e-6, rows, unit).float()
