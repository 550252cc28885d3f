"""Thresholds: on how many new texts latents are stronger than a part of their largest."""

from collections.abc import Mapping
from pathlib import Path

import torch

from saekit.core.result import Table
from saekit.core.stats.means import LEAST_UNITS, mean_interval
from saekit.report import style
from saekit.studies.sensitivity.statistics import FRACTIONS


def table(runs: Mapping[str, Table]) -> Table:
    """Return a row a run and threshold: the mean share over latents with its 95 % interval.

    Args:
        runs: tables of latents by name of the run.
    """
    names = ("run", "fraction", "latents", "mean", "low", "high")
    columns: dict[str, list] = {name: [] for name in names}
    for name, one in runs.items():
        for fraction in FRACTIONS:
            column = f"generated_over_{fraction:g}" if fraction else "generated_sensitivity"
            values = [v for v in one.columns[column] if v is not None]
            if not values:
                continue
            low = high = None
            mean = sum(values) / len(values)
            if len(values) >= LEAST_UNITS:
                ends = mean_interval(torch.tensor(values, dtype=torch.float64))
                low, high = ends.low, ends.high
            for key, value in zip(
                names, (name, fraction, len(values), mean, low, high), strict=True
            ):
                columns[key].append(value)
    return Table(columns=columns, units={"mean": "share of texts", "fraction": "of the largest"})


def draw(runs: Mapping[str, Table], path: Path) -> None:
    """Draw the mean share against the threshold, a line a run, with intervals over latents.

    Raises:
        ConfigError: `path` has another suffix than those of a figure.
        MissingExtraError: matplotlib is not installed.
    """
    drawn = table(runs)
    figure, axes = style.new(5.2, 3.6)
    at = axes[0][0]
    rows = drawn.rows()
    for i, name in enumerate(runs):
        mine = [row for row in rows if row["run"] == name]
        x, y = [row["fraction"] for row in mine], [row["mean"] for row in mine]
        colour = style.COLOURS[i % len(style.COLOURS)]
        at.plot(x, y, marker="o", markersize=4, color=colour, label=name)
        if mine and mine[0]["low"] is not None:
            low, high = ([row[end] for row in mine] for end in ("low", "high"))
            at.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
    at.set(
        ylim=(0, 1.03),
        xlabel="threshold (share of the latent's largest activation)",
        ylabel="new texts above it (mean share)",
    )
    at.legend(fontsize=8)
    style.save(figure, path, drawn)
