"""Toy: an analysis in one file."""

from dataclasses import dataclass
from typing import ClassVar

from saekit.analysis.base import Analysis, registry
from saekit.core.result import Table


@registry.register
@dataclass(frozen=True, kw_only=True)
class ToyAnalysis(Analysis):
    """How many tokens each latent is on at, in units of some size.

    Args:
        unit: tokens of a unit.
    """

    name: ClassVar[str] = "toy_analysis"
    unit: int = 1

    def run(self, latents):
        counts = [n / self.unit for n in latents.counts.tolist()]
        return Table(columns={"latent": list(range(latents.d_sae)), "units": counts})
