"""Layer distance: cosine of two latents' directions against the distance of their layers."""

from pathlib import Path

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
    bottom, top = found.shown_cosines(SHOWN)
    figure, axes = style.new(6.4, 3.4)
    at = axes[0][0]
    image = at.pcolormesh(
        found.distance_edges.tolist(),
        found.cosine_edges.tolist(),
        found.fullness().t().numpy(),
        cmap="magma_r",
        rasterized=True,
    )
    at.plot(
        found.middles().tolist(),
        found.mean.tolist(),
        color=style.COLOURS[5],
        linewidth=1.5,
        label="mean",
    )
    at.set(
        title=title,
        ylim=(max(bottom, -1), min(top, 1)),
        xlabel="distance of mean layers",
        ylabel="cosine of directions",
    )
    n = int(found.counts.sum())
    at.legend(
        title=f"n = {n:,} pairs of {found.n_latents:,} latents",
        fontsize=8,
        title_fontsize=8,
        loc="upper right",
    )  # "best" is slow beside a mesh
    figure.colorbar(image, ax=at, label="pairs, of the fullest bin at this distance")
    style.save(figure, path, _pairs(found))
    found.means().write_csv(path.with_name(path.stem + "_mean.csv"))


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
