"""How often and how strongly each latent is on."""

from dataclasses import dataclass
from typing import ClassVar

from typing_extensions import override

from saekit.activations.latents import LatentStore
from saekit.analysis.base import Analysis, registry
from saekit.core.result import Table


@registry.register
@dataclass(frozen=True, kw_only=True)
class LatentStats(Analysis):
    """Density, and mean, standard deviation and maximum of each latent's activation when on.

    density = count / n_tokens;  mean = sum / count;  std = sqrt(sum of squares / count - mean^2)

    Over the tokens that the token rule kept. Where activations may be negative, the mean is that
    of signed ones, and the maximum is the one of largest size, with its sign. A latent that is
    never on has density 0 and no mean, deviation or maximum.
    """

    name: ClassVar[str] = "latent_stats"

    @override
    def run(self, latents: LatentStore) -> Table:
        counts = latents.counts.double()
        mean = latents.sums / counts  # 0 / 0 is nan: an empty cell
        std = (latents.squares / counts - mean * mean).clamp(min=0).sqrt()
        maxima = latents.maxima.double().where(counts > 0, float("nan"))
        return Table(
            columns={
                "latent": list(range(latents.d_sae)),
                "density": (counts / latents.n_tokens).tolist(),
                "mean": mean.tolist(),
                "max": maxima.tolist(),
                "std": std.tolist(),
                "count": latents.counts.tolist(),
            },
            units={
                "density": "share of tokens",
                "mean": "act units",
                "max": "act units",
                "std": "act units",
                "count": "tokens",
            },
        )
