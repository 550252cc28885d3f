"""Comparison: which of several SAEs is better, of `saekit compare`."""

from pathlib import Path
from typing import Any, ClassVar, final

from typing_extensions import override

from saekit.core.files import read_object
from saekit.core.result import Table
from saekit.report import blocks, l0_figure
from saekit.report.blocks import Block
from saekit.report.pages.base import Page, registry

FILE = "comparison.json"
PAIRS = {
    "a": "A",
    "b": "B",
    "said": "score",
    "at": "compared at",
    "value_a": "of A",
    "value_b": "of B",
    "difference": "A − B",
    "interval": "95 % interval",
    "relative": "relative",
    "p_holm": "p (Holm)",
    "least": "least difference told",
    "verdict": "verdict",
}
SAID = {
    "interval": "of the difference",
    "relative": "the difference as a share of both scores' mean",
    "p_holm": "chance of such a difference between equals, over all rows of this table",
    "least": "smallest difference that this text and these seeds could have told from 0",
}
OF_SAES = {"sae": "SAE", "group": "group", "seed": "seed", "l0": "L0"}
ALONE = "Of each SAE by itself. Intervals that overlap do not mean equal: all are of the same text."


@final
@registry.register
class ComparisonPage(Page):
    """Differences between SAEs on the same tokens, with verdicts, of `saekit compare`."""

    name: ClassVar[str] = "comparison"
    title: ClassVar[str] = "Comparison"
    about: ClassVar[str] = "Which of several SAEs is better on the same tokens, and how sure."

    @override
    def find(self, folder: Path) -> bool:
        return (folder / FILE).is_file()

    @override
    def blocks(self, folder: Path) -> list[Block]:
        made = read_object(folder / FILE)
        pairs, saes = Table(columns=made["pairs"]), Table(columns=made["saes"])
        source = f"{folder.name}/{FILE}; saekit compare"
        rows = pairs.rows()
        reasons = dict.fromkeys(
            row["reason"] for row in rows if row["reason"] not in (row.get("words") or "")
        )  # an empty one is in every text
        notes = [*reasons, *made["provenance"].get("notes", [])]
        metrics = list(dict.fromkeys(pairs.columns["metric"]))
        verdicts = [
            blocks.fact(
                f"{l0_figure.label(row['metric'])}: {row['a']} against {row['b']}",
                row.get("words") or row["verdict"],
            )
            for row in rows
        ]
        columns = pairs.columns | {"interval": _intervals(rows, "low", "high")}
        columns["said"] = [l0_figure.label(name) for name in pairs.columns["metric"]]
        shown = [
            blocks.facts(verdicts, title="Verdicts", source=source),
            blocks.filled(Table(columns=columns), PAIRS, SAID, title="Differences", source=source),
        ]
        shown += [blocks.text(note[0].upper() + note[1:] + ".") for note in notes]
        shown += [_drawn(saes, metric, source) for metric in metrics]
        return [*shown, _saes(saes, metrics, source)]


def _intervals(rows: list[dict[str, Any]], low: str, high: str) -> list[str | None]:
    return [
        None if row[low] is None else f"{row[low]:.3g} to {row[high]:.3g}".replace("-", "−")
        for row in rows
    ]


def _drawn(saes: Table, metric: str, source: str) -> Block:
    """Return a line for each group over L0; where none has a second L0, a dot for each SAE."""
    groups = list(dict.fromkeys(saes.columns["group"]))
    curves = {group: l0_figure.curve(saes, group, metric) for group in groups}
    label, unit = l0_figure.label(metric), l0_figure.unit(metric)
    if all(len(curve) < 2 for curve in curves.values()):  # noqa: PLR2004 - a line has two points
        rows = saes.rows()
        ends = [(row[f"{metric}_low"], row[f"{metric}_high"]) for row in rows]
        names = [str(row["sae"]) for row in rows]
        values = [row[metric] for row in rows]
        return blocks.dots(names, values, ends, unit=unit, title=label, about=ALONE, source=source)
    drawn = []
    for group, points in curves.items():
        x, y, ends = zip(*points, strict=True) if points else ((), (), ())
        known = [end or (None, None) for end in ends]
        drawn.append(blocks.series(group, x, y, *([e[i] for e in known] for i in (0, 1))))
    return blocks.lines(
        drawn,
        x={"label": "L0 (latents/token)", "log": True},
        y={"label": f"{label}, {unit}"},
        title=f"{label} against L0",
        about="Seeds of one setting are a point: their mean.",
        source=source,
    )


def _saes(saes: Table, metrics: list[str], source: str) -> Block:
    """Return the scores of each SAE with their intervals, and which no other SAE beats."""
    rows, columns, names, said = saes.rows(), dict(saes.columns), dict(OF_SAES), {}
    if saes.columns["group"] == saes.columns["sae"]:
        names.pop("group")
    for metric in metrics:
        columns[f"{metric}_ends"] = _intervals(rows, f"{metric}_low", f"{metric}_high")
        names |= {metric: l0_figure.label(metric), f"{metric}_ends": "95 % interval"}
        if f"front_{metric}" not in columns:
            continue
        columns[f"front_{metric}"] = ["yes" if row[f"front_{metric}"] else "" for row in rows]
        names |= {f"front_{metric}": "on the front", f"front_share_{metric}": "in other texts"}
        said |= {
            f"front_{metric}": "no other SAE here is better with as many latents on or fewer",
            f"front_share_{metric}": "share of resampled texts in which it is on the front",
        }
    return blocks.filled(Table(columns=columns), names, said, title="SAEs", source=source)
