"""Curves: TPP and SCR by the number of latents that are taken out, with floors."""

import re
from collections.abc import Mapping
from pathlib import Path

from saekit.core.errors import DataError
from saekit.core.result import Result, Table
from saekit.report import style

COLUMNS = ("sae", "evaluation", "task", "of", "latents", "value", "low", "high", "n")
FLOORS = {"random": ":", "untrained": "--", "pca": "-."}
SAID = {"random": "random latents", "untrained": "untrained SAE", "pca": "principal components"}
_NAME = re.compile(
    r"(?P<task>.+)/(?P<way>first_|second_|)(?P<of>random_|untrained_|pca_|)"
    r"(?P<evaluation>tpp|scr)_(?P<latents>\d+)"
)


def table(results: Mapping[str, list[Result]]) -> Table:
    """Return a row for each SAE, task, dictionary and number of latents.

    Args:
        results: of `tpp` and `scr`, by name of the SAE.
    """
    columns: dict[str, list] = {name: [] for name in COLUMNS}
    for sae, several in results.items():
        for key, score in ((k, s) for one in several for k, s in one.scores.items()):
            if (found := _NAME.fullmatch(key)) is None:
                continue
            way = found["way"].rstrip("_")
            task = f"{found['task']}, {way} wanted" if way else found["task"]
            row = (
                sae,
                found["evaluation"],
                task,
                found["of"].rstrip("_") or "sae",
                int(found["latents"]),
                score.value,
                score.low,
                score.high,
                score.n,
            )
            for name, value in zip(COLUMNS, row, strict=True):
                columns[name].append(value)
    return Table(columns=columns)


def draw(results: Mapping[str, list[Result]], path: Path) -> None:
    """Draw a panel for each task: a line an SAE with its interval, and floors of the first SAE.

    What is undefined is not drawn; it stands in the CSV without a value.

    Raises:
        DataError: all of it is undefined.
        ConfigError: `path` has another suffix than those of a figure.
        MissingExtraError: matplotlib is not installed.
    """
    drawn = table(results)
    rows = [r for r in drawn.rows() if r["value"] is not None]
    panels = list(dict.fromkeys((r["evaluation"], r["task"]) for r in rows))
    if not panels:
        raise DataError(
            "Every score of these results is undefined, so there is nothing to draw; `saekit eval` "
            "prints why. Take other tasks, or more texts."
        )
    figure, axes = style.new(3.6 * len(panels) + 1.6, 3.2, 1, len(panels))
    first = next(iter(results), None)
    for at, panel in zip(axes[0], panels, strict=False):
        mine = [r for r in rows if (r["evaluation"], r["task"]) == panel]
        for i, sae in enumerate(results):
            line = [r for r in mine if r["sae"] == sae and r["of"] == "sae"]
            colour, x = style.COLOURS[i % len(style.COLOURS)], [r["latents"] for r in line]
            at.plot(x, [r["value"] for r in line], "o-", color=colour, markersize=3, label=sae)
            sure = [r for r in line if r["low"] is not None]
            at.fill_between(
                [r["latents"] for r in sure],
                [r["low"] for r in sure],
                [r["high"] for r in sure],
                color=colour,
                alpha=0.15,
                linewidth=0,
            )
        for floor, dashes in FLOORS.items():
            line = [r for r in mine if r["sae"] == first and r["of"] == floor]
            at.plot(
                [r["latents"] for r in line],
                [r["value"] for r in line],
                dashes,
                color="black",
                linewidth=1,
                label=SAID[floor],
            )
        unit = "fall of own probe less others'" if panel[0] == "tpp" else "share of bias removed"
        at.set(xscale="log", xlabel="latents taken out", ylabel=unit)
        at.set_title(f"{panel[0].upper()}: {panel[1]}", fontsize=8)
    axes[0][-1].legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    style.save(figure, path, drawn)
