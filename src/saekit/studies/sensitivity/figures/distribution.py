"""Distribution: how many latents fire on which share of their new texts."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from saekit.core.result import Table
from saekit.report import style

N_BINS = 11  # each around a share that ten texts can have: 0, 0.1, ... 1


def table(runs: Mapping[str, Table]) -> Table:
    """Return a row a bin: its ends, and the share of each run's latents that lie in it.

    Latents without a usable new text are left out; bins hold their lower end, the last both.

    Args:
        runs: tables of latents by name of the run.
    """
    edges = (np.arange(N_BINS + 1) - 0.5) / (N_BINS - 1)
    columns: dict[str, list[Any]] = {"low": edges[:-1].tolist(), "high": edges[1:].tolist()}
    for name, one in runs.items():
        shares = [v for v in one.columns["generated_sensitivity"] if v is not None]
        # 0.15 is not quite 0.15 in double precision, and would fall to either side by chance.
        counts, _ = np.histogram(np.round(shares, 9), np.round(edges, 9))
        columns[_column(name)] = (counts / max(len(shares), 1)).tolist()
    units = {"low": "share of texts", "high": "share of texts"}
    return Table(
        columns=columns, units=units | dict.fromkeys(map(_column, runs), "share of latents")
    )


def draw(runs: Mapping[str, Table], path: Path) -> None:
    """Draw the share of latents in each bin, a line a run.

    Raises:
        ConfigError: `path` has another suffix than those of a figure.
        MissingExtraError: matplotlib is not installed.
    """
    drawn = table(runs)
    figure, axes = style.new(4.6, 3.4)
    at = axes[0][0]
    edges = [*drawn.columns["low"], drawn.columns["high"][-1]]
    for i, (name, one) in enumerate(runs.items()):
        n = sum(v is not None for v in one.columns["generated_sensitivity"])
        at.stairs(
            drawn.columns[_column(name)],
            edges,
            color=style.COLOURS[i % len(style.COLOURS)],
            linewidth=1.6,
            label=f"{name} ({n} latents)",
        )
    at.set(
        xlabel="fires on new texts (share of texts)", ylabel="share of latents", xlim=(-0.06, 1.06)
    )
    at.set_ylim(bottom=0)
    figure.legend(*at.get_legend_handles_labels(), fontsize=8, loc="outside upper left")
    style.save(figure, path, drawn)


def _column(run: str) -> str:
    """Return what the column of a run is called: a folder may be called as a column is."""
    return f"{run}, latents"
