"""Cross data: heatmaps of the text an SAE was trained on against the text it is measured on."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from saekit.core.result import Result, Table
from saekit.report import style

METRICS = {"ce_rise": "cross-entropy rise (nats)", "fvu": "FVU", "l0": "latents per token (L0)"}
COLUMNS = ("trained_on", "measured_on", "metric", "value", "low", "high", "n")


def table(results: Mapping[str, Result]) -> Table:
    """Return a row a cell and metric; `own` is where an SAE is measured on its own held-out text.

    Args:
        results: of `cross_data`, by what each SAE was trained on.
    """
    columns: dict[str, list] = {name: [] for name in COLUMNS}
    for trained_on, result in results.items():
        for key, score in result.scores.items():
            text, _, metric = key.rpartition("/")
            line = (trained_on, text, metric, score.value, score.low, score.high, score.n)
            for name, value in zip(COLUMNS, line, strict=True):
                columns[name].append(value)
    return Table(columns=columns)


def draw(
    results: Mapping[str, Result], path: Path, metrics: Sequence[str] = tuple(METRICS)
) -> None:
    """Draw a heatmap a metric, each cell with its value; an empty cell was not measured.

    Raises:
        ConfigError: `path` has another suffix than those of a figure.
        MissingExtraError: matplotlib is not installed.
    """
    drawn = table(results)
    rows = list(results)
    texts = list(dict.fromkeys(drawn.columns["measured_on"]))
    cells = {(r["trained_on"], r["measured_on"], r["metric"]): r["value"] for r in drawn.rows()}
    figure, axes = style.new(
        (1.6 + 0.9 * len(texts)) * len(metrics), 1.6 + 0.55 * len(rows), columns=len(metrics)
    )
    for at, metric in zip(axes[0], metrics, strict=True):
        grid = [[cells.get((row, text, metric)) for text in texts] for row in rows]
        shown = [[float("nan") if v is None else v for v in line] for line in grid]
        at.imshow(shown, cmap="viridis_r", aspect="auto")
        known = [v for line in grid for v in line if v is not None]
        middle = (min(known) + max(known)) / 2 if known else 0.0
        for i, line in enumerate(grid):
            for j, v in enumerate(line):
                if v is not None:
                    colour = "white" if v > middle else "black"
                    at.text(j, i, f"{v:.3g}", ha="center", va="center", color=colour, fontsize=8)
        at.set_title(METRICS.get(metric, metric), fontsize=9)
        said = ["own held-out" if text == "own" else text for text in texts]
        at.set_xticks(range(len(texts)), said, rotation=30, ha="right", fontsize=8)
        at.set_yticks(range(len(rows)), rows if at is axes[0][0] else [""] * len(rows), fontsize=8)
        at.set_xlabel("measured on")
    axes[0][0].set_ylabel("SAE")
    style.save(figure, path, drawn)
