"""Comparison: which of several SAEs is better, of `saekit compare`."""

from pathlib import Path
from typing import Any, ClassVar, final

from typing_extensions import override

from saekit.core.files import read_object
from saekit.core.result import Table
from saekit.report import blocks
from saekit.report.blocks import Block
from saekit.report.pages.base import Page, only, registry

FILE = "comparison.json"
PAIRS = {
    "a": "A",
    "b": "B",
    "metric": "score",
    "at": "compared at",
    "value_a": "of A",
    "value_b": "of B",
    "difference": "A − B",
    "low": "low",
    "high": "high",
    "relative": "relative",
    "p_holm": "p (Holm)",
    "least": "least difference told",
    "verdict": "verdict",
    "words": "in words",
}
SAID = {
    "low": "lower end of the 95 % interval of the difference",
    "high": "upper end of it",
    "relative": "the difference as a share of both scores' mean",
    "p_holm": "chance of such a difference between equals, over all rows of this table",
    "least": "smallest difference that this text and these seeds could have told from 0",
}


@final
@registry.register
class ComparisonPage(Page):
    """Differences between SAEs on the same tokens, with verdicts."""

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
        reasons = dict.fromkeys(row["reason"] for row in rows if row["reason"])
        notes = [*reasons, *made["provenance"].get("notes", [])]
        told = [f"{row['metric']}: {row['a']} against {row['b']}" for row in rows]
        verdicts = [blocks.fact(one, row["verdict"]) for one, row in zip(told, rows, strict=True)]
        shown = [
            blocks.facts(verdicts, title="Verdicts", source=source),
            blocks.table(
                pairs, names=only(pairs, PAIRS), said=SAID, title="Differences", source=source
            ),
        ]
        shown += [blocks.text(note[0].upper() + note[1:] + ".") for note in notes]
        for metric in dict.fromkeys(pairs.columns["metric"]):
            shown.append(_over_l0(saes, metric, source))
        names = {name: name.replace("_", " ") for name in saes.columns}
        shown.append(blocks.table(saes, names=names, title="SAEs", source=source))
        return shown


def _over_l0(saes: Table, metric: str, source: str) -> Block:
    """Return a line for each group: its SAEs' scores against their L0."""
    rows: list[dict[str, Any]] = [r for r in saes.rows() if None not in (r["l0"], r[metric])]
    rows.sort(key=lambda row: row["l0"])
    drawn = []
    for group in dict.fromkeys(saes.columns["group"]):
        mine = [row for row in rows if row["group"] == group]
        x, y = [row["l0"] for row in mine], [row[metric] for row in mine]
        ends = [[row[f"{metric}_{end}"] for row in mine] for end in ("low", "high")]
        drawn.append(blocks.series(group, x, y, *ends))
    axes = {"x": {"label": "L0 (latents/token)", "log": True}, "y": {"label": metric}}
    return blocks.lines(
        drawn, x=axes["x"], y=axes["y"], title=f"{metric} against L0", source=source
    )  # type: ignore[arg-type]
