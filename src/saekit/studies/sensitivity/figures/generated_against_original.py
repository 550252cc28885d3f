"""Generated against original: does a latent that knows its own examples know new text too?"""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from saekit.core.result import Table
from saekit.report import style

COLUMNS = ("original_sensitivity", "generated_sensitivity", "generated_low", "generated_high")
BESIDE = 0.012  # between runs, of the axis
AREA = 14.0  # of the mark of one latent, points squared


def table(runs: Mapping[str, Table]) -> Table:
    """Return a row a latent: run, latent and its shares; latents without new texts are left out.

    Args:
        runs: tables of latents by name of the run.
    """
    columns: dict[str, list] = {name: [] for name in ("run", "latent", *COLUMNS)}
    for name, one in runs.items():
        for row in one.rows():
            if row["generated_sensitivity"] is None or row["original_sensitivity"] is None:
                continue
            columns["run"].append(name)
            columns["latent"].append(row["feature_index"])
            for column in COLUMNS:
                columns[column].append(row[column])
    return Table(columns=columns, units=dict.fromkeys(COLUMNS, "share of texts"))


def draw(runs: Mapping[str, Table], path: Path) -> None:
    """Draw latents with their 95 % intervals; the dashed line is equal shares.

    A mark is as large as there are latents at its place; runs are a little beside each other.

    Raises:
        ConfigError: `path` has another suffix than those of a figure.
        MissingExtraError: matplotlib is not installed.
    """
    drawn = table(runs)
    figure, axes = style.new(4.6, 4.4)
    at = axes[0][0]
    rows = drawn.rows()
    for i, name in enumerate(runs):
        mine = [row for row in rows if row["run"] == name]
        beside = BESIDE * (i - (len(runs) - 1) / 2)
        places = Counter(tuple(row[column] for column in COLUMNS) for row in mine)
        colour, marker = (
            style.COLOURS[i % len(style.COLOURS)],
            style.MARKERS[i % len(style.MARKERS)],
        )
        at.scatter([], [], s=AREA, color=colour, marker=marker, label=name)  # for the legend
        for (x, y, low, high), n in places.items():
            at.vlines(x + beside, low, high, color=colour, alpha=0.35, linewidth=0.9)
            at.scatter(
                x + beside, y, s=AREA * n, color=colour, marker=marker, alpha=0.75, linewidth=0
            )
    at.plot([0, 1], [0, 1], color=style.COLOURS[6], linestyle="--", linewidth=1)
    at.set(
        xlim=(-0.03, 1.03),
        ylim=(-0.03, 1.03),
        xlabel="fires on its own examples (share of texts)",
        ylabel="fires on new texts (share of texts)",
    )
    figure.legend(*at.get_legend_handles_labels(), fontsize=8, loc="outside upper left")
    style.save(figure, path, drawn)
