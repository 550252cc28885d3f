"""Matching: the nearest latent of another SAE for each latent of one, by decoder direction."""

import dataclasses
from typing import Any, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saekit.analysis.twins import best_matches
from saekit.core.errors import ConfigError, ShapeError
from saekit.hub.trained import TrainedSAE

THRESHOLDS = (0.5, 0.7, 0.9)
BINS = 50


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class Matched:
    """For each latent of one SAE the latent of another whose direction is nearest.

    Args:
        nearest: latents of the other.
        cosines: of the two directions, -1 to 1.
        alive: which latents have a direction at all; a row of zeros is near nothing.
    """

    nearest: Int[Tensor, "n"]
    cosines: Float[Tensor, "n"]
    alive: Float[Tensor, "n"]

    def share_over(self, cosine: float) -> float:
        """Return the share of latents with a direction whose nearest has at least this cosine."""
        n = float(self.alive.sum())
        return float(((self.cosines >= cosine) * self.alive).sum()) / n if n else 0.0

    def histogram(self, bins: int = BINS) -> dict[str, list[Any]]:
        """Return ``edges`` of cosine from -1 to 1 and ``counts`` of latents."""
        edges = torch.linspace(-1, 1, bins + 1)
        found = torch.histogram(self.cosines[self.alive > 0], edges)
        return {
            "edges": [round(e, 4) for e in edges.tolist()],
            "counts": found.hist.long().tolist(),
        }

    def to_dict(self, top: int = 100) -> dict[str, Any]:
        """Return a JSON-ready record, with the `top` latents that match best."""
        order = self.cosines.argsort(descending=True, stable=True)[:top]
        pairs = zip(
            order.tolist(), self.nearest[order].tolist(), self.cosines[order].tolist(), strict=True
        )
        return {
            "share_over": {str(t): self.share_over(t) for t in THRESHOLDS},
            "pairs": [[one, other, float(f"{c:.4g}")] for one, other, c in pairs],
            "histogram": self.histogram(),
            "n": int(self.alive.sum()),
        }


@torch.no_grad()
def matches(one: TrainedSAE, other: TrainedSAE) -> Matched:
    """Return for each latent of `one` the latent of `other` that writes most alike.

    Of an SAE of several sites a latent's direction is that at all of them together.

    Args:
        one: an SAE.
        other: another, of the same site and model, or it means nothing.

    Raises:
        ShapeError: they predict activations of other widths, or of other numbers of sites.
        ConfigError: they are of different models, as far as their cards say.
    """
    names = [sae.card.model.get("name", "unknown") for sae in (one, other)]
    revisions = [sae.card.model.get("revision") for sae in (one, other)]
    if "unknown" not in names and names[0] != names[1] and revisions[0] != revisions[1]:
        raise ConfigError(
            f"The SAEs are of two models, {names[0]} and {names[1]}: directions in them have "
            f"nothing to do with one another. Compare SAEs of one model."
        )
    unit, to = _rows(one), _rows(other)
    if unit.shape[1] != to.shape[1]:
        raise ShapeError(
            f"The SAEs write {unit.shape[1]} and {to.shape[1]} numbers a token. Compare SAEs of "
            f"one site, or of sites of one width."
        )
    found = best_matches(unit, to)
    alive = (unit.norm(dim=1) > 0).float().cpu()
    return Matched(nearest=found.latent, cosines=found.cosine, alive=alive)


def _rows(sae: TrainedSAE) -> Float[Tensor, "d_sae width"]:
    """Return the direction of each latent at length 1; of several sites one after another."""
    rows = sae.directions.float().cpu()
    flat = rows.movedim(-2, 0).flatten(1)
    return torch.nn.functional.normalize(flat, dim=1)
