"""How far back latents look against how often they are on."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from saekit.core.errors import DataError
from saekit.core.result import Table
from saekit.core.stats.means import LEAST_UNITS, mean_interval
from saekit.core.stats.permutation import permutation_test, said
from saekit.core.stats.ranks import spearman
from saekit.report import style

PERMUTATIONS = 1000
BINS, LEAST = 8, LEAST_UNITS  # at most, and latents of each at least
NAMES = ("mark", "feature_id", "density", "n_events", "n_latents", "mean_H_pos", "low", "high")


def table(found: Mapping[int, tuple[Sequence[float], float]]) -> Table:
    """Return a row a latent, its interval over its events, and a row a bin, over its latents.

    Bins hold equally many latents in the order of density; the mean of a bin is that of its
    latents' means, its density their geometric mean.

    Args:
        found: by latent its entropies, bits, one at least, and its density.

    Raises:
        DataError: no latent has an entropy and a density above 0.
    """
    known = {a: v for a, v in found.items() if len(v[0]) and v[1] > 0}
    if not known:
        raise DataError(f"None of {len(found)} latents has an entropy and a known density.")
    columns: dict[str, list] = {name: [] for name in NAMES}

    def add(*values: object) -> None:
        for column, value in zip(columns.values(), values, strict=True):
            column.append(None if value != value else value)

    order = sorted(known, key=lambda a: (known[a][1], a))
    for latent in order:
        H, density = known[latent]
        mean, low, high = _interval(torch.tensor(H, dtype=torch.float64))
        add("latent", latent, density, len(H), 1, mean, low, high)
    means = torch.tensor(columns["mean_H_pos"], dtype=torch.float64)
    share = torch.tensor(columns["density"], dtype=torch.float64)
    events = torch.tensor(columns["n_events"])
    bins = min(BINS, len(order) // LEAST)
    for part in torch.arange(len(order)).tensor_split(bins) if bins else ():
        middle = float(share[part].log().mean().exp())
        add("bin", None, middle, int(events[part].sum()), len(part), *_interval(means[part]))
    return Table(columns=columns, units={"density": "share of tokens", "mean_H_pos": "bits"})


def draw(found: Mapping[int, tuple[Sequence[float], float]], path: Path, title: str = "") -> None:
    """Draw mean H_pos against density, a point a latent, and the means of bins.

    Args:
        found: by latent its entropies, bits, and its density, the share of tokens it is on at.
        path: of the figure.
        title: put before the population.

    Raises:
        DataError: no latent has an entropy and a density above 0.
        MissingExtraError: matplotlib is not installed.
    """
    drawn = table(found)
    rows = drawn.rows()
    figure, axes = style.new(5.8, 4.2)
    at = axes[0][0]
    latents = [r for r in rows if r["mark"] == "latent"]
    bars = [r for r in latents if r["low"] is not None]
    at.vlines(*([r[k] for r in bars] for k in ("density", "low", "high")), color="0.8", lw=0.7)
    share, mean = ([r[k] for r in latents] for k in ("density", "mean_H_pos"))
    at.plot(share, mean, ".", color=style.COLOURS[0], ms=5, alpha=0.75)
    bins = [r for r in rows if r["mark"] == "bin" and r["low"] is not None]
    if bins:
        x, y = ([r[k] for r in bins] for k in ("density", "mean_H_pos"))
        ends = [
            [r["mean_H_pos"] - r["low"] for r in bins],
            [r["high"] - r["mean_H_pos"] for r in bins],
        ]
        label = f"mean of {min(r['n_latents'] for r in bins)} latents or more"
        at.errorbar(
            x,
            y,
            yerr=ends,
            fmt="D-",
            color=style.COLOURS[1],
            ms=4,
            lw=1.2,
            capsize=2.5,
            label=label,
        )
    at.set_xscale("log")
    at.set(xlabel="share of tokens at which a latent is on", ylabel="mean $H_{pos}$ (bits)")
    at.set_ylim(0, None)
    if bins:
        at.set_ylim(0, 1.18 * at.get_ylim()[1])  # room for the legend
        at.legend(fontsize=7, frameon=False, loc="upper right")
    n_events = sum(r["n_events"] for r in latents)
    said = _said(torch.tensor(share).double(), torch.tensor(mean).double())
    population = f"{len(latents)} latents, {n_events} events{said}"
    at.set_title(f"{title}\n{population}" if title else population, fontsize=8.5)
    lost = len(found) - len(latents)
    notes = "95 % intervals: of latents (grey) over events, of bins over latents; from 8 on"
    notes += f"; {lost} latents without both left out" if lost else ""
    figure.supxlabel(notes, fontsize=6.5, color="0.35")
    style.save(figure, path, drawn)


def _interval(values: Tensor) -> tuple[float, float, float]:
    mean, low, high = (float(v) for v in mean_interval(values, positive=True))
    return mean, low, high


def _said(share: Tensor, mean: Tensor) -> str:
    """Return the rank correlation and its p where there are enough latents to tell."""
    value = spearman(share, mean)
    if len(share) <= 2 or value != value:  # NaN: one is constant
        return ""
    null = permutation_test(
        value,
        lambda order: spearman(share, mean[order]),
        len(share),
        PERMUTATIONS,
        torch.Generator().manual_seed(0),
    )
    return f"; {said(null)}"
