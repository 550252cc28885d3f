"""How many latents are on how often: a histogram of densities on logarithmic axes."""

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from saekit.core.errors import DataError
from saekit.core.result import Table
from saekit.core.stats.means import median_interval
from saekit.report import style

BINS = 200
MARGIN = 1.1  # times; about a density that all latents share


def table(density: Float[Tensor, "d_sae"]) -> Table:
    """Return a row a bin, one for the latents that are never on, and one for the median.

    Bins are equally wide in the logarithm, from the least density above 0 to the largest; the
    last holds its upper end. The median is that of latents that are on at all.

    Args:
        density: share of tokens at which each latent is on.

    Raises:
        DataError: no latent is ever on.
    """
    alive = density[density > 0].double()
    if not len(alive):
        raise DataError(f"None of {len(density)} latents is ever on.")
    low, high = float(alive.min()), float(alive.max())
    if low == high:
        low, high = low / MARGIN, high * MARGIN
    edges = torch.linspace(0, 1, BINS + 1, dtype=torch.float64)
    edges = low * (high / low) ** edges
    edges[-1] = high
    which = torch.bucketize(alive, edges[1:-1], right=True)
    counts = torch.bincount(which, minlength=BINS).tolist()
    middle, least, most = median_interval(alive)
    n = len(alive)
    return Table(
        columns={
            "mark": [*["bin"] * BINS, "never on", "median"],
            "density": [*((edges[1:] * edges[:-1]).sqrt()).tolist(), 0.0, middle],
            "low": [*edges[:-1].tolist(), None, None if least != least else least],
            "high": [*edges[1:].tolist(), None, None if most != most else most],
            "latents": [*counts, len(density) - n, n],
        },
        units={"density": "share of tokens", "low": "share of tokens", "high": "share of tokens"},
    )


def draw(density: Float[Tensor, "d_sae"], path: Path, n_tokens: int, threshold: float) -> None:
    """Draw the histogram, the median of living latents and its interval.

    Args:
        density: share of tokens at which each latent is on.
        path: of the figure.
        n_tokens: of the text.
        threshold: activations above it are on, act units.

    Raises:
        DataError: no latent is ever on.
        MissingExtraError: matplotlib is not installed.
    """
    drawn = table(density)
    c = drawn.columns
    figure, axes = style.new(6.4, 3.8)
    at = axes[0][0]
    edges = [*c["low"][:BINS], c["high"][BINS - 1]]
    at.stairs(c["latents"][:BINS], edges, fill=True, color=style.COLOURS[5])
    _median(at, *(c[k][-1] for k in ("density", "low", "high")))
    at.set_xscale("log")
    at.set_yscale("log")
    at.set_ylim(0.6, 1.6 * max(c["latents"][:BINS]))
    at.yaxis.set_major_formatter("{x:g}")
    at.set(xlabel="share of tokens at which a latent is on", ylabel="latents in a bin")
    never = c["latents"][BINS]
    at.set_title(
        f"n = {len(density):,} latents, {never:,} never on (not drawn); {n_tokens:,} tokens, "
        f"on above {threshold:g}",
        fontsize=8.5,
    )
    figure.supxlabel(
        f"{BINS} bins, equally wide in the logarithm; a latent is on at a whole number of tokens, "
        f"so rare ones lie apart",
        fontsize=6.5,
        color="0.35",
    )
    at.legend(fontsize=7, frameon=False)
    style.save(figure, path, drawn)


def _median(at: Any, middle: float, low: float | None, high: float | None) -> None:
    label = f"median of latents that are on: {middle:.3g}"
    if low is not None and high is not None:
        label += f"\n95 % interval [{low:.3g}, {high:.3g}]"
        at.axvspan(low, high, color=style.COLOURS[1], alpha=0.45, lw=0)
    at.axvline(middle, color=style.COLOURS[1], lw=0.9, label=label)
