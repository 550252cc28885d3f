"""Figure: scores of groups of SAEs against their L0, with intervals, for a paper."""

from pathlib import Path

from saekit.core.result import Table
from saekit.report import style


def draw(saes: Table, metrics: list[str], path: Path) -> Path:
    """Draw a panel for each score and write the numbers next to it as CSV.

    Args:
        saes: a row an SAE: `group`, `l0`, and each score with its ends.
        metrics: the scores.
        path: of the figure.

    Raises:
        ConfigError: `path` has another suffix than those of a figure.
        MissingExtraError: matplotlib is not installed.
    """
    figure, axes = style.new(3.4 * len(metrics), 3.0, columns=len(metrics))
    groups = list(dict.fromkeys(saes.columns["group"]))
    for at, metric in zip(axes[0], metrics, strict=True):
        for group, colour in zip(groups, _colours(len(groups)), strict=True):
            rows = [r for r in saes.rows() if r["group"] == group and r[metric] is not None]
            rows.sort(key=lambda row: row["l0"])
            x, y = [row["l0"] for row in rows], [row[metric] for row in rows]
            at.plot(x, y, marker="o", markersize=3, color=colour, label=group)
            known = [r for r in rows if r[f"{metric}_low"] is not None]
            at.vlines(
                [r["l0"] for r in known],
                [r[f"{metric}_low"] for r in known],
                [r[f"{metric}_high"] for r in known],
                color=colour,
                linewidth=1,
            )
        at.set(xscale="log", xlabel="L0 (latents/token)", ylabel=metric.replace("_", " "))
    axes[0][0].legend(frameon=False, fontsize=7)
    style.save(figure, path, saes)
    return path


def _colours(n: int) -> list[str]:
    return [style.COLOURS[i % len(style.COLOURS)] for i in range(n)]
