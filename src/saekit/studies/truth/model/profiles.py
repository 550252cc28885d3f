"""Profiles: one number a feature, for means and spreads of magnitudes and for persistence."""

import abc
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

import saekit.studies.truth.model as package
from saekit.core.config import Config, setting
from saekit.core.errors import ConfigError
from saekit.core.registry import Registry
from saekit.studies.truth.model.checks import count


class Profile(Config, abc.ABC):
    """One number for each feature, as a value."""

    @classmethod
    def variant(cls, name: str) -> "type[Config]":
        """Return the class called `name`."""
        return registry.get(name)

    @abc.abstractmethod
    def values(self, n_features: int, generator: torch.Generator) -> Float[Tensor, "n_features"]:
        """Return one number a feature, float64."""


registry = Registry[Profile]("profile", package)


def spread_out(
    profile: Profile | float, n_features: int, generator: torch.Generator
) -> Float[Tensor, "n_features"]:
    """Return the numbers of a profile, float64; a plain number stands for every feature."""
    if isinstance(profile, Profile):
        return profile.values(n_features, generator)
    return torch.full((n_features,), float(profile), dtype=torch.float64)


@registry.register
@dataclass(frozen=True, kw_only=True)
class Linear(Profile):
    """Equal steps from the first feature to the last.

    Args:
        start: of the first feature.
        end: of the last feature.

    Raises:
        ConfigError: an end is not finite.

    Source:
        SAELens 6.29 synthetic data, firing magnitudes `linear`.
    """

    name = "linear"
    start: float
    end: float

    @override
    def values(self, n_features: int, generator: torch.Generator) -> Float[Tensor, "n_features"]:
        return torch.linspace(self.start, self.end, n_features, dtype=torch.float64)


@registry.register
@dataclass(frozen=True, kw_only=True)
class Exponential(Profile):
    """Equal ratios from the first feature to the last: start (end / start)^(i / (n - 1)).

    Args:
        start: of the first feature.
        end: of the last feature.

    Raises:
        ConfigError: an end is not above 0.

    Source:
        SAELens 6.29 synthetic data, firing magnitudes `exponential`.
    """

    name = "exponential"
    start: float = setting(above=0)
    end: float = setting(above=0)

    @override
    def values(self, n_features: int, generator: torch.Generator) -> Float[Tensor, "n_features"]:
        steps = torch.linspace(0, 1, n_features, dtype=torch.float64)
        return self.start * (self.end / self.start) ** steps


@registry.register
@dataclass(frozen=True, kw_only=True)
class FoldedNormal(Profile):
    """Absolute values of normal draws, one a feature: abs(mean + std e) within low..high.

    Args:
        mean: of the normal.
        std: of the normal.
        low: smaller draws become this.
        high: larger draws become this; null for no limit.

    Raises:
        ConfigError: `std` or `low` is below 0, or `high` is below `low`.

    Source:
        SAELens 6.29 synthetic data, firing magnitudes `folded_normal`.
    """

    name = "folded_normal"
    mean: float
    std: float = setting(least=0)
    low: float = setting(0.0, least=0)
    high: float | None = setting(None, least=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.high is not None and not self.high >= self.low:
            raise ConfigError(f"`high` must be at least `low`={self.low}; got {self.high}.")

    @override
    def values(self, n_features: int, generator: torch.Generator) -> Float[Tensor, "n_features"]:
        draws = torch.randn(n_features, generator=generator, dtype=torch.float64)
        return (self.mean + self.std * draws).abs().clamp(self.low, self.high)


@registry.register
@dataclass(frozen=True, kw_only=True)
class GivenProfile(Profile):
    """Numbers given one by one.

    Args:
        entries: one a feature.

    Raises:
        ConfigError: there are more or fewer than features.

    Source:
        The user.
    """

    name = "given"
    entries: tuple[float, ...]

    @override
    def values(self, n_features: int, generator: torch.Generator) -> Float[Tensor, "n_features"]:
        count("entries", self.entries, n_features)
        return torch.tensor(self.entries, dtype=torch.float64)
