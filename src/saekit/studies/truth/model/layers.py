"""Layers: in which layers of a model each feature can be seen, and how strongly."""

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


class Layers(Config, abc.ABC):
    """The profile of each feature over layers, as a value: x[layer] has act x weight."""

    @property
    @abc.abstractmethod
    def n_layers(self) -> int:
        """Number of layers."""

    @classmethod
    def variant(cls, name: str) -> "type[Config]":
        """Return the class called `name`."""
        return registry.get(name)

    @abc.abstractmethod
    def weights(
        self, n_features: int, generator: torch.Generator
    ) -> Float[Tensor, "n_features n_layers"]:
        """Return the weight of each feature in each layer, float32, 0 where it is not."""


registry = Registry[Layers]("layers", package)


@registry.register
@dataclass(frozen=True, kw_only=True)
class Spans(Layers):
    """Each feature is written at one layer and stays for some: weight 1 there, 0 elsewhere.

    Args:
        count: layers.
        shortest: fewest layers that a feature spans, 1..count.
        longest: most layers, shortest..count; where a feature begins is drawn evenly.

    Raises:
        ConfigError: a number is out of range.

    Source:
        Lawson et al. 2024, arXiv:2409.04185 (what multi-layer SAEs are asked to find).
    """

    name = "spans"
    count: int = setting(least=1)
    shortest: int = setting(1, least=1)
    longest: int = setting(1, least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.shortest <= self.longest <= self.count:
            raise ConfigError(
                f"`shortest` must not exceed `longest`, nor that `count`={self.count}; got "
                f"{self.shortest} and {self.longest}."
            )

    @property
    @override
    def n_layers(self) -> int:
        return self.count

    @override
    def weights(
        self, n_features: int, generator: torch.Generator
    ) -> Float[Tensor, "n_features n_layers"]:
        length = torch.randint(
            self.shortest, self.longest + 1, (n_features, 1), generator=generator
        )
        places = self.count - length + 1
        first = (torch.rand(n_features, 1, generator=generator) * places).long()
        layer = torch.arange(self.count)
        return ((layer >= first) & (layer < first + length)).float()


@registry.register
@dataclass(frozen=True, kw_only=True)
class Bumps(Layers):
    """Each feature is strongest in one layer: exp(-(layer - centre)^2 / (2 width^2)).

    Args:
        count: layers; centres are drawn evenly between the first and the last.
        width: layers.

    Raises:
        ConfigError: a number is out of range.

    Source:
        Lawson et al. 2024, arXiv:2409.04185 (what multi-layer SAEs are asked to find).
    """

    name = "bumps"
    count: int = setting(least=1)
    width: float = setting(1.0, above=0)

    @property
    @override
    def n_layers(self) -> int:
        return self.count

    @override
    def weights(
        self, n_features: int, generator: torch.Generator
    ) -> Float[Tensor, "n_features n_layers"]:
        centre = torch.rand(n_features, 1, generator=generator) * (self.count - 1)
        return torch.exp(-((torch.arange(self.count) - centre) / self.width).square() / 2)


@registry.register
@dataclass(frozen=True, kw_only=True)
class GivenLayers(Layers):
    """Profiles given one by one.

    Args:
        rows: the weights of each feature over the layers.

    Raises:
        ConfigError: rows differ in length, there is none, or a weight is below 0.

    Source:
        The user.
    """

    name = "given"
    rows: tuple[tuple[float, ...], ...] = setting(least=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        for i, row in enumerate(self.rows):
            if not row or len(row) != len(self.rows[0]):
                raise ConfigError(
                    f"`rows[{i}]` must have as many layers as `rows[0]`, "
                    f"{len(self.rows[0])}, and at least 1; got {len(row)}."
                )

    @property
    @override
    def n_layers(self) -> int:
        return len(self.rows[0])

    @override
    def weights(
        self, n_features: int, generator: torch.Generator
    ) -> Float[Tensor, "n_features n_layers"]:
        count("rows", self.rows, n_features)
        return torch.tensor(self.rows, dtype=torch.float32)
