"""Token frequencies: shares of tokens by rank."""

from pathlib import Path

from saekit.core.result import Table
from saekit.report import style
from saekit.studies.corpus import statistics
from saekit.studies.corpus.measure import Measured

_MOST = 2000  # ranks in the table of each, evenly on the logarithmic axis


def table(found: Measured) -> Table:
    """Return a row a corpus and rank."""
    columns: dict[str, list] = {"corpus": [], "rank": [], "share": []}
    for name, one in found.texts.items():
        counts = one.counts.sum(0)
        ranked = statistics.shares(counts[counts > 0].sort(descending=True).values).tolist()
        n = len(ranked)
        ranks = sorted({round(n ** (i / _MOST)) for i in range(_MOST + 1)})
        columns["corpus"] += [name] * len(ranks)
        columns["rank"] += ranks
        columns["share"] += [ranked[r - 1] for r in ranks]
    return Table(columns=columns, units={"share": "of tokens"})


def draw(found: Measured, path: Path) -> None:
    """Draw share against rank, both logarithmic, a line a corpus.

    Raises:
        ConfigError: `path` has another suffix than those of a figure.
        MissingExtraError: matplotlib is not installed.
    """
    drawn = table(found)
    figure, axes = style.new(5.2, 3.8)
    rows = drawn.rows()
    for i, name in enumerate(found.texts):
        mine = [row for row in rows if row["corpus"] == name]
        colour = style.COLOURS[i % len(style.COLOURS)]
        x, y = [row["rank"] for row in mine], [row["share"] for row in mine]
        axes[0][0].loglog(x, y, color=colour, label=name)
    axes[0][0].set(xlabel="rank of the token", ylabel="share of tokens")
    axes[0][0].legend(fontsize=8)
    style.save(figure, path, drawn)
