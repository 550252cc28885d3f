"""Figure: scores of groups of SAEs against their L0, with intervals, for a paper."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from saekit.core.result import Table
from saekit.report import style
from saekit.report.definitions import definitions

MOST_TICKS = 5
ASIDE = 1.03  # times the L0 of the group before: groups of one L0 are drawn next to each other
LEAST_SPAN = 0.05  # of the scores, that an axis shows at least: what is nearly equal looks so
Point = tuple[float, float, tuple[float, float] | None]  # L0, score, interval


def label(metric: str) -> str:
    """Return what a score is called in words; one that is no longer known by its name."""
    found = str(definitions().get(metric, {}).get("label") or metric)
    return found.removesuffix(" (nats)").removesuffix(" (share)")


def unit(metric: str) -> str:
    """Return the unit of a score and which end is better."""
    found = definitions().get(metric)
    if found is None:
        return ""
    return style.with_better(str(found.get("unit", "")), str(found.get("better", "neither")))


def curve(saes: Table, group: str, metric: str) -> list[Point]:
    """Return the points of a group by L0: the mean of SAEs that differ in the seed alone.

    The interval of a mean over seeds is not that of one SAE, so it has none.

    Args:
        saes: a row an SAE: `group`, `l0`, each score with its ends, and `point`, which is alike for
            SAEs that are averaged (in tables of earlier versions it is not there).
        group: which.
        metric: the score.
    """
    points: dict[Any, list[dict[str, Any]]] = {}
    for place, row in enumerate(saes.rows()):
        if row["group"] == group and None not in (row["l0"], row[metric]):
            points.setdefault(row.get("point", place), []).append(row)
    found: list[Point] = []
    for rows in points.values():
        l0, score = (sum(row[name] for row in rows) / len(rows) for name in ("l0", metric))
        ends = [(row[f"{metric}_low"], row[f"{metric}_high"]) for row in rows]
        alone = len(rows) == 1 and ends[0][0] is not None
        found.append((l0, score, ends[0] if alone else None))
    return sorted(found, key=lambda one: one[0])


def draw(saes: Table, metrics: list[str], path: Path) -> Path:
    """Draw a panel for each score and write the numbers next to it as CSV.

    Args:
        saes: as `curve` takes them.
        metrics: the scores.
        path: of the figure.

    Raises:
        ConfigError: `path` has another suffix than those of a figure.
        MissingExtraError: matplotlib is not installed.
    """
    figure, axes = style.new(3.4 * len(metrics), 3.2, columns=len(metrics))
    groups = list(dict.fromkeys(saes.columns["group"]))
    for at, metric in zip(axes[0], metrics, strict=True):
        for i, group in enumerate(groups):
            aside = ASIDE ** (i - (len(groups) - 1) / 2)
            _group(at, saes, (group, metric), (i, aside))
        if not any(v is not None for v in saes.columns[metric]):
            at.text(0.5, 0.5, "undefined", transform=at.transAxes, ha="center")
            at.set_yticks([])
        at.set_title(label(metric), fontsize=9)
        at.set_ylabel(unit(metric), fontsize=8)
        at.set(xscale="log", xlabel="L0 (latents/token)")
        low, high = at.get_ylim()
        middle, reach = (low + high) / 2, (high - low) / 2
        reach = max(reach, LEAST_SPAN / 2 * abs(middle))
        at.set_ylim(middle - reach, middle + reach)
        _plain_ticks(at, [v for v in saes.columns["l0"] if v])
    handles, names = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    style.save(figure, path, saes)
    return path


def _group(at: Any, saes: Table, of: tuple[str, str], place: tuple[int, float]) -> None:
    """Draw the SAEs of a group with their intervals, and a line through the means of seeds.

    Args:
        at: the axes.
        saes: as of `curve`.
        of: the group and the score.
        place: the number of the group, and what its L0 is multiplied by.
    """
    (group, metric), (number, aside) = of, place
    colour = style.COLOURS[number % len(style.COLOURS)]
    mark = style.MARKERS[number % len(style.MARKERS)]
    rows = [r for r in saes.rows() if r["group"] == group and None not in (r["l0"], r[metric])]
    points = curve(saes, group, metric)
    at.plot([aside * p[0] for p in points], [p[1] for p in points], color=colour, linewidth=1)
    at.plot(
        [aside * r["l0"] for r in rows],
        [r[metric] for r in rows],
        mark,
        markersize=4,
        color=colour,
        label=group,
    )
    known = [r for r in rows if r[f"{metric}_low"] is not None]
    at.vlines(
        [aside * r["l0"] for r in known],
        [r[f"{metric}_low"] for r in known],
        [r[f"{metric}_high"] for r in known],
        color=colour,
        linewidth=1,
    )


def _plain_ticks(at: Any, l0: Sequence[float]) -> None:
    """Mark the L0 of some SAEs in plain numbers, where powers of ten would leave one or none."""
    from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

    some = sorted({float(f"{v:.3g}") for v in l0})
    some = some[:: -(-len(some) // MOST_TICKS)] if some else []
    at.xaxis.set_major_locator(FixedLocator(some))
    at.xaxis.set_major_formatter(FixedFormatter([f"{v:g}" for v in some]))
    at.xaxis.set_minor_locator(NullLocator())
    if len(some) == 1:
        at.set_xlim(some[0] / 2, some[0] * 2)
