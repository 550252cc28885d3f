"""Magnitudes: how strongly a feature fires where it does."""

import abc
import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

import saekit.studies.truth.model as package
from saekit.core.config import Config, setting
from saekit.core.errors import ConfigError
from saekit.core.registry import Registry
from saekit.studies.truth.model.profiles import Profile, spread_out


class Magnitudes(Config, abc.ABC):
    """The distribution of a firing feature's activation, as a value.

    `mean` and `std` are parameters, one number a feature; each variant says of what.
    """

    mean: Profile | float
    std: Profile | float

    @classmethod
    def variant(cls, name: str) -> "type[Config]":
        """Return the class called `name`."""
        return registry.get(name)

    def parameters(
        self, n_features: int, generator: torch.Generator
    ) -> tuple[Float[Tensor, "n_features"], Float[Tensor, "n_features"]]:
        """Return `mean` and `std` of every feature, float64, act units.

        Raises:
            ConfigError: one is negative or not finite, or a mean of 0 cannot be: named by its
                place.
        """
        pair = []
        for name, least in (("mean", self.least_mean), ("std", 0.0)):
            found = spread_out(getattr(self, name, 0.0), n_features, generator)
            wrong = ~(found.isfinite() & (found >= least))
            if wrong.any():
                i = int(wrong.nonzero()[0])
                raise ConfigError(
                    f"`{name}[{i}]` of magnitudes `{self.name}` must be at least {least}; "
                    f"got {found[i].item()}."
                )
            pair.append(found)
        return pair[0], pair[1]

    @property
    def least_mean(self) -> float:
        """Smallest mean that makes sense."""
        return 0.0

    @abc.abstractmethod
    def draw(
        self, mean: Float[Tensor, "m"], std: Float[Tensor, "m"], generator: torch.Generator
    ) -> Float[Tensor, "m"]:
        """Return one magnitude for each entry, at least 0, float32, act units."""

    def averages(
        self, mean: Float[Tensor, "m"], std: Float[Tensor, "m"]
    ) -> tuple[Float[Tensor, "m"], Float[Tensor, "m"]]:
        """Return the expected magnitude and the share of draws that are above 0."""
        return mean, torch.ones_like(mean)

    def usual(self, mean: Float[Tensor, "m"], std: Float[Tensor, "m"]) -> Float[Tensor, "m"]:
        """Return what a parent's activation is divided by where it scales its children."""
        return self.averages(mean, std)[0]


registry = Registry[Magnitudes]("magnitudes", package)


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(len(like), generator=generator, device=like.device, dtype=torch.float32)


def _density(z: Tensor) -> Tensor:
    return torch.exp(-z * z / 2) / math.sqrt(2 * math.pi)


@registry.register
@dataclass(frozen=True, kw_only=True)
class Constant(Magnitudes):
    """The same magnitude at every firing: mean.

    Args:
        mean: act units.

    Source:
        Elhage et al. 2022, Toy Models of Superposition.
    """

    name = "constant"
    std = 0.0
    mean: Profile | float = setting(1.0, least=0)

    @override
    def draw(
        self, mean: Float[Tensor, "m"], std: Float[Tensor, "m"], generator: torch.Generator
    ) -> Float[Tensor, "m"]:
        return mean.float()


@registry.register
@dataclass(frozen=True, kw_only=True)
class HalfNormal(Magnitudes):
    """Absolute values of normals around 0: std abs(e).

    Args:
        std: of the normal before folding, act units.

    Source:
        The folded normal at mean 0.
    """

    name = "half_normal"
    mean = 0.0
    std: Profile | float = setting(1.0, least=0)

    @override
    def draw(
        self, mean: Float[Tensor, "m"], std: Float[Tensor, "m"], generator: torch.Generator
    ) -> Float[Tensor, "m"]:
        return std.float() * _normal(std, generator).abs_()

    @override
    def averages(
        self, mean: Float[Tensor, "m"], std: Float[Tensor, "m"]
    ) -> tuple[Float[Tensor, "m"], Float[Tensor, "m"]]:
        return std * math.sqrt(2 / math.pi), torch.ones_like(std)


@registry.register
@dataclass(frozen=True, kw_only=True)
class FoldedNormal(Magnitudes):
    """Absolute values of normals: abs(mean + std e).

    Args:
        mean: of the normal before folding, act units.
        std: of the normal before folding, act units.

    Source:
        Leone, Nelson & Nottingham 1961, Technometrics 3(4).
    """

    name = "folded_normal"
    mean: Profile | float = setting(1.0, least=0)
    std: Profile | float = setting(0.5, least=0)

    @override
    def draw(
        self, mean: Float[Tensor, "m"], std: Float[Tensor, "m"], generator: torch.Generator
    ) -> Float[Tensor, "m"]:
        return torch.addcmul(mean.float(), std.float(), _normal(std, generator)).abs_()

    @override
    def averages(
        self, mean: Float[Tensor, "m"], std: Float[Tensor, "m"]
    ) -> tuple[Float[Tensor, "m"], Float[Tensor, "m"]]:
        z = mean / std.clamp_min(1e-300)
        return 2 * std * _density(z) + mean * torch.erf(z / math.sqrt(2)), torch.ones_like(mean)


@registry.register
@dataclass(frozen=True, kw_only=True)
class ReluNormal(Magnitudes):
    """Rectified normals: relu(mean + std e). A firing may be rectified to 0, which is off.

    The share of tokens where a feature is on is then its probability x Phi(mean / std).

    Args:
        mean: of the normal before rectifying, act units.
        std: of the normal before rectifying, act units.

    Source:
        SAELens 6.28 synthetic data, `ActivationGenerator`.
    """

    name = "relu_normal"
    mean: Profile | float = 1.0
    std: Profile | float = setting(0.0, least=0)

    @override
    def draw(
        self, mean: Float[Tensor, "m"], std: Float[Tensor, "m"], generator: torch.Generator
    ) -> Float[Tensor, "m"]:
        return torch.addcmul(mean.float(), std.float(), _normal(std, generator)).relu_()

    @override
    def averages(
        self, mean: Float[Tensor, "m"], std: Float[Tensor, "m"]
    ) -> tuple[Float[Tensor, "m"], Float[Tensor, "m"]]:
        z = mean / std.clamp_min(1e-300)
        share = torch.special.ndtr(z)
        return mean * share + std * _density(z), share

    @override
    def usual(self, mean: Float[Tensor, "m"], std: Float[Tensor, "m"]) -> Float[Tensor, "m"]:
        return mean  # before rectifying, as SAELens divides, so that its files sample alike


@registry.register
@dataclass(frozen=True, kw_only=True)
class LogNormal(Magnitudes):
    """Exponentials of normals, by their own mean and standard deviation.

    exp(m + s e) with s^2 = ln(1 + std^2 / mean^2) and m = ln(mean) - s^2 / 2.

    Args:
        mean: of the magnitude itself, act units.
        std: of the magnitude itself, act units.

    Source:
        The method of moments for the log-normal distribution.
    """

    name = "log_normal"
    mean: Profile | float = setting(1.0, above=0)
    std: Profile | float = setting(0.5, least=0)

    @property
    @override
    def least_mean(self) -> float:
        return 1e-30

    @override
    def draw(
        self, mean: Float[Tensor, "m"], std: Float[Tensor, "m"], generator: torch.Generator
    ) -> Float[Tensor, "m"]:
        square = torch.log1p((std / mean) ** 2).float()
        centre = mean.float().log() - square / 2
        return torch.addcmul(centre, square.sqrt(), _normal(std, generator)).exp_()
