"""Figure: every score of a suite as a dot with its interval, floors as ticks, for a paper."""

from pathlib import Path
from typing import Any

from saekit.core.errors import ConfigError
from saekit.core.result import Table
from saekit.report import style

COLUMNS, WIDTH = 3, 3.4  # panels in a row, inches of each


def draw(rows: Table, path: Path) -> Path:
    """Draw a panel for each score and write the numbers next to it as CSV.

    Args:
        rows: of a suite.
        path: of the figure.

    Raises:
        ConfigError: `path` has another suffix than those of a figure, or no score has a value.
        MissingExtraError: matplotlib is not installed.
    """
    known = [row for row in rows.rows() if row["value"] is not None]
    if not known:
        raise ConfigError("No score of this suite has a value, so there is nothing to draw.")
    panels = list(dict.fromkeys((row["eval"], row["score"]) for row in known))
    floors = [name for name in rows.columns if name.startswith("floor_")]
    each = [[r for r in known if (r["eval"], r["score"]) == panel] for panel in panels]
    down, most = -(-len(panels) // COLUMNS), max(map(len, each))
    wide = min(len(panels), COLUMNS)
    size = wide * WIDTH, down * (1.1 + 0.22 * most)
    figure, axes = style.new(*size, rows=down, columns=wide)
    for at, panel, mine in zip(axes.flat, panels, each, strict=False):
        _panel(at, mine, floors)
        at.set_title(f"{panel[0]}: {panel[1]}", fontsize=7)
        at.set_xlabel(style.with_better(mine[0]["unit"], mine[0]["better"]), fontsize=6)
    for at in list(axes.flat)[len(panels) :]:
        at.set_axis_off()
    marks, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(marks, labels, loc="outside lower center", ncols=5, frameon=False, fontsize=7)
    style.save(figure, path, rows)
    return path


def _panel(at: Any, rows: list[dict[str, Any]], floors: list[str]) -> None:
    """Draw the SAEs of one score, the first at the top."""
    places = list(range(len(rows)))
    at.plot(
        [r["value"] for r in rows], places, "o", markersize=4, color=style.COLOURS[0], label="SAE"
    )
    ends = [(r["low"], r["high"], y) for y, r in enumerate(rows) if r["low"] is not None]
    at.hlines(
        [y for *_, y in ends],
        [a for a, _, _ in ends],
        [b for _, b, _ in ends],
        color=style.COLOURS[0],
        linewidth=1,
    )
    for name, colour in zip(floors, style.COLOURS[1:], strict=False):
        there = [(r[name], y) for y, r in enumerate(rows) if r[name] is not None]
        label = name.removeprefix("floor_")
        at.plot(
            [x for x, _ in there],
            [y for _, y in there],
            "|",
            markersize=10,
            color=colour,
            label=label,
        )
    drawn = {r[one] for r in rows for one in ("value", "low", "high", *floors)} - {None}
    if len(drawn) == 1:  # an axis of its own would end at shares below 0
        at.set_xticks([*drawn])
    at.set_yticks(places, [r["sae"] for r in rows])
    at.set_ylim(len(rows) - 0.5, -0.5)
    at.tick_params(labelsize=6)
