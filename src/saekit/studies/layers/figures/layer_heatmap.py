"""Layer heatmap: P(layer | latent), a column a latent, those of late layers first."""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from saekit.core.result import Table
from saekit.report import style
from saekit.studies.layers.distributions import Distribution, by_mean_layer


def draw(
    found: Distribution,
    sites: Sequence[str],
    path: Path,
    *,
    latents: Sequence[int] | None = None,
    title: str = "",
    population: str = "",
) -> None:
    """Draw a distribution over layers; latents that were never active are left out.

    Args:
        found: of all latents.
        sites: the layers, as labels.
        path: ends in a suffix of a figure.
        latents: numbers of the columns of `found`, where these are not all latents.
        title: of the figure.
        population: what `n` counts, for the label.

    Raises:
        ConfigError: `path` has another suffix than those of a figure.
        MissingExtraError: matplotlib is not installed.
    """
    order = by_mean_layer(found)
    p = found.p[:, order]
    figure, axes = style.new(7.2, 1.4 + 0.09 * len(sites))
    at = axes[0][0]
    image = at.imshow(
        p.numpy(),
        cmap="magma_r",
        aspect="auto",
        interpolation="nearest",
        vmin=0,
        vmax=max(float(p.max()), 1e-9) if p.numel() else 1,
    )
    at.set(
        title=title,
        ylabel="layer",
        xlabel=f"latents by mean layer (n = {len(order):,} latents{population})",
    )
    _label(at, sites)
    figure.colorbar(image, ax=at, label="P(layer | latent)", pad=0.01)
    style.save(figure, path, table(p, order, sites, latents))


def table(
    p: Float[Tensor, "layers m"],
    order: Tensor,
    sites: Sequence[str],
    latents: Sequence[int] | None = None,
) -> Table:
    """Return the cells above 0, one a row: rank (from the left), latent, site, p."""
    place, layer = (p.t() > 0).nonzero(as_tuple=True)
    number = order if latents is None else torch.tensor(latents)[order]
    return Table(
        columns={
            "rank": place.tolist(),
            "latent": number[place].tolist(),
            "site": [sites[i] for i in layer.tolist()],
            "p": p[layer, place].tolist(),
        }
    )


def _label(at: object, sites: Sequence[str]) -> None:
    every = max(1, len(sites) // 10)
    places = list(range(0, len(sites), every))
    at.set_yticks(places, [style.layer_label(sites[i]) for i in places])  # pyright: ignore
