"""Geometry: decoder cosines against differences of H_pos, and what chance gives."""

from pathlib import Path

import torch

from saekit.core.stats import summaries
from saekit.core.stats.permutation import said
from saekit.report import style
from saekit.studies.locality.latents.geometry import GeometryResult

BINS = 12


def draw(found: GeometryResult, path: Path, title: str = "") -> None:
    """Draw pairs, the null of their correlation, and latents against their neighbours.

    The CSV holds the pairs.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    pairs = found.pairwise()
    like = torch.tensor(pairs.columns["abs_cosine"], dtype=torch.float64)
    gap = torch.tensor(pairs.columns["dH"], dtype=torch.float64)
    figure, axes = style.new(10.5, 3.5, columns=3)
    left, middle, right = axes[0]
    left.plot(like, gap, ".", ms=1.5, color=style.COLOURS[0], alpha=0.25, rasterized=True)
    left.plot(
        *summaries.equal_bins(like, gap, BINS),
        "o-",
        color=style.COLOURS[1],
        ms=3.5,
        lw=1,
        label="mean of equal bins",
    )
    left.set(xlabel="|cosine| of decoder directions", ylabel="|difference of $H_{pos}$| (bits)")
    left.set_title(f"{len(like)} pairs of {len(found.latents)} latents", fontsize=8.5)
    left.legend(fontsize=7, frameon=False)

    null = found.size.spearman
    middle.hist(null.draws, bins=30, color=style.COLOURS[5], alpha=0.6)
    if null.draws:
        middle.axvline(null.value, color=style.COLOURS[1], lw=1.6)
    for q in ("0.025", "0.975") if null.draws else ():
        middle.axvline(null.quantiles[q], color="0.4", ls="--", lw=0.9)
    middle.set(xlabel="Spearman of |cosine| with |dH|", ylabel="permutations of latents")
    middle.set_title(f"{said(null)} ({null.n} permutations)", fontsize=8.5)

    near = found.neighbours
    right.plot(found.entropy, found.neighbour_entropy, ".", ms=4, color=style.COLOURS[0], alpha=0.6)
    right.set(xlabel="mean $H_{pos}$ (bits)", ylabel=f"mean of its {found.k} nearest (bits)")
    right.set_title(said(near), fontsize=8.5)
    figure.suptitle(title or "Do latents with like directions look back equally far?", fontsize=9)
    figure.supxlabel(
        "dashed: central 95 % of the null; neighbours by |cosine| among these latents",
        fontsize=6.5,
        color="0.35",
    )
    style.save(figure, path, pairs)
