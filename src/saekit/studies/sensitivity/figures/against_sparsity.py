"""Sensitivity of several SAEs against how many latents are on at a token, and against width."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from saekit.core.result import Result, Table
from saekit.report import style

AXES = {"l0": "L0 (latents/token)", "d_sae": "latents of the SAE"}
STEP = 0.04  # between points at one place, as a part of the axis


def table(results: Mapping[str, Result]) -> Table:
    """Return a row a run: L0, latents of the SAE, and its sensitivity with the interval.

    Args:
        results: by name of the run.
    """
    names = ("run", "l0", "d_sae", "sensitivity", "low", "high", "latents", "kept")
    columns: dict[str, list] = {name: [] for name in names}
    for name, result in results.items():
        score, details = result.scores["sensitivity"], result.details
        kept = result.scores["kept"].value
        line = (name, details["l0"], details["d_sae"], score.value, score.low, score.high)
        for key, value in zip(names, (*line, score.n, kept), strict=True):
            columns[key].append(value)
    return Table(columns=columns, units={"l0": "latents/token", "sensitivity": "share of texts"})


def draw(results: Mapping[str, Result], path: Path) -> None:
    """Draw a point a run with its 95 % interval, against L0 and against the number of latents.

    The axis of shares goes from 0 to 1. Points at one place of an axis are drawn side by side.

    Raises:
        ConfigError: `path` has another suffix than those of a figure.
        MissingExtraError: matplotlib is not installed.
    """
    drawn = table(results)
    rows = [row for row in drawn.rows() if row["sensitivity"] is not None]
    figure, axes = style.new(7.6, 3.6, columns=2, sharey=True)
    for at, (column, label) in zip(axes[0], AXES.items(), strict=True):
        places = side_by_side([row[column] for row in rows])
        for i, (row, x) in enumerate(zip(rows, places, strict=True)):
            y = row["sensitivity"]
            spread = [[max(y - row["low"], 0.0)], [max(row["high"] - y, 0.0)]]
            colour, marker = (
                style.COLOURS[i % len(style.COLOURS)],
                style.MARKERS[i % len(style.MARKERS)],
            )
            at.errorbar(x, y, yerr=spread, fmt=marker, color=colour, label=row["run"], capsize=3)
        at.set(ylim=(0, 1.03), xlabel=label)
        _logarithmic(at, [row[column] for row in rows])
    axes[0][0].set_ylabel("sensitivity (share of texts)")
    if rows:
        figure.legend(
            *axes[0][0].get_legend_handles_labels(), fontsize=8, loc="outside right upper"
        )
    style.save(figure, path, drawn)


def side_by_side(values: Sequence[float]) -> list[float]:
    """Return places on a logarithmic axis, those of equal values next to each other."""
    if not values:
        return []
    step = max(max(values) / min(values), 2.0) ** STEP
    found = []
    for i, value in enumerate(values):
        alike = [j for j, other in enumerate(values) if 1 / step < other / value < step]
        found.append(value * step ** (alike.index(i) - (len(alike) - 1) / 2))
    return found


def _logarithmic(at: Any, values: Sequence[float]) -> None:
    """Make the axis logarithmic, with a tick at each value that has room for its number."""
    at.set_xscale("log", base=2)
    if not values:
        return
    ticks: list[float] = []
    for value in sorted(set(values)):
        if not ticks or value / ticks[-1] > (max(values) / min(values)) ** 0.12:
            ticks.append(value)
    at.set_xticks(ticks, [f"{value:,.4g}" if value < 1000 else f"{value:,}" for value in ticks])
    at.minorticks_off()
    at.set_xlim(min(values) / 1.5, max(values) * 1.5)
