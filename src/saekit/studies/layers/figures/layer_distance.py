"""Layer distance: cosine of two latents' directions against the distance of their layers."""

import math
from pathlib import Path

import torch

from saekit.core.result import Table
from saekit.report import style
from saekit.studies.layers.geometry import PairHistogram

SHOWN = 1e-5  # share of pairs beyond either end of the axis of cosines; the CSV has all


def draw(found: PairHistogram, path: Path, title: str = "") -> None:
    """Draw pairs of latents, each distance scaled to its own largest bin, and mean cosines.

    Raises:
        ConfigError: `path` has another suffix than those of a figure.
        MissingExtraError: matplotlib is not installed.
    """
    counts = found.counts.double()
    share = counts / counts.amax(1, keepdim=True).clamp_min(1)
    below = counts.sum(0).cumsum(0) / counts.sum().clamp_min(1)
    used = ((below > SHOWN) & (below < 1 - SHOWN)).nonzero()[:, 0]
    used = used if len(used) else (counts.sum(0) > 0).nonzero()[:, 0]
    edges = found.cosine_edges
    if not len(used):
        used = torch.arange(len(edges) - 1)
    bottom, top = float(edges[used[0]]), float(edges[used[-1] + 1])
    figure, axes = style.new(6.4, 3.4)
    at = axes[0][0]
    image = at.pcolormesh(found.distance_edges.tolist(), edges.tolist(), share.t().numpy(),
                          cmap="magma_r", rasterized=True)  # fmt: skip
    middle = ((found.distance_edges[1:] + found.distance_edges[:-1]) / 2).tolist()
    at.plot(middle, found.mean.tolist(), color=style.COLOURS[5], linewidth=1.5, label="mean")
    at.set(title=title, ylim=(max(bottom, -1), min(top, 1)),
           xlabel="distance of mean layers", ylabel="cosine of directions")  # fmt: skip
    n = int(counts.sum())
    at.legend(title=f"n = {n:,} pairs of {found.n_latents:,} latents", fontsize=8,
              title_fontsize=8, loc="upper right")  # "best" is slow beside a mesh  # fmt: skip
    figure.colorbar(image, ax=at, label="pairs, of the fullest bin at this distance")
    style.save(figure, path, _pairs(found))
    _means(found).write_csv(path.with_name(path.stem + "_mean.csv"))


def _pairs(found: PairHistogram) -> Table:
    d, c = found.counts.nonzero(as_tuple=True)
    return Table(
        columns={
            "distance_from": found.distance_edges[d].tolist(),
            "distance_to": found.distance_edges[d + 1].tolist(),
            "cosine_from": found.cosine_edges[c].tolist(),
            "cosine_to": found.cosine_edges[c + 1].tolist(),
            "pairs": found.counts[d, c].tolist(),
        }
    )


def _means(found: PairHistogram) -> Table:
    n = found.counts.sum(1).tolist()
    sem = [s / math.sqrt(k) if k else math.nan for s, k in zip(found.std.tolist(), n, strict=True)]
    return Table(
        columns={
            "distance_from": found.distance_edges[:-1].tolist(),
            "distance_to": found.distance_edges[1:].tolist(),
            "pairs": n, "mean": found.mean.tolist(), "std": found.std.tolist(), "sem": sem,
        }
    )  # fmt: skip
