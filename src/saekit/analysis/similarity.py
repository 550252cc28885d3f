"""Similarity: latents against known features, in the order in which they match best."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saekit.core.errors import ConfigError
from saekit.core.result import Table
from saekit.metrics.matching import cosines, match


class Similarity(NamedTuple):
    """Cosines of latents and features, reordered: what a heat map shows."""

    cosines: Float[Tensor, "n m"]  # rows in the order of `latents`, columns of `features`
    latents: Int[Tensor, "n"]
    features: Int[Tensor, "m"]

    def table(self, name: str = "", *, at_least: float = 0.0) -> Table:
        """Return a row for each latent and feature whose |cosine| is `at_least` so much."""
        rows, columns = (self.cosines.abs() >= at_least).nonzero(as_tuple=True)
        found: dict[str, list[Any]] = {
            "row": rows.tolist(),
            "latent": self.latents[rows].tolist(),
            "feature": self.features[columns].tolist(),
            "cosine": self.cosines[rows, columns].tolist(),
        }
        return Table(columns={"sae": [name] * len(rows)} | found if name else found)


def compare(
    directions: Mapping[str, Float[Tensor, "_n _d"]], features: Float[Tensor, "m d"]
) -> dict[str, Similarity]:
    """Return the similarity of several dictionaries with one truth, features in one order.

    Features that the dictionaries share best come first, by their mean |cosine| over the
    one-to-one matchings; the latents of each dictionary then follow the features they are
    matched to, and those without a partner come last, by their best feature. So the main
    diagonal is the best there is for each dictionary, and places compare across them.

    Args:
        directions: by name, ``[d_sae, d]`` each; widths must be that of the features.
        features: ``[n_features, d]``.

    Raises:
        ConfigError: there is no dictionary.
        ShapeError: widths differ.
        MissingExtraError: scipy is not installed.

    Source:
        SAELens, synthetic plotting. Differs: the order is of the matching, not of each
        latent's best feature, so no feature is shown twice; no rounding.
    """
    if not directions:
        raise ConfigError("`directions` is empty; give at least one SAE to compare.")
    found = {name: cosines(d, features).cpu() for name, d in directions.items()}
    matches = {name: match(cosine) for name, cosine in found.items()}
    held = torch.zeros(len(features), dtype=torch.float64)
    for m in matches.values():
        held[m.features] += m.cosines.abs().double()
    order = held.argsort(descending=True, stable=True)
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order))
    out = {}
    for name, cosine in found.items():
        m, n = matches[name], len(cosine)
        rank = place[cosine.abs().argmax(1)] + len(order)  # of those without a partner
        rank[m.latents] = place[m.features]
        latents = rank.argsort(stable=True)
        assert len(latents) == n
        out[name] = Similarity(cosine[latents][:, order], latents, order)
    return out


def table(found: Mapping[str, Similarity], *, at_least: float = 0.0) -> Table:
    """Return the cosines of all dictionaries: sae, row, latent, feature, cosine."""
    columns: dict[str, list[Any]] = {}
    for name, one in found.items():
        for key, values in one.table(name, at_least=at_least).columns.items():
            columns.setdefault(key, []).extend(values)
    return Table(columns=columns)
