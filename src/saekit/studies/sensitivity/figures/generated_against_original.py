"""Generated against original: does a latent that knows its own examples know new text too?"""

from collections.abc import Mapping
from pathlib import Path

from saekit.core.result import Table
from saekit.report import style

COLUMNS = ("original_sensitivity", "generated_sensitivity", "generated_low", "generated_high")


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
    """Draw a point a latent with its 95 % interval; the dashed line is equal shares.

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
        x, y, low, high = ([row[column] for row in mine] for column in COLUMNS)
        down = [max(a - b, 0.0) for a, b in zip(y, low, strict=True)]
        up = [max(b - a, 0.0) for a, b in zip(y, high, strict=True)]
        colour = style.COLOURS[i % len(style.COLOURS)]
        at.errorbar(
            x, y, yerr=[down, up], fmt="o", markersize=4, linewidth=0.7, color=colour,
            ecolor=(*_rgb(colour), 0.35), label=name,
        )  # fmt: skip
    at.plot([0, 1], [0, 1], color=style.COLOURS[6], linestyle="--", linewidth=1)
    at.set(
        xlim=(-0.03, 1.03),
        ylim=(-0.03, 1.03),
        xlabel="fires on its own examples (share of texts)",
        ylabel="fires on new texts (share of texts)",
    )
    at.legend(fontsize=8, loc="upper left")
    style.save(figure, path, drawn)


def _rgb(colour: str) -> tuple[float, float, float]:
    red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return red, green, blue
