"""Lengths: the share of documents that have at most a number of tokens."""

from pathlib import Path

from saekit.core.result import Table
from saekit.report import style
from saekit.studies.corpus.measure import Measured


def table(found: Measured) -> Table:
    """Return a row a corpus and document, from the shortest to the longest."""
    columns: dict[str, list] = {"corpus": [], "tokens": [], "share": []}
    for name, one in found.texts.items():
        lengths = sorted(map(len, one.ids))
        columns["corpus"] += [name] * len(lengths)
        columns["tokens"] += lengths
        columns["share"] += [(i + 1) / len(lengths) for i in range(len(lengths))]
    return Table(columns=columns, units={"share": "of documents"})


def draw(found: Measured, path: Path) -> None:
    """Draw the distribution of lengths, a line a corpus.

    Raises:
        ConfigError: `path` has another suffix than those of a figure.
        MissingExtraError: matplotlib is not installed.
    """
    drawn = table(found)
    figure, axes = style.new(5.2, 3.6)
    rows = drawn.rows()
    for i, name in enumerate(found.texts):
        mine = [row for row in rows if row["corpus"] == name]
        colour = style.COLOURS[i % len(style.COLOURS)]
        x, y = [row["tokens"] for row in mine], [row["share"] for row in mine]
        axes[0][0].step(x, y, where="post", color=colour, label=name)
    axes[0][0].set(xlabel="tokens of a document", ylabel="share of documents up to it", ylim=(0, 1))
    axes[0][0].set_xscale("symlog", linthresh=10)
    axes[0][0].set_xlim(left=0)
    axes[0][0].legend(fontsize=8)
    style.save(figure, path, drawn)
