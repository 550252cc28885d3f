"""How often and how strongly each latent is on."""

from typing import Any, ClassVar, final

from torch import Tensor
from typing_extensions import override

from saekit.analysis.columns.base import Columns, Made, registry
from saekit.analysis.latent_stats import LatentStats


@final
@registry.register
class Activity(Columns):
    """Density, and size of activations when on."""

    name: ClassVar[str] = "activity"
    columns: ClassVar[dict[str, tuple[str, str, str]]] = {
        "density": ("density", "share of tokens", "Share of the tokens that count it is on at."),
        "mean": ("mean", "act units", "Its mean activation when on."),
        "max": ("max", "act units", "Its activation of largest size, with its sign."),
        "std": ("std", "act units", "Standard deviation of its activation when on."),
        "count": ("count", "tokens", "Tokens it is on at."),
    }

    @override
    def run(self, made: Made) -> dict[str, Tensor | list[Any]]:
        found = LatentStats().run(made.store).columns
        return {name: found[name] for name in self.columns}
