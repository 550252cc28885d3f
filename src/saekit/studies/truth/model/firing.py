"""Firing: how often each feature fires."""

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


class Firing(Config, abc.ABC):
    """The share of tokens where each feature fires, as a value."""

    @classmethod
    def variant(cls, name: str) -> "type[Config]":
        """Return the class called `name`."""
        return registry.get(name)

    @abc.abstractmethod
    def probabilities(
        self, n_features: int, generator: torch.Generator
    ) -> Float[Tensor, "n_features"]:
        """Return the share of tokens where each feature fires, float64."""


registry = Registry[Firing]("firing", package)


def _check_range(low: float, high: float) -> None:
    if low > high:
        raise ConfigError(f"`lowest` must not exceed `highest`={high}; got {low}.")


@registry.register
@dataclass(frozen=True, kw_only=True)
class Zipf(Firing):
    """A power law of the rank, stretched between a highest and a lowest rate.

    p_r = lowest + (highest - lowest) (r^-a - n^-a) / (1 - n^-a), r = 1..n: the first feature
    is the most frequent. The stretch makes it a pure power law in shape only.

    Args:
        exponent: a.
        highest: share of tokens of the first feature.
        lowest: share of tokens of the last feature.

    Raises:
        ConfigError: a rate is outside (0, 1], they are out of order, or `exponent` is not
            above 0.

    Source:
        SAELens 6.28 synthetic data, `zipfian_firing_probabilities`.
    """

    name = "zipf"
    exponent: float = setting(1.0, above=0)
    highest: float = setting(0.3, above=0, most=1)
    lowest: float = setting(0.01, above=0, most=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_range(self.lowest, self.highest)

    @override
    def probabilities(
        self, n_features: int, generator: torch.Generator
    ) -> Float[Tensor, "n_features"]:
        power = torch.arange(1, n_features + 1, dtype=torch.float64) ** -self.exponent
        spread = (power[0] - power[-1]).clamp_min(1e-300)  # one feature: the highest rate
        share = (power - power[-1]) / spread if n_features > 1 else torch.ones_like(power)
        return self.lowest + (self.highest - self.lowest) * share


@registry.register
@dataclass(frozen=True, kw_only=True)
class Linear(Firing):
    """Rates falling in equal steps from the first feature to the last.

    Args:
        highest: share of tokens of the first feature.
        lowest: share of tokens of the last feature.

    Raises:
        ConfigError: a rate is outside (0, 1], or they are out of order.

    Source:
        SAELens 6.28 synthetic data, `linear_firing_probabilities`.
    """

    name = "linear"
    highest: float = setting(0.3, above=0, most=1)
    lowest: float = setting(0.01, above=0, most=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_range(self.lowest, self.highest)

    @override
    def probabilities(
        self, n_features: int, generator: torch.Generator
    ) -> Float[Tensor, "n_features"]:
        return torch.linspace(self.highest, self.lowest, n_features, dtype=torch.float64)


@registry.register
@dataclass(frozen=True, kw_only=True)
class Random(Firing):
    """Rates drawn evenly between two, in no order.

    Args:
        highest: upper end, share of tokens.
        lowest: lower end, share of tokens.

    Raises:
        ConfigError: a rate is outside (0, 1], or they are out of order.

    Source:
        SAELens 6.28 synthetic data, `random_firing_probabilities`.
    """

    name = "random"
    highest: float = setting(0.5, above=0, most=1)
    lowest: float = setting(0.01, above=0, most=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_range(self.lowest, self.highest)

    @override
    def probabilities(
        self, n_features: int, generator: torch.Generator
    ) -> Float[Tensor, "n_features"]:
        share = torch.rand(n_features, generator=generator, dtype=torch.float64)
        return self.lowest + (self.highest - self.lowest) * share


@registry.register
@dataclass(frozen=True, kw_only=True)
class Constant(Firing):
    """The same rate for every feature.

    Args:
        rate: share of tokens.

    Raises:
        ConfigError: `rate` is outside (0, 1].

    Source:
        Elhage et al. 2022, Toy Models of Superposition (one minus the sparsity).
    """

    name = "constant"
    rate: float = setting(above=0, most=1)

    @override
    def probabilities(
        self, n_features: int, generator: torch.Generator
    ) -> Float[Tensor, "n_features"]:
        return torch.full((n_features,), self.rate, dtype=torch.float64)


@registry.register
@dataclass(frozen=True, kw_only=True)
class GivenRates(Firing):
    """Rates given one by one.

    Args:
        rates: share of tokens of each feature, all in (0, 1].

    Raises:
        ConfigError: a rate is outside (0, 1], named by its place; or there are more or fewer
            than features.

    Source:
        The user.
    """

    name = "given"
    rates: tuple[float, ...] = setting(above=0, most=1)

    @override
    def probabilities(
        self, n_features: int, generator: torch.Generator
    ) -> Float[Tensor, "n_features"]:
        count("rates", self.rates, n_features)
        return torch.tensor(self.rates, dtype=torch.float64)
