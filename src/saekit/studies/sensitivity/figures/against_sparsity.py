"""Sensitivity of several SAEs against how many latents are on at a token."""

from collections.abc import Mapping
from pathlib import Path

from saekit.core.result import Result, Table
from saekit.report import style


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
    """Draw a point a run with its 95 % interval; the axis of shares goes from 0 to 1.

    Raises:
        ConfigError: `path` has another suffix than those of a figure.
        MissingExtraError: matplotlib is not installed.
    """
    drawn = table(results)
    figure, axes = style.new(5.2, 3.6)
    at = axes[0][0]
    for i, row in enumerate(drawn.rows()):
        if row["sensitivity"] is None:
            continue
        y = row["sensitivity"]
        spread = [[max(y - row["low"], 0.0)], [max(row["high"] - y, 0.0)]]
        colour = style.COLOURS[i % len(style.COLOURS)]
        at.errorbar(row["l0"], y, yerr=spread, fmt="o", color=colour, label=row["run"])
    at.set(ylim=(0, 1.03), xlabel="L0 (latents/token)", ylabel="sensitivity (share of texts)")
    at.set_xscale("log")
    if at.get_legend_handles_labels()[0]:
        at.legend(fontsize=8)
    style.save(figure, path, drawn)
