"""The contract of an analysis: a LatentStore goes in, tables come out."""

import abc
from dataclasses import dataclass

import saekit.analysis as package
from saekit.activations.latents import LatentStore
from saekit.core.config import Config
from saekit.core.registry import Registry
from saekit.core.result import Table


@dataclass(frozen=True, kw_only=True)
class Analysis(Config, abc.ABC):
    """A question about every latent of a store."""

    @classmethod
    def variant(cls, name: str) -> "type[Config]":
        """Return the analysis class called `name`."""
        return registry.get(name)

    @abc.abstractmethod
    def run(self, latents: LatentStore) -> Table:
        """Return one row a latent (or an event); columns with units."""


registry = Registry[Analysis]("analysis", package, of_studies="analyses")
